"""Infinite-width kernels against closed forms and ever wider networks."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.core import krr, losses
from fsdd_jax.evaluation import evaluate
from fsdd_jax.networks import (
  _neural_tangents,
  extractors,
  infinite,
  random_networks,
)
from fsdd_jax.types import LabeledSet

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('neural_tangents') is None,
  reason='needs the extra: pip install -e .[kernels]',
)

_IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def _arc_cosine(x):
  """NNGP and NTK of one hidden layer of ReLU, in float64 (Cho and Saul)."""
  x = x.reshape(len(x), -1).astype(np.float64)
  inner = x @ x.T / x.shape[1]
  norms = np.sqrt(np.diag(inner))
  angle = np.arccos(np.clip(inner / np.outer(norms, norms), -1, 1))
  nngp = np.outer(norms, norms) / (2 * np.pi)
  nngp *= np.sin(angle) + (np.pi - angle) * np.cos(angle)
  return {'nngp': nngp, 'ntk': nngp + inner * (np.pi - angle) / (2 * np.pi)}


@pytest.mark.parametrize('kind', infinite.KINDS)
def test_one_hidden_layer_is_the_arc_cosine_kernel(kind):
  network = extractors.Mlp(depth=1, initialization='lecun')
  found = infinite.gram(network, kind, _IMAGES, _IMAGES, float64=True)
  assert found.dtype == np.float64
  np.testing.assert_allclose(found, _arc_cosine(_IMAGES)[kind], rtol=1e-6)
  single = infinite.gram(network, kind, _IMAGES, _IMAGES)
  assert single.dtype == np.float32
  # The angle of an image with itself is known to the root of rounding only.
  np.testing.assert_allclose(single, found, rtol=3e-4)


@pytest.mark.parametrize(
  ('name', 'initialization'), [('convnet', 'pytorch'), ('mlp', 'lecun')]
)
def test_random_networks_converge_to_the_kernel(name, initialization):
  errors, images, draws = [], _IMAGES[:, :4, :4], 8
  for width in (8, 512):
    network = extractors.make(
      name,
      image_shape=(4, 4, 3),
      num_classes=10,
      norm='none',
      width=width,
      depth=2,
      initialization=initialization,
    )
    expected = infinite.gram(network, 'nngp', images, images)
    features_of, found = jax.jit(losses.feature_fn(network)), 0
    for seed in range(draws):
      variables = random_networks.sample(
        jax.random.key(seed), network, (4, 4, 3)
      )
      features = features_of(variables, images)
      found += np.asarray(features @ features.T / features.shape[1]) / draws
    errors.append(np.abs(found / expected - 1).max())
  assert errors[1] < 0.1
  assert errors[1] < errors[0] / 3


def test_double_precision_reaches_images_of_the_usual_size():
  """By XLA's own convolution, jax 0.10 ends the process here."""
  network = extractors.ConvNet(norm='none', depth=1)
  images = np.random.default_rng(1).normal(size=(2, 32, 32, 3))
  double = infinite.gram(network, 'ntk', images, images, float64=True)
  single = infinite.gram(network, 'ntk', images, images)
  np.testing.assert_allclose(single, double, rtol=3e-4)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', [(2, 0), (1, 3)]])
def test_covariances_are_convolved_as_by_jax(padding):
  rng = np.random.default_rng(2)
  maps = jnp.asarray(rng.normal(size=(5, 2, 7, 6)), jnp.float32)
  windows = jnp.asarray(rng.normal(size=(2, 1, 3, 2)), jnp.float32)
  options = {
    'dimension_numbers': ('NCHW', 'OIHW', 'NCHW'),
    'feature_group_count': 2,
  }
  found = _neural_tangents._convolve(maps, windows, (1, 1), padding, **options)
  expected = jax.lax.conv_general_dilated(
    maps, windows, (1, 1), padding, **options
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_tiles_are_parts_of_one_matrix(monkeypatch):
  network = extractors.ConvNet(norm='none', depth=1)
  whole = infinite.gram(network, 'ntk', _IMAGES, _IMAGES[:3])
  monkeypatch.setattr(infinite, '_COVARIANCES', 64**2 * 2)
  assert infinite.images_at_once(network, (8, 8, 3), 1) == 2
  tiled = infinite.gram(network, 'ntk', _IMAGES, _IMAGES[:3])
  np.testing.assert_allclose(tiled, whole, rtol=1e-5)


@pytest.mark.parametrize('kind', infinite.KINDS)
def test_a_set_is_scored_once_without_norm(
  kind, tiny_dataset, tiny_normalization, tiny_network
):
  score = evaluate.evaluate(
    jax.random.key(0),
    LabeledSet(
      jnp.asarray(tiny_dataset.images[::20] / 100.0 - 1.5),
      jnp.eye(3),
      jnp.ones(3),
    ),
    tiny_dataset,
    tiny_normalization,
    tiny_network,
    protocol=kind,
    repeats=5,
  )
  assert score.n == 1
  assert score.std is None
  assert score.mean > 90
  assert 'norm=none' in score.network


def test_a_kernel_solves_as_features_do():
  rng = np.random.default_rng(1)
  features = jnp.asarray(rng.normal(size=(5, 9)), jnp.float32)
  labels, mask = (
    jnp.asarray(rng.normal(size=(5, 2))),
    jnp.array([1, 1, 0, 1, 1]),
  )
  weights = krr.solve(features, labels, ridge=1e-2, mask=mask)
  kept = features * mask[:, None]
  found = krr.solve_kernel(kept @ kept.T, labels, ridge=1e-2, mask=mask)
  np.testing.assert_allclose(kept.T @ found, weights, rtol=1e-4, atol=1e-6)


def test_networks_without_a_kernel_are_refused():
  with pytest.raises(ValueError, match='as it normalises; take --norm=none'):
    infinite.kernel_fn(extractors.ConvNet(norm='instance'), 'ntk')
  with pytest.raises(ValueError, match=r'has no kernel here\. Take a ConvNet'):
    infinite.limit_of(extractors.VGG11())
  with pytest.raises(ValueError, match="Unknown kernel 'gp'; choose nngp or"):
    infinite.kernel_fn(extractors.ConvNet(norm='none'), 'gp')


def test_an_infinite_kernel_is_named():
  network = extractors.Mlp(depth=1)
  images = np.full((1, 2, 2, 1), np.nan)
  with pytest.raises(FloatingPointError, match=r'values up to nan\. Normalise'):
    infinite.gram(network, 'nngp', images, images)


def test_what_was_lent_to_the_import_is_taken_back():
  _neural_tangents.import_stax()
  for owner, name, _ in _neural_tangents._attributes():
    with pytest.raises(AttributeError):
      getattr(owner, name)
  assert 'tensorflow' not in sys.modules
  assert 'neural_tangents.experimental' not in sys.modules


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"pip install 'fsdd-jax\[kernels\]'"):
    _neural_tangents.import_stax()
