"""Own networks that are edited under the same name are told apart."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

import toy
from fsdd_jax.algorithms import caching
from fsdd_jax.data import feature_bank
from fsdd_jax.networks import computation, extractors
from fsdd_jax.storage.cache import manifest


def _made(activation, constant=1.0, num_classes=3):
  """As the cell of a notebook makes it: the same name and fields each time."""

  class Own(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
      flat = images.reshape(len(images), -1)
      features = constant * activation(nn.Dense(8)(flat))
      return nn.Dense(self.num_classes)(features), features

  return Own(num_classes)


def test_what_a_network_computes_has_one_name():
  names = [
    computation.digest(network, (8, 8, 3))
    for network in (
      _made(nn.relu),
      _made(nn.relu, num_classes=5),  # Features do not depend on it.
      _made(jnp.sin),
      _made(nn.relu, 2.0),
    )
  ]
  assert names[0] == names[1]
  assert len(set(names)) == 3
  assert computation.digest(toy.problem()[0], (8, 8, 3)) == ''


def test_a_bank_of_the_former_code_is_not_read(tmp_path):
  def bank_of(network):
    source = feature_bank.BankSource(
      network, None, toy.target(), {'seed': 0}, root=tmp_path
    )
    return feature_bank.folder_of(source, 'rows')

  assert bank_of(_made(nn.relu)) == bank_of(_made(nn.relu))
  assert bank_of(_made(nn.relu)) != bank_of(_made(jnp.sin))


def test_a_cache_of_the_former_code_is_not_gone_on_with(tmp_path):
  def build(network):
    caching.build_cache(
      network, toy.target(), config=toy.CACHING, folder=tmp_path / 'cache'
    )

  build(_made(nn.relu))
  build(_made(nn.relu))
  with pytest.raises(ValueError, match=r'network\.computes'):
    build(_made(jnp.sin))
  described = manifest.read_manifest(tmp_path / 'cache').network
  assert described['computes'] == computation.digest(_made(nn.relu), (8, 8, 3))
  own = manifest.facts_of(toy.problem()[0], toy.target(), theta_seed=0)
  assert own['network'] == extractors.describe_network(toy.problem()[0])
