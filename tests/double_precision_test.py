"""JAX_ENABLE_X64 changes no draw and no type, in any stage."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fsdd_jax as fsdd
import toy
from fsdd_jax.algorithms import adaptation_samples, pretraining_banks
from fsdd_jax.algorithms.peers import PEERS, peer_configs

_RCIG = peer_configs.RcigConfig(
  pool_size=2, solver='cg', num_inner_steps=2, platt_learning_rate=0.1
)
_RFAD = peer_configs.RfadConfig(networks_per_step=2, map_learning_rate=1e-3)


def _both(function):
  """What a function gives without and with double precision."""
  found = []
  for x64 in (False, True):
    with jax.enable_x64(x64):
      found.append(jax.device_get(function()))
  return found


def _assert_alike(function, atol):
  single, double = map(jax.tree.leaves, _both(function))
  for a, b in zip(single, double, strict=True):
    assert b.dtype == a.dtype
    np.testing.assert_allclose(a, b, atol=atol)


def test_networks_of_pretraining_are_the_same():
  key = jax.random.key(3)

  def numbers():
    number_of = pretraining_banks.network_numbers(
      key, 2, pool=50, renew_every=7
    )
    return [number_of(step, 1) for step in range(20)]

  single, double = _both(numbers)
  assert single == double


def test_thinned_sets_are_the_same():
  real = toy.target().random_real(jax.random.key(0), ipc=5)
  _assert_alike(
    lambda: adaptation_samples.thin(jax.random.key(1), real, 5, 2), atol=0
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'own'), [('kip', None), ('rcig', _RCIG), ('rfad', _RFAD)]
)
def test_peers_learn_the_same_in_float32(name, own):
  network = toy.problem()[0]
  if name == 'kip':
    if importlib.util.find_spec('neural_tangents') is None:
      pytest.skip('needs the extra kernels')
    fields = {'width': 4, 'depth': 1, 'norm': 'none'}
    network = fsdd.make_network(
      'mlp', image_shape=(8, 8, 3), num_classes=3, **fields
    )
  config = fsdd.DistillationConfig(ipc=2, num_steps=2, real_batch=6)

  def distil():
    found = fsdd.distill_by(
      PEERS[name], network, toy.target(), config=config, own=own
    )
    return found.synthetic, found.seen

  _assert_alike(distil, atol=1e-3)
  assert distil()[0].images.dtype == jnp.float32
