"""Labels in closed form after translation, by all real images or by few."""

import dataclasses

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.algorithms import (
  adaptation_samples,
  finishing,
  translated_sets,
)
from fsdd_jax.algorithms.adaptation_config import (
  AdaptationConfig,
  LabelConfig,
)
from fsdd_jax.core import label_fit, losses
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import metrics

_CONFIG = AdaptationConfig(network_pool=2, fit_labels=True)


def _fitted(target, networks, **changes):
  labeled = target.random_real(jax.random.key(5), ipc=2)
  config = dataclasses.replace(_CONFIG, **changes)
  network = toy.problem()[0]
  fitted = finishing.fit_labels(
    network, labeled, target, config=config, networks=networks
  )
  np.testing.assert_array_equal(fitted.images, labeled.images)
  assert np.abs(fitted.labels - labeled.labels).max() > 1e-3
  return np.asarray(fitted.labels)


def test_labels_of_few_real_images_need_no_statistics(monkeypatch):
  target = toy.target()
  whole = len(target.labels)
  assert np.ptp(np.bincount(target.dataset.labels)) == 0
  network = toy.problem()[0]
  pool = adaptation_samples.pool_networks(network, target, _CONFIG)
  by_statistics = _fitted(target, pool)

  def refuse(*_, **__):
    raise AssertionError('Statistics were summed.')

  monkeypatch.setattr(TargetSet, 'statistics', refuse)
  untouched = adaptation_samples.pool_networks(network, target, _CONFIG)
  # A balanced batch as large as the set has each of its images once.
  by_images = _fitted(target, untouched, label_images=whole)
  np.testing.assert_allclose(by_images, by_statistics, rtol=1e-3, atol=1e-4)
  few = _fitted(target, untouched, label_images=6)
  assert np.abs(few - by_images).max() > 1e-3
  np.testing.assert_array_equal(few, _fitted(target, untouched, label_images=6))
  other = _fitted(target, untouched, label_images=6, seed=1)
  assert np.abs(few - other).max() > 1e-3


def test_more_images_than_there_are_are_all_of_them():
  target = toy.target()
  by_statistics = _fitted(target, None)
  more = _fitted(target, None, label_images=len(target.labels) + 1)
  np.testing.assert_array_equal(more, by_statistics)


def test_a_config_without_networks_is_refused():
  with pytest.raises(ValueError, match='network_pool = 0'):
    finishing.fit_labels(
      toy.problem()[0],
      toy.target().random_real(jax.random.key(0), ipc=1),
      toy.target(),
      config=AdaptationConfig(),
    )


def test_each_network_has_real_images_of_its_own():
  target, network = toy.target(), toy.problem()[0]
  on_batch = adaptation_samples.with_batches(network, target, _CONFIG, 6)
  pool = adaptation_samples.pool_networks(network, target, _CONFIG)
  batches = [on_batch(number) for number in (0, 1)]
  for number, (variables, batch) in enumerate(batches):
    assert batch.images.shape[0] == 6
    jax.tree.map(np.testing.assert_array_equal, variables, pool(number)[0])
  assert np.abs(batches[0][1].images - batches[1][1].images).max() > 0


def test_one_network_fits_labels_without_another_to_check_it():
  alone = _fitted(toy.target(), None, network_pool=1)
  both = _fitted(toy.target(), None)
  assert np.abs(alone - both).max() > 1e-3


def test_each_network_of_the_pool_is_in_one_of_the_halves():
  target, network = toy.target(), toy.problem()[0]
  labeled = target.random_real(jax.random.key(5), ipc=2)
  config = dataclasses.replace(_CONFIG, network_pool=5)
  networks = adaptation_samples.pool_networks(network, target, config)
  each = []
  for variables, statistics in map(networks, range(5)):
    features = losses.feature_fn(network)(variables, labeled.images)
    each.append(
      label_fit.label_sums(features, labeled.mask, statistics, ridge=1e-6)
    )
  halves = tuple(
    jax.tree.map(lambda *x: sum(x), *each[start::2]) for start in (0, 1)
  )
  expected, _ = label_fit.fit_checked(halves, labeled.labels, labeled.mask)
  found = _fitted(target, networks, network_pool=5)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_pool_need_not_be_given():
  target = toy.target()
  pool = adaptation_samples.pool_networks(toy.problem()[0], target, _CONFIG)
  np.testing.assert_array_equal(_fitted(target, None), _fitted(target, pool))


def test_images_for_labels_that_are_not_fitted_are_refused():
  with pytest.raises(ValueError, match=r'label_images = 5 .*fit_labels'):
    AdaptationConfig(network_pool=2, label_images=5)
  with pytest.raises(ValueError, match=r'label_images = 5 .*label_networks'):
    LabelConfig(label_images=5)


def test_seconds_are_those_of_each_ipc():
  start, target = toy.translator(), toy.target()
  network, clock = toy.problem()[0], metrics.StageClock()
  config = dataclasses.replace(_CONFIG, num_steps=1)
  pool = adaptation_samples.pool_networks(network, target, config)
  for ipc in (1, 2):
    made = translated_sets.distill_dataset(
      start, target, ipc=ipc, config=config, clock=clock
    )
    finishing.fit_labels(
      *(network, made, target), config=config, networks=pool, clock=clock
    )
  assert set(clock.seconds()) >= {
    f'{part}, IPC {ipc}' for part in ('translation', 'labels') for ipc in (1, 2)
  }
