"""Degenerate sets and settings: everything stays finite, or stops clearly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.core import krr, krr_errors
from fsdd_jax.data import datasets, normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate
from fsdd_jax.networks import extractors

# Few shapes, each compiled once: fewer images than features, and more.
_SHAPES = ((1, 5), (6, 8), (9, 4))
_TARGET = np.random.default_rng(0).normal(size=(7, 8)).astype(np.float32)


@jax.jit
def _loss_and_gradient(features, labels, target, ridge):
  def loss(features):
    weights = krr.solve(features, labels, ridge=ridge)
    stats = krr_errors.statistics(
      target, jnp.ones((len(target), labels.shape[1]))
    )
    return krr_errors.mean_squared_error_from_statistics(weights, stats)

  return jax.value_and_grad(loss)(features)


@settings(max_examples=60)
@given(
  shape=st.sampled_from(_SHAPES),
  seed=st.integers(0, 2**16),
  rank=st.integers(0, 3),
  scale=st.sampled_from([1e-6, 1.0, 1e6]),
  low_precision=st.booleans(),
  ridge=st.sampled_from([0.0, 1e-6, 1.0]),
)
def test_a_loss_is_finite_unless_there_are_no_features(
  shape, seed, rank, scale, low_precision, ridge
):
  rng = np.random.default_rng(seed)
  n, d = shape
  features = rng.normal(size=shape)
  if rank:  # Duplicates: no more different images than this.
    features = features[np.arange(n) % rank]
  else:  # As of images that diverged.
    features = np.zeros(shape)
  features = jnp.asarray(scale * features, jnp.float32)
  if low_precision:
    features = features.astype(jnp.bfloat16).astype(jnp.float32)
  loss, gradient = _loss_and_gradient(
    features, jnp.eye(n), _TARGET[:, :d], jnp.float32(ridge)
  )
  assert np.isfinite(loss) == (rank > 0)
  if rank > 0 and ridge > 0:
    assert np.isfinite(gradient).all()


def _problem(num_classes, images_a_class, fill=None):
  rng = np.random.default_rng(1)
  labels = np.repeat(np.arange(num_classes), images_a_class)
  images = rng.integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
  if fill is not None:
    images[:] = fill
  names = tuple(map(str, range(num_classes)))
  dataset = datasets.from_arrays(images, labels, names)
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=num_classes, width=4
  )
  return network, dataset, normalization.standardization(images)


@pytest.mark.parametrize('fill', [None, 0, 255])
def test_one_image_a_class_and_constant_images(fill):
  network, dataset, transform = _problem(3, 1, fill)
  config = DistillationConfig(ipc=1, num_steps=2, ridge=0.0)
  result = baseline.distill_over_networks(
    network, TargetSet(dataset, transform), config=config
  )
  assert np.isfinite(result.synthetic.images).all()
  assert np.isfinite(result.synthetic.labels).all()


def test_a_thousand_classes_and_more_images_than_features():
  network, dataset, transform = _problem(1000, 2)
  config = DistillationConfig(ipc=1, num_steps=2)
  result = baseline.distill_over_networks(
    network, TargetSet(dataset, transform), config=config
  )
  assert result.synthetic.images.shape == (1000, 8, 8, 3)
  assert np.isfinite(result.synthetic.images).all()
  score = evaluate.evaluate(
    jax.random.key(0), result.synthetic, dataset, transform, network, repeats=2
  )
  assert 0 <= score.mean <= 100


@pytest.mark.parametrize('optimizer', ['sgd', 'adam', 'lamb'])
@pytest.mark.parametrize('learning_rate', [1e3, 1e30])
def test_huge_learning_rates_stay_finite_or_stop(optimizer, learning_rate):
  network, dataset, transform = toy.problem()
  config = DistillationConfig(
    ipc=1, num_steps=4, optimizer=optimizer, learning_rate=learning_rate
  )
  try:
    result = baseline.distill_over_networks(
      network, TargetSet(dataset, transform), config=config
    )
  except FloatingPointError as error:
    told = str(error)
  else:
    assert np.isfinite(result.synthetic.images).all()
    assert np.isfinite(result.synthetic.labels).all()
    told = 'Try a smaller learning rate'
  assert 'Try a smaller learning rate' in told


def test_bfloat16_features_serve_a_distillation():
  network, dataset, transform = toy.problem()
  low = dataclasses.replace(network, dtype=jnp.bfloat16)
  config = DistillationConfig(ipc=2, num_steps=3, ridge=0.0)
  found, expected = (
    baseline.distill_over_networks(
      f, TargetSet(dataset, transform), config=config
    )
    for f in (low, network)
  )
  assert found.synthetic.images.dtype == jnp.float32
  assert np.isfinite(found.synthetic.images).all()
  difference = abs(found.synthetic.images - expected.synthetic.images).mean()
  assert 0 < difference < 0.1
