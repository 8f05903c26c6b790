"""Networks of pre-training that are kept with their features."""

import dataclasses

import jax
import numpy as np
import pytest

from fsdd_jax.algorithms import (
  caching,
  pretraining_banks,
  pretraining_samples,
)
from fsdd_jax.algorithms.method_configs import CachingConfig, PretrainingConfig
from fsdd_jax.algorithms.pretraining_banks import Problem
from fsdd_jax.algorithms.pretraining_objectives import translation_in_banks
from fsdd_jax.core import krr, krr_errors, losses
from fsdd_jax.data.normalization import normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors
from fsdd_jax.runtime import residence
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache import shards

_CONFIG = PretrainingConfig(
  batch_size=2, bank_networks=3, bank_renewal=4, bank_images=6, ridge=1e-3
)
_NETWORK = extractors.make(
  'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='none'
)


def _problem(data, **changes):
  config = dataclasses.replace(_CONFIG, **changes)
  return Problem(_NETWORK, TargetSet(*data), jax.random.key(5), config)


@pytest.fixture
def data(tiny_dataset, tiny_normalization):
  return tiny_dataset, tiny_normalization


@pytest.fixture
def batch(data, tmp_path):
  config = CachingConfig(
    num_subsets=4,
    min_classes=2,
    max_classes=3,
    max_images=0,
    max_synthetic=6,
    num_steps=1,
    augmentation='none',
  )
  caching.build_cache(
    _NETWORK, TargetSet(*data), config=config, folder=tmp_path / 'c'
  )
  source = shards.open_cache(tmp_path / 'c')
  return cache_batches.read(
    source, data[0], cache_batches.without_images, rows=[0, 1]
  )


def test_the_window_of_networks_moves_on():
  key = jax.random.key(0)
  number_of = pretraining_banks.network_numbers(key, 2, pool=3, renew_every=4)
  numbers = [[number_of(s, p) for p in (0, 1)] for s in range(40)]
  for step, own in enumerate(numbers):
    assert all(step // 4 <= number < step // 4 + 3 for number in own)
  offsets = np.asarray(numbers) - (np.arange(40) // 4)[:, None]
  assert set(offsets.ravel()) == {0, 1, 2}
  assert (offsets[:, 0] != offsets[:, 1]).any()


@pytest.mark.parametrize('step', [0, 255, 256, 10**6])
def test_a_network_depends_on_its_update_and_place_alone(step):
  key = jax.random.key(7)
  found = {
    size: pretraining_banks.network_numbers(key, size, pool=9, renew_every=0)
    for size in (2, 3)
  }
  for place in (0, 1):
    own = jax.random.fold_in(jax.random.fold_in(key, step), place)
    expected = int(jax.random.randint(own, (), 0, 9))
    assert [of(step, place) for of in found.values()] == [expected] * 2


def test_inputs_are_the_same_with_banks_on_the_device(
  data, batch, tmp_path, monkeypatch
):
  expected = translation_in_banks(_problem(data), tmp_path).inputs(5, batch)
  monkeypatch.setattr(residence, 'fits', lambda size: True)
  goal = translation_in_banks(_problem(data), tmp_path / 'unused')
  found = goal.inputs(5, batch)
  assert isinstance(found[2].features, jax.Array)
  assert not isinstance(expected[2].features, jax.Array)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert not (tmp_path / 'unused').exists()


def test_the_loss_is_that_on_the_images_of_the_bank(data, batch, tmp_path):
  dataset, transform = data
  problem = _problem(data)
  goal = translation_in_banks(problem, tmp_path)
  variables, sets, targets = goal.inputs(0, batch)
  assert sets.start.shape == sets.images.shape
  for i in range(2):
    own, labeled, target = jax.tree.map(
      lambda x, i=i: x[i], (variables, sets, targets)
    )
    features_of = losses.feature_fn(_NETWORK)
    classes = [c for c in batch.classes[i].tolist() if c >= 0]
    labels = np.eye(len(classes), 3) - (np.arange(3) < len(classes)) / len(
      classes
    )
    rows, columns = [], []
    for column, c in enumerate(classes):
      chosen = pretraining_banks.feature_bank.class_major_rows(dataset, 6)[c]
      assert (dataset.labels[chosen] == c).all()
      rows.extend(chosen)
      columns.extend([column] * 6)
    x = normalize(dataset.images[np.asarray(rows)], transform)
    weights = krr.solve(
      features_of(own, labeled.images),
      labeled.labels,
      ridge=1e-3,
      mask=labeled.mask,
    )
    expected = krr_errors.scale_free_error(
      weights, features_of(own, x), labels[columns]
    )
    found = goal.loss_fn(own, labeled, target)
    assert float(found) == pytest.approx(float(expected), rel=2e-3)


def test_sets_move_with_their_starts_anew_at_each_step(data, batch):
  problem = _problem(data, jitter=('flip',))
  still = pretraining_samples.sets_at(_problem(data), 0, batch)
  seen = []
  for step in range(4):
    moved = pretraining_samples.sets_at(problem, step, batch)
    np.testing.assert_array_equal(moved.labels, still.labels)
    mirrored = np.zeros(still.mask.shape, bool)
    for i, j in np.argwhere(np.asarray(still.mask) > 0):
      for name in ('images', 'start'):
        before = np.asarray(getattr(still, name)[i, j])
        after = np.asarray(getattr(moved, name)[i, j])
        flipped = np.array_equal(after, before[:, ::-1])
        assert flipped or np.array_equal(after, before)
        if name == 'images':
          mirrored[i, j] = flipped
        else:
          assert flipped == mirrored[i, j]
    seen.append(mirrored.tobytes())
    assert mirrored.any()
  assert len(set(seen)) == 4
  again = pretraining_samples.sets_at(problem, 3, batch)
  np.testing.assert_array_equal(again.images, moved.images)


def test_updates_see_other_networks_and_old_ones_are_deleted(
  data, batch, tmp_path
):
  goal = translation_in_banks(_problem(data), tmp_path)
  kernels = {
    np.asarray(kernel).tobytes()
    for step in range(24)
    for kernel in goal.inputs(step, batch)[0]['params']['Conv_0']['kernel']
  }
  assert len(kernels) > 4
  assert len(list(tmp_path.glob('*/pieces.json'))) <= 3
  again = translation_in_banks(_problem(data), tmp_path)
  resumed, straight = again.inputs(23, batch), goal.inputs(23, batch)
  jax.tree.map(np.testing.assert_array_equal, resumed, straight)


@pytest.mark.parametrize('count', [0, 21])
def test_all_images_of_a_class_serve_at_most(data, batch, count):
  problem = _problem(data, bank_images=count)
  goal = translation_in_banks(problem)
  assert goal.inputs(0, batch)[2].features.shape == (2, 60, 64)
