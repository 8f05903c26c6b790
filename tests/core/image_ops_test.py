"""Values, shapes and gradients of the image operations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from fsdd_jax.core import image_ops
from fsdd_jax.core.image_ops import ColorShift, Zoom

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 9, 6, 3)).astype(np.float32)
FEW = settings(max_examples=15)

COLOR = ColorShift(jnp.array([0.3]), jnp.array([0.4]), jnp.array([1.3]))
# Every operation, with one parameter that moves something.
CASES = {
  'brightness': (image_ops.brightness, jnp.array([0.3])),
  'saturation': (image_ops.saturation, jnp.array([1.7])),
  'contrast': (image_ops.contrast, jnp.array([0.6])),
  'color': (image_ops.color, COLOR),
  'crop': (image_ops.crop, jnp.array([[1, -2]])),
  'translate': (
    functools.partial(image_ops.crop, fill=image_ops.edge_fill),
    jnp.array([[0.7, -1.4]]),
  ),
  'cutout': (image_ops.cutout, jnp.array([[-1, 2, 3, 5]])),
  'flip': (image_ops.flip, jnp.array([True])),
  'scale': (image_ops.scale, jnp.array([[0.9, 1.2]])),
  'zoom': (image_ops.zoom, Zoom(jnp.array([0.8]), jnp.array([[0.5, -1.0]]))),
  'rotate': (image_ops.rotate, jnp.array([0.2])),
  'rotate_edge': (
    functools.partial(image_ops.rotate, fill=image_ops.edge_fill),
    jnp.array([0.2]),
  ),
}
IDENTITIES = {
  'brightness': jnp.array([0.0]),
  'saturation': jnp.array([1.0]),
  'contrast': jnp.array([1.0]),
  'color': ColorShift(jnp.zeros(1), jnp.ones(1), jnp.ones(1)),
  'crop': jnp.array([[0, 0]]),
  'translate': jnp.zeros((1, 2)),
  'cutout': jnp.array([[2, 2, 2, 5]]),
  'flip': jnp.array([False]),
  'scale': jnp.ones((1, 2)),
  'zoom': Zoom(jnp.ones(1), jnp.ones((1, 2))),
  'rotate': jnp.array([0.0]),
  'rotate_edge': jnp.array([0.0]),
}


def _case(name):
  """An operation as one program, and its parameter."""
  fn, parameters = CASES[name]
  return jax.jit(fn), parameters


def bilinear(image, row, column, fill):
  """The value at one position, in float64; an oracle as plain as can be."""
  h, w, channels = image.shape
  if fill == 'edge':
    row, column = np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)
  top, left = int(np.floor(row)), int(np.floor(column))
  value = np.zeros(channels)
  for r, weight_r in ((top, top + 1 - row), (top + 1, row - top)):
    for c, weight_c in ((left, left + 1 - column), (left + 1, column - left)):
      if 0 <= r < h and 0 <= c < w:
        value += weight_r * weight_c * image[r, c].astype(np.float64)
  return value


def warp(images, position, fill='zero'):
  """Reads each output pixel at `position(y, x)`, counted from the center."""
  _, h, w, _ = images.shape
  center = np.array([(h - 1) / 2, (w - 1) / 2])
  out = np.zeros(images.shape)
  for n, image in enumerate(images):
    for i in range(h):
      for j in range(w):
        row, column = position(i - center[0], j - center[1]) + center
        out[n, i, j] = bilinear(image, row, column, fill)
  return out


@pytest.mark.parametrize('name', CASES)
def test_identity_parameters_give_the_identity(name):
  fn, _ = _case(name)
  np.testing.assert_allclose(
    fn(IMAGES, IDENTITIES[name]), IMAGES, rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize('name', CASES)
def test_one_parameter_equals_that_parameter_for_each_image(name):
  fn, shared = _case(name)
  each = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), shared)
  out = fn(IMAGES, shared)
  assert out.shape == IMAGES.shape
  assert out.dtype == jnp.float32
  assert not np.allclose(out, IMAGES)
  np.testing.assert_allclose(out, fn(IMAGES, each), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', CASES)
def test_parameters_of_an_image_act_on_that_image_only(name):
  fn, moving = _case(name)
  mixed = jax.tree.map(
    lambda still, move: jnp.concatenate([still, move, still]),
    IDENTITIES[name],
    moving,
  )
  out = fn(IMAGES, mixed)
  np.testing.assert_allclose(out[::2], IMAGES[::2], rtol=1e-6, atol=1e-6)
  expected = fn(IMAGES[1:2], moving)[0]
  np.testing.assert_allclose(out[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', CASES)
def test_gradients(name):
  fn, parameters = _case(name)
  small = jnp.asarray(IMAGES[:2, :4, :3])

  # Affine in the images, so wide differences are exact up to rounding.
  def apply(x):
    return fn(x, parameters)

  check_grads(jax.jit(apply), (small,), 1, modes=['rev'], eps=0.5, rtol=1e-3)
  gradient = jax.jit(jax.grad(lambda x: jnp.square(fn(x, parameters)).sum()))(
    small
  )
  assert np.abs(gradient).max() > 0


@pytest.mark.parametrize('name', CASES)
def test_padded_zero_images_stay_finite_and_leave_others_alone(name):
  fn, parameters = _case(name)
  padded = jnp.concatenate([IMAGES, jnp.zeros_like(IMAGES)])

  def masked_sum(x):
    return jnp.square(fn(x, parameters))[:3].sum()

  out, gradient = fn(padded, parameters), jax.jit(jax.grad(masked_sum))(padded)
  assert np.isfinite(out).all()
  expected = fn(IMAGES, parameters)
  np.testing.assert_allclose(out[:3], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(gradient[3:], 0.0)
  assert np.isfinite(gradient).all()


def test_color_operations_against_float64():
  x = IMAGES.astype(np.float64)
  np.testing.assert_allclose(
    image_ops.brightness(IMAGES, jnp.array([0.3])), x + 0.3, atol=1e-5
  )
  mean = x.mean(axis=3, keepdims=True)
  saturated = (x - mean) * 1.7 + mean
  np.testing.assert_allclose(
    image_ops.saturation(IMAGES, jnp.array([1.7])), saturated, atol=1e-5
  )
  mean = x.mean(axis=(1, 2, 3), keepdims=True)
  np.testing.assert_allclose(
    image_ops.contrast(IMAGES, jnp.array([0.6])),
    (x - mean) * 0.6 + mean,
    atol=1e-5,
  )


def test_color_is_brightness_then_saturation_then_contrast():
  x = IMAGES.astype(np.float64) + 0.3
  mean = x.mean(axis=3, keepdims=True)
  x = (x - mean) * 0.4 + mean
  mean = x.mean(axis=(1, 2, 3), keepdims=True)
  expected = (x - mean) * 1.3 + mean
  np.testing.assert_allclose(
    image_ops.color(IMAGES, COLOR), expected, atol=1e-5
  )


def test_saturation_is_the_identity_for_one_channel():
  gray = IMAGES[..., :1]
  out = image_ops.saturation(gray, jnp.array([1.9]))
  np.testing.assert_allclose(out, gray, atol=1e-6)


@FEW
@given(st.integers(-10, 10), st.integers(-10, 10))
def test_crop_shifts_exactly_and_fills_with_zeros(down, right):
  h, w = IMAGES.shape[1:3]
  expected = np.zeros_like(IMAGES)
  for i in range(h):
    for j in range(w):
      if 0 <= i + down < h and 0 <= j + right < w:
        expected[:, i, j] = IMAGES[:, i + down, j + right]
  out = image_ops.crop(IMAGES, jnp.array([[down, right]]))
  np.testing.assert_array_equal(out, expected)


@FEW
@given(st.floats(-4, 4), st.floats(-4, 4))
def test_crop_by_fractions_with_edge_fill(down, right):
  out = image_ops.crop(
    IMAGES[:1], jnp.array([[down, right]]), fill=image_ops.edge_fill
  )
  expected = warp(IMAGES[:1], lambda y, x: (y + down, x + right), 'edge')
  np.testing.assert_allclose(out, expected, atol=1e-5)


@FEW
@given(
  st.integers(-5, 9), st.integers(-5, 9), st.integers(0, 7), st.integers(0, 7)
)
def test_cutout_zeroes_the_clipped_box_only(top, left, height, width):
  box = jnp.array([[top, left, top + height, left + width]])
  expected = IMAGES.copy()
  expected[
    :, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)
  ] = 0
  np.testing.assert_array_equal(image_ops.cutout(IMAGES, box), expected)


def test_flip_mirrors_columns():
  out = image_ops.flip(IMAGES, jnp.array([True, False, True]))
  np.testing.assert_array_equal(out[0], IMAGES[0, :, ::-1])
  np.testing.assert_array_equal(out[1], IMAGES[1])


@FEW
@given(st.floats(0.5, 2), st.floats(0.5, 2))
def test_scale_against_bilinear_oracle(vertical, horizontal):
  out = image_ops.scale(IMAGES[:1], jnp.array([[vertical, horizontal]]))
  # align_corners=True: corners are -1 and 1, at the centers of edge pixels.
  expected = warp(IMAGES[:1], lambda y, x: (vertical * y, horizontal * x))
  np.testing.assert_allclose(out, expected, atol=2e-5)


@FEW
@given(st.floats(-3, 3), st.sampled_from(['zero', 'edge']))
def test_rotate_against_bilinear_oracle(angle, fill):
  fills = {'zero': image_ops.zero_fill, 'edge': image_ops.edge_fill}
  out = image_ops.rotate(IMAGES[:1], jnp.array([angle]), fill=fills[fill])
  cos, sin = np.cos(angle), np.sin(angle)
  expected = warp(
    IMAGES[:1], lambda y, x: (cos * y + sin * x, cos * x - sin * y), fill
  )
  np.testing.assert_allclose(out, expected, atol=2e-5)


def test_rotate_is_counter_clockwise():
  square = IMAGES[:, :6]
  out = image_ops.rotate(square, jnp.array([jnp.pi / 2]))
  expected = np.rot90(square, axes=(1, 2))
  np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize('factor', [0.8, 1.25])
@pytest.mark.parametrize('offset', [(0.0, 0.0), (1.0, -1.0), (0.3, -0.6)])
def test_zoom_against_bilinear_oracle(factor, offset):
  parameters = Zoom(jnp.array([factor]), jnp.array([offset]))
  h, w = IMAGES.shape[1:3]
  shift_y = offset[0] * abs(h * factor - h) / 2
  shift_x = offset[1] * abs(w * factor - w) / 2
  expected = warp(
    IMAGES,
    lambda y, x: ((y + shift_y) / factor, (x + shift_x) / factor),
    'edge',
  )
  out = image_ops.zoom(IMAGES, parameters)
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_wrong_number_of_parameters_is_an_error():
  with pytest.raises(ValueError, match=r'brightness .* all 3; .*\[2\]'):
    image_ops.brightness(IMAGES, jnp.zeros(2))
