"""Ranges of the draws, and how operations are chosen and combined."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.core import augment

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(4, 8, 10, 3)), jnp.float32)
MANY = 4000  # Draws: the extremes come within 1% of a range's width.
NAMES = [(s, name) for s in ('dsa', 'frepo') for name in augment.STRATEGIES[s]]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw(strategy, name, size=(32, 32)):
  operation = augment.STRATEGIES[strategy][name]
  return operation.draw(jax.random.key(0), MANY, size)


def assert_uniform(values, low, high):
  """All of [low, high] is drawn, evenly, and nothing else."""
  values, width = np.asarray(values, np.float64), high - low
  assert low - 1e-6 <= values.min() <= low + 0.01 * width
  assert high - 0.01 * width <= values.max() <= high + 1e-6
  # Mean and deviation of a uniform draw, to 5 standard errors of the mean.
  error = 5 * width / math.sqrt(12 * MANY)
  assert abs(values.mean() - (low + high) / 2) < error
  assert abs(values.std() - width / math.sqrt(12)) < error


def assert_independent(pairs):
  pairs = np.asarray(pairs, np.float64)
  assert abs(np.corrcoef(pairs, rowvar=False)[0, 1]) < 0.08


def assert_integers(values, low, high):
  """Each integer of [low, high] is drawn about equally often."""
  counts = np.bincount(np.asarray(values) - low)
  assert len(counts) == high - low + 1
  expected = MANY / len(counts)
  assert np.abs(counts - expected).max() < 6 * math.sqrt(expected)


def test_color_ranges():
  shift = draw('dsa', 'color')
  assert_uniform(shift.brightness, -0.5, 0.5)
  assert_uniform(shift.saturation, 0.0, 2.0)
  assert_uniform(shift.contrast, 0.5, 1.5)
  assert_independent(np.stack([shift.saturation, shift.contrast], axis=1))
  mild = draw('frepo', 'color')
  assert_uniform(mild.brightness, -0.25, 0.25)
  assert_uniform(np.log(mild.saturation), -0.25, 0.25)
  assert_uniform(np.log(mild.contrast), -0.25, 0.25)


@pytest.mark.parametrize(('size', 'limit'), [(32, 4), (28, 4), (20, 3), (8, 1)])
def test_crop_range_is_an_eighth_rounded_half_up(size, limit):
  shift = draw('dsa', 'crop', (size, 2 * size))
  assert jnp.issubdtype(shift.dtype, jnp.integer)
  assert_integers(shift[:, 0], -limit, limit)
  assert_integers(shift[:, 1], *[s * int(size / 4 + 0.5) for s in (-1, 1)])
  assert_independent(shift)


@pytest.mark.parametrize(
  ('size', 'side', 'centers'), [(32, 16, 33), (28, 14, 29), (10, 5, 10)]
)
def test_cutout_box_is_half_a_side_centered_anywhere(size, side, centers):
  box = draw('dsa', 'cutout', (size, size))
  np.testing.assert_array_equal(box[:, 2:] - box[:, :2], side)
  assert_integers(box[:, 0] + side // 2, 0, centers - 1)
  assert_integers(box[:, 1] + side // 2, 0, centers - 1)
  assert_independent(box[:, :2])
  # Clipped, but never gone.
  assert (np.clip(box[:, 2], 0, size) > np.clip(box[:, 0], 0, size)).all()


def test_frepo_cutout_box_is_a_quarter_of_a_side_inside():
  box = draw('frepo', 'cutout', (32, 16))
  np.testing.assert_array_equal(box[:, 2] - box[:, 0], 8)
  np.testing.assert_array_equal(box[:, 3] - box[:, 1], 4)
  assert_integers(box[:, 0], 0, 24)
  assert_integers(box[:, 1], 0, 12)


def test_flip_probability():
  for strategy in ('dsa', 'frepo'):
    flipped = np.asarray(draw(strategy, 'flip'))
    assert flipped.dtype == bool
    assert abs(flipped.mean() - 0.5) < 0.04


def test_geometric_ranges():
  factor = draw('dsa', 'scale')
  assert_uniform(factor[:, 0], 1 / 1.2, 1.2)
  assert_uniform(factor[:, 1], 1 / 1.2, 1.2)
  assert_independent(factor)
  for strategy in ('dsa', 'frepo'):
    assert_uniform(np.degrees(draw(strategy, 'rotate')), -15, 15)
  translation = draw('frepo', 'translate', (32, 64))
  assert_uniform(translation[:, 0], -4, 4)
  assert_uniform(translation[:, 1], -8, 8)
  zoom = draw('frepo', 'crop')
  assert_uniform(np.log(zoom.factor), math.log(0.8), math.log(1.25))
  assert_uniform(zoom.offset[:, 0], -1, 1)
  assert_independent(zoom.offset)


def test_strategies_hold_the_published_operations():
  color_to_rotate = {'color', 'crop', 'cutout', 'flip', 'scale', 'rotate'}
  assert set(augment.STRATEGIES['dsa']) == color_to_rotate
  assert set(augment.STRATEGIES['frepo']) == {
    'color',
    'crop',
    'rotate',
    'translate',
    'cutout',
    'flip',
  }


@pytest.mark.parametrize(('strategy', 'name'), NAMES)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_operation_draws_and_applies(strategy, name, channels):
  one = {name: augment.STRATEGIES[strategy][name]}
  images = IMAGES[..., :channels]
  for siamese in (True, False):
    fn = functools.partial(augment.augment, operations=one, siamese=siamese)
    out = jax.jit(fn)(jax.random.key(5), images)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert np.isfinite(out).all()


@pytest.mark.parametrize('compose', [augment.one_of, augment.in_turn])
def test_siamese_draw_is_shared_by_images_and_by_batches(compose):
  fn = jax.jit(functools.partial(augment.dsa, compose=compose))
  copies = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
  for seed in range(12):
    key = jax.random.key(seed)
    real, synthetic = fn(key, IMAGES), fn(key, copies[:2])
    np.testing.assert_allclose(real[0], synthetic[0], atol=1e-5)
    np.testing.assert_allclose(synthetic[0], synthetic[1], atol=1e-5)


@pytest.mark.parametrize(('strategy', 'name'), NAMES)
def test_per_image_draws_differ(strategy, name):
  one = {name: augment.STRATEGIES[strategy][name]}
  copies = jnp.broadcast_to(IMAGES[:1], (16, *IMAGES.shape[1:]))
  fn = functools.partial(augment.augment, operations=one, siamese=False)
  out = jax.jit(fn)(jax.random.key(1), copies)
  assert len(np.unique(np.round(out, 4).reshape(16, -1), axis=0)) > 1


def marked(value):
  """An operation that adds a number, to see which ones were applied."""
  return augment.Operation(
    lambda images, delta: images + delta[:, None, None, None],
    lambda key, n, size: jnp.full((n,), float(value)),
  )


def test_one_of_draws_every_operation_equally_often_under_jit():
  operations = {str(i): marked(10**i) for i in range(5)}
  fn = jax.jit(
    lambda key: augment.augment(
      key, jnp.zeros((2, 1, 1, 1)), operations=operations
    )
  )
  values = [float(fn(key)[0, 0, 0, 0]) for key in keys_of(400)]
  seen, counts = np.unique(values, return_counts=True)
  np.testing.assert_array_equal(seen, [1, 10, 100, 1000, 10000])
  assert abs(counts - 80).max() < 45  # 5 standard deviations.


def keys_of(n):
  return jax.random.split(jax.random.key(3), n)


def test_in_turn_applies_every_operation_once():
  operations = {str(i): marked(10**i) for i in range(5)}
  out = augment.augment(
    jax.random.key(0),
    jnp.zeros((2, 1, 1, 1)),
    operations=operations,
    compose=augment.in_turn,
    siamese=False,
  )
  np.testing.assert_array_equal(out, 11111.0)


def test_dsa_differs_between_keys_and_repeats_for_a_key():
  fn = jax.jit(functools.partial(augment.dsa, compose=augment.in_turn))
  first = fn(jax.random.key(0), IMAGES)
  np.testing.assert_array_equal(first, fn(jax.random.key(0), IMAGES))
  assert not np.allclose(first, fn(jax.random.key(1), IMAGES))


@pytest.mark.parametrize('compose', [augment.one_of, augment.in_turn])
def test_gradients_through_the_draw(compose):
  small = IMAGES[:2, :4, :4]
  weights, direction = RNG.normal(size=(2, *small.shape)).astype(np.float32)

  @jax.jit
  def loss(key, x):
    return (weights * augment.dsa(key, x, compose=compose)).sum()

  gradient = jax.jit(jax.grad(loss, argnums=1))
  for key in keys_of(12):
    # Affine in the images, so a wide difference is exact up to rounding.
    expected = loss(key, small + direction) - loss(key, small)
    actual = (gradient(key, small) * direction).sum()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_flip_can_be_left_out():
  digits = augment.select('dsa', without=('flip',))
  assert list(digits) == ['color', 'crop', 'cutout', 'scale', 'rotate']
  left_bright = jnp.zeros((1, 8, 8, 1)).at[:, :, :2].set(1.0)
  kept = jax.jit(augment.dsa)
  dropped = jax.jit(functools.partial(augment.dsa, without=('flip',)))

  def is_mirrored(fn, key):
    out = fn(key, left_bright)
    return out[..., 4:, :].sum() > out[..., :4, :].sum() + 1e-4

  assert any(is_mirrored(kept, key) for key in keys_of(60))
  assert not any(is_mirrored(dropped, key) for key in keys_of(60))


def test_none_returns_the_images():
  out = augment.dsa(jax.random.key(0), IMAGES, strategy='none')
  np.testing.assert_array_equal(out, IMAGES)


def test_unknown_names_and_wrong_images_are_errors():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"'cutmix'.*dsa.*frepo"):
    augment.dsa(key, IMAGES, strategy='cutmix')
  with pytest.raises(ValueError, match=r"no \['translate'\].*rotate"):
    augment.select('dsa', without=('translate',))
  with pytest.raises(ValueError, match='uint8'):
    augment.dsa(key, jnp.zeros((2, 8, 8, 3), jnp.uint8))
  with pytest.raises(ValueError, match=r'\[8, 8, 3\]'):
    augment.dsa(key, jnp.zeros((8, 8, 3)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_images_stay_so(dtype):
  images = jnp.ones((2, 8, 8, 3), dtype)
  for seed in range(8):  # All operations.
    assert augment.dsa(jax.random.key(seed), images).dtype == dtype
