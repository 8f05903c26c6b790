"""NaN and infinity end stages and scores, and are no class 0."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fsdd_jax as fsdd
import toy
from fsdd_jax.algorithms import (
  adaptation,
  baseline,
  bilevel,
  caching,
  pretraining,
  translated_sets,
)
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.algorithms.peers import selection
from fsdd_jax.data import normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate
from fsdd_jax.networks import extractors
from fsdd_jax.runtime import finite
from fsdd_jax.types import labeled_set
from workbench import curves


@pytest.fixture(scope='module')
def real():
  return toy.target().random_real(jax.random.key(0), ipc=2)


def test_bad_leaves_are_named_of_any_type():
  tree = {
    'half': jnp.array([jnp.inf], jnp.bfloat16),
    'host': np.array([np.nan]),
    'key': jax.random.key(0),
    'number': float('nan'),
    'whole': jnp.arange(3),
  }
  names = ["['half']", "['host']", "['number']"]
  assert finite.bad_leaves(tree) == names


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('protocol', ['krr', 'nngp', 'frepo'])
def test_one_bad_pixel_ends_every_protocol(real, protocol, value):
  images = real.images.at[0, 0, 0, 0].set(value)
  network, dataset, transform = toy.problem()
  with pytest.raises(FloatingPointError, match=r'distilled set.*images'):
    evaluate.evaluate(
      jax.random.key(1),
      dataclasses.replace(real, images=images),
      dataset,
      transform,
      network,
      protocol=protocol,
    )


def test_constant_images_have_no_features_under_instance_norm(real):
  _, dataset, transform = toy.problem()
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4
  )
  constant = dataclasses.replace(real, images=jnp.zeros_like(real.images))
  key = jax.random.key(1)
  with pytest.raises(FloatingPointError, match='24 of 24 images'):
    evaluate.evaluate(key, constant, dataset, transform, network)
  # The snapshots of a comparison are scored by the same.
  snapshots = [curves.Snapshot(1.0, 1, constant)]
  with pytest.raises(FloatingPointError, match='24 of 24 images'):
    curves.score(
      key, snapshots, dataset, transform, network, repeats=5, split='test'
    )


def test_one_bad_score_is_counted_once_and_padding_never():
  _, dataset, transform = toy.problem()
  zero = normalization.normalize(np.zeros((1, 8, 8, 3), np.uint8), transform)

  def score(first, images):
    is_padding = (images == zero).all((1, 2, 3))[:, None]
    found = jnp.zeros((len(images), 3)).at[0, 0].set(first)
    return jnp.where(is_padding, jnp.nan, found)

  with pytest.raises(FloatingPointError, match='1 of 24 images'):
    evaluate.accuracy(score, jnp.nan, dataset, transform, batch_size=24)
  part = dataclasses.replace(
    dataset, images=dataset.images[:20], labels=dataset.labels[:20]
  )
  found = evaluate.accuracy(score, 1.0, part, transform, batch_size=16)
  assert found == 100 * 8 / 20  # Padded rows are neither hits nor errors.


@pytest.mark.parametrize('name', ['learning_rate', 'label_learning_rate'])
def test_the_state_after_the_last_step_is_looked_at(tmp_path, name):
  config = fsdd.DistillationConfig(ipc=1, num_steps=1, **{name: float('inf')})
  with pytest.raises(FloatingPointError, match=r'step 1 values of .*synthetic'):
    baseline.distill_over_networks(
      toy.problem()[0],
      toy.target(),
      config=config,
      options=fsdd.LoopOptions(tmp_path),
    )
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_adaptation_ends_by_an_update_that_is_not_finite():
  config = fsdd.AdaptationConfig(
    adapt_ipcs=(1,),
    num_steps=1,
    num_adaptation_steps=1,
    adaptation_learning_rate=float('inf'),
    network_pool=1,
    batch_size=1,
  )
  network, dataset, transform = toy.problem()
  with pytest.raises(FloatingPointError, match='adapt: after step 1'):
    adaptation.adapt(
      network, toy.translator(), TargetSet(dataset, transform), config=config
    )


def test_a_translation_that_overflows_is_no_set():
  start = toy.translator()
  big = jax.tree.map(lambda x: jnp.full_like(x, 1e30), start.variables)
  with pytest.raises(FloatingPointError, match='translated set'):
    translated_sets.distill_dataset(
      dataclasses.replace(start, variables=big),
      toy.target(),
      ipc=1,
      config=fsdd.AdaptationConfig(num_steps=1),
    )


def test_a_cache_of_infinite_images_is_not_written(tmp_path):
  config = dataclasses.replace(toy.CACHING, learning_rate=1e39)
  with pytest.raises(FloatingPointError, match=r'Subsets \[0, 1\] after'):
    caching.build_cache(
      toy.problem()[0], toy.target(), config=config, folder=tmp_path
    )
  assert not list(tmp_path.glob('*.array_record'))


def test_pretraining_and_bilevel_end_as_well(tmp_path):
  network = toy.problem()[0]
  source = toy.build_cache(tmp_path)
  config = fsdd.PretrainingConfig(
    num_steps=1, batch_size=1, learning_rate=float('inf')
  )
  with pytest.raises(FloatingPointError):
    pretraining.pretrain(
      network,
      toy.translator().translator,
      source,
      toy.target(),
      config=config,
    )
  bilevel_config = BilevelConfig(
    **{'min_classes': 2, 'max_classes': 3, 'max_images': 12},
    **{'max_synthetic': 6, 'num_steps': 1, 'num_updates': 1},
    update_rate=float('inf'),
  )
  with pytest.raises(FloatingPointError, match='bi-level: after step 1'):
    bilevel.learn_network(toy.problem()[0], toy.target(), config=bilevel_config)


def test_a_choice_by_features_that_are_not_finite_is_none():
  network, dataset, transform = toy.problem()
  broken = dataclasses.replace(transform, std=jnp.zeros(3))
  with pytest.raises(FloatingPointError, match="class 'red'"):
    selection.select(
      jax.random.key(0),
      network,
      TargetSet(dataset, broken),
      select_fn=selection.herding,
      ipc=1,
    )


def test_repeats_are_a_number_above_0(real):
  network, dataset, transform = toy.problem()
  for repeats in (0, 1.5, True):
    with pytest.raises(ValueError, match='repeats'):
      evaluate.evaluate(
        jax.random.key(1), real, dataset, transform, network, repeats=repeats
      )


def test_a_set_of_finite_values_passes(real):
  finite.check(labeled_set(real.images, real.labels), 'The set', '')
