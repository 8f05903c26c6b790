"""Batches of real images, and what a network keeps of all of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.core import krr_errors, losses
from fsdd_jax.data import passes
from fsdd_jax.data.passes import keeps_features
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.runtime import devices, residence


@pytest.mark.parametrize('coding', ['centered', 'onehot'])
def test_a_batch_is_the_same_from_the_memory_of_the_device(coding, monkeypatch):
  host = toy.target().coded(coding).batch(jax.random.key(3), 7)
  asked = []
  monkeypatch.setattr(
    residence, 'fits', lambda size: asked.append(size) or True
  )
  target = dataclasses.replace(toy.target(), label_coding=coding)
  found = target.batch(jax.random.key(3), 7)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    *(found, host),
  )
  other = target.batch(jax.random.key(4), 7)
  assert np.abs(found.images - other.images).max() > 0.1
  assert asked == [target.dataset.images.nbytes]


@pytest.mark.parametrize('loss', ['squared', 'scale_free'])
def test_features_of_few_images_give_the_loss_of_their_sums(loss):
  target, network = toy.target(), toy.problem()[0]
  features_of, variables = losses.feature_fn(network), toy.theta(1)
  found = target.statistics(features_of, variables)
  assert isinstance(found, krr_errors.FeatureSet)
  summed = passes.target_statistics(
    *(features_of, variables, target.dataset.images, target.labels),
    target.normalization,
  )
  synthetic = target.random_real(jax.random.key(0), ipc=2)
  value_of = jax.value_and_grad(
    lambda images, stats: losses.LOSSES[loss].on_statistics(
      features_of,
      variables,
      dataclasses.replace(synthetic, images=images),
      stats,
      ridge=1e-2,
    )
  )
  pairs = zip(
    value_of(synthetic.images, found),
    value_of(synthetic.images, summed),
    strict=True,
  )
  for one, other in pairs:
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_an_error_that_is_none_of_sums_is_of_features():
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=1, depth=2
  )
  target, features_of = toy.target(), losses.feature_fn(network)
  networks = target.networks(
    features_of,
    lambda index: random_networks.sample(
      jax.random.key(index), network, (8, 8, 3)
    ),
    error='platt',
  )
  variables, found = networks(0)
  assert isinstance(found, krr_errors.FeatureSet)
  synthetic = target.random_real(jax.random.key(0), ipc=2)
  whole = target.inputs(np.arange(len(target.labels)))
  losses_of = losses.LOSSES['platt']
  arguments = features_of, variables, synthetic
  np.testing.assert_allclose(
    losses_of.on_statistics(*arguments, found, ridge=1e-3),
    losses_of.on_images(*arguments, whole, ridge=1e-3),
    rtol=1e-4,
  )
  summed = target.statistics(features_of, variables)
  with pytest.raises(ValueError, match='not their sums; take one of squared'):
    losses_of.on_statistics(*arguments, summed, ridge=1e-3)


def test_many_images_are_summed():
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=1, depth=2
  )
  variables = random_networks.sample(jax.random.key(0), network, (8, 8, 3))
  found = toy.target().statistics(losses.feature_fn(network), variables)
  assert isinstance(found, krr_errors.Statistics)
  assert float(found.count) == 24


def test_features_do_not_depend_on_the_batches():
  target, network = toy.target(), toy.problem()[0]
  arguments = (
    *(losses.feature_fn(network), toy.theta(1), target.dataset.images),
    *(target.labels, target.normalization),
  )
  seen = []
  found = passes.target_features(*arguments, batch_size=7, on_batch=seen.append)
  assert seen == [7, 7, 7, 3]
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    *(found, passes.target_features(*arguments)),
  )


def test_sums_are_kept_of_many_images_and_by_several_devices():
  assert keeps_features(4, 8)
  assert not keeps_features(5, 8)
  several = devices.Devices(devices.data_mesh(1))
  assert not keeps_features(4, 8, several)
  assert keeps_features(5, 8, several, error='platt')
