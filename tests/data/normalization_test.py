"""Tests of standardisation and whitening against float64 NumPy."""

import jax
import numpy as np
import pytest

from fsdd_jax.data import normalization


def _images(n=200, size=4, channels=3, seed=0):
  """Smooth images: neighbouring pixels and channels are correlated."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(n, size, size, channels))
  smooth = noise.cumsum(1).cumsum(2) + noise.sum(-1, keepdims=True)
  return np.clip(128 + 20 * smooth, 0, 255).astype(np.uint8)


def _assert_same(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_standardization_matches_float64():
  images = _images()
  fitted = normalization.standardization(images)
  x = images.astype(np.float64) / 255
  mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
  np.testing.assert_allclose(fitted.mean, mean, rtol=1e-6)
  np.testing.assert_allclose(fitted.std, std, rtol=1e-6)
  y = normalization.normalize(images, fitted)
  assert y.dtype == np.float32
  np.testing.assert_allclose(y, (x - mean) / std, atol=2e-5)


def test_constant_channel_stays_finite():
  images = _images()
  images[..., 1] = 77
  fitted = normalization.standardization(images)
  np.testing.assert_allclose(fitted.std[1], 1 / 255, rtol=1e-6)
  y = np.asarray(normalization.normalize(images, fitted))
  assert np.isfinite(y).all()
  np.testing.assert_allclose(y[..., 1], 0, atol=1e-4)


@pytest.mark.parametrize('channels', [1, 3])
def test_standardization_round_trip(channels):
  images = _images(channels=channels)
  fitted = normalization.standardization(images)
  pixels = normalization.denormalize(
    normalization.normalize(images, fitted), fitted
  )
  np.testing.assert_array_equal(np.round(255 * np.asarray(pixels)), images)


def test_zca_matches_float64():
  images, ridge = _images(), 0.1
  fitted = normalization.zca_whitening(images, ridge=ridge, batch_size=64)
  x = images.astype(np.float64) / 255
  x = ((x - x.mean((0, 1, 2))) / x.std((0, 1, 2))).reshape(len(x), -1)
  covariance = np.cov(x.T, bias=True)
  d = x.shape[1]
  regular = covariance + ridge * np.trace(covariance) / d * np.eye(d)
  values, vectors = np.linalg.eigh(regular)
  whiten = vectors @ np.diag(values**-0.5) @ vectors.T
  expected = (x - x.mean(0)) @ whiten
  y = np.asarray(normalization.normalize(images, fitted)).reshape(len(x), -1)
  np.testing.assert_allclose(y, expected, atol=2e-4)
  np.testing.assert_allclose(fitted.zca, whiten, atol=2e-4)


def test_zca_with_a_small_ridge_whitens_the_covariance():
  images = _images(n=600)
  fitted = normalization.zca_whitening(images, ridge=1e-6)
  y = np.asarray(normalization.normalize(images, fitted), np.float64)
  y = y.reshape(len(y), -1)
  np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(48), atol=0.01)
  np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)


def test_zca_stays_in_the_image_domain():
  """Of all whitenings ZCA is the symmetric one, so pixels keep their place."""
  fitted = normalization.zca_whitening(_images())
  zca = np.asarray(fitted.zca)
  np.testing.assert_allclose(zca, zca.T, atol=1e-5)
  assert np.all(np.linalg.eigvalsh(zca) > 0)


def test_zca_round_trip():
  images = _images()
  fitted = normalization.zca_whitening(images)
  pixels = normalization.denormalize(
    normalization.normalize(images, fitted), fitted
  )
  np.testing.assert_array_equal(np.round(255 * np.asarray(pixels)), images)


def test_zca_does_not_depend_on_the_batch_size():
  images = _images(n=50)
  one = normalization.zca_whitening(images, batch_size=50)
  many = normalization.zca_whitening(images, batch_size=7)
  np.testing.assert_allclose(one.zca, many.zca, atol=1e-4)


def test_zca_refuses_large_images():
  images = np.zeros((1, 128, 128, 3), np.uint8)
  with pytest.raises(ValueError, match=r'49152 x 49152.*image_size'):
    normalization.zca_whitening(images)


def test_normalize_is_jit_able_with_the_normalization_as_argument():
  images = _images(n=4)
  fitted = normalization.zca_whitening(_images())
  np.testing.assert_allclose(
    jax.jit(normalization.normalize)(images, fitted),
    normalization.normalize(images, fitted),
    atol=1e-5,
  )


def test_whitening_once_gives_the_same_inputs():
  images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
  transform = normalization.zca_whitening(images)
  inputs, after = normalization.whitened_once(images, transform, batch_size=3)
  assert after is None
  np.testing.assert_allclose(
    inputs, normalization.normalize(images, transform), atol=1e-5
  )


def test_whitening_is_fitted_once(tmp_path, monkeypatch):
  monkeypatch.setenv('FSDD_CACHE_DIR', str(tmp_path))
  images = _images()
  first = normalization.zca_whitening_once(images, 'these')
  _assert_same(first, normalization.zca_whitening(images))
  monkeypatch.setattr(normalization, 'zca_whitening', None)  # Not again.
  again = normalization.zca_whitening_once(images, 'these')
  _assert_same(first, again)


def test_whitening_of_other_images_is_its_own(tmp_path, monkeypatch):
  monkeypatch.setenv('FSDD_CACHE_DIR', str(tmp_path))
  normalization.zca_whitening_once(_images(), 'these')
  others = _images(seed=1)
  found = normalization.zca_whitening_once(others, 'others')
  _assert_same(found, normalization.zca_whitening(others))


def test_too_large_images_are_refused_before_a_folder_is_made(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('FSDD_CACHE_DIR', str(tmp_path))
  images = np.zeros((1, 128, 129, 1), np.uint8)
  with pytest.raises(ValueError, match='Reduce image_size'):
    normalization.zca_whitening_once(images, 'large')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'images', [_images()[..., 0], _images() / 255.0, _images()[0]]
)
@pytest.mark.parametrize(
  'fit', [normalization.standardization, normalization.zca_whitening]
)
def test_only_pixels_are_taken(images, fit):
  with pytest.raises(ValueError, match='uint8'):
    fit(images)
  fitted = fit(_images())
  with pytest.raises(ValueError, match='uint8'):
    jax.jit(normalization.normalize)(images, fitted)


def test_images_that_are_all_alike_are_not_whitened():
  with pytest.raises(ValueError, match='alike'):
    normalization.zca_whitening(np.full((4, 4, 4, 1), 7, np.uint8))


def test_counting_in_parts_changes_nothing(monkeypatch):
  images = _images()
  whole = normalization.channel_statistics(images)
  monkeypatch.setattr(normalization, '_COUNTED', 7)
  for one, other in zip(
    whole, normalization.channel_statistics(images), strict=True
  ):
    np.testing.assert_array_equal(one, other)
