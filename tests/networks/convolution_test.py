"""The convolution against XLA's own, its gradients in both modes included."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fsdd_jax.networks import convolution


def _reference(images, kernel, strides, padding):
  return lax.conv_general_dilated(
    images,
    kernel,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _by_offsets(images, kernel, strides, padding):
  """As `_reference`, without a convolution of XLA."""
  padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
  ends = [
    1 + (size - side) // stride * stride
    for size, side, stride in zip(
      padded.shape[1:3], kernel.shape[:2], strides, strict=True
    )
  ]
  return sum(
    padded[
      :,
      row : row + ends[0] : strides[0],
      column : column + ends[1] : strides[1],
    ]
    @ kernel[row, column]
    for row in range(kernel.shape[0])
    for column in range(kernel.shape[1])
  )


def _xla_survives(problem):
  """Whether `convolve` may ask XLA for the gradient of images.

  Padding beyond half of the kernel, or uneven, may end the process: a check of
  XLA, "Window dimensions do not match RHS shape", fails.
  """
  shape, kernel_shape, _, padding = problem
  if min(shape[1:3]) < max(kernel_shape[:2]):
    return True  # It goes by patches.
  return all(
    before == after <= (side - 1) // 2
    for side, (before, after) in zip(kernel_shape[:2], padding, strict=False)
  )


def _inputs(*shapes, dtype=jnp.float32):
  rng = np.random.default_rng(1)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@st.composite
def _problems(draw):
  size = functools.partial(st.integers, 1)
  kernel_shape = draw(st.tuples(size(4), size(4), size(3), size(3)))
  # Padding as wide as the kernel lets XLA's compiler end the process.
  widths = [st.integers(0, min(2, side - 1)) for side in kernel_shape[:2]]
  padding = draw(st.tuples(*(st.tuples(width, width) for width in widths)))
  sides = [
    draw(st.integers(max(1, kernel - sum(pads)), 7))
    for kernel, pads in zip(kernel_shape[:2], padding, strict=True)
  ]
  strides = draw(st.tuples(size(3), size(3)))
  return (
    (draw(size(3)), *sides, kernel_shape[2]),
    kernel_shape,
    strides,
    padding,
  )


@pytest.mark.parametrize(
  'convolve', [convolution.convolve, convolution.convolve_patches]
)
@settings(max_examples=8)
@given(_problems())
def test_value_and_gradients_are_those_of_xla(convolve, problem):
  shape, kernel_shape, *rest = problem
  inputs = _inputs(shape, kernel_shape)
  actual, expected = (
    jax.jit(functools.partial(conv, strides=rest[0], padding=rest[1]))(*inputs)
    for conv in (convolve, _reference)
  )
  if convolve is convolution.convolve and min(shape[1:3]) >= max(
    kernel_shape[:2]
  ):
    np.testing.assert_array_equal(actual, expected)
  np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)
  if convolve is convolution.convolve and not _xla_survives(problem):
    return
  (output,) = _inputs(expected.shape)

  def gradients(conv):
    return jax.jit(
      lambda *inputs: jax.vjp(lambda *x: conv(*x, *rest), *inputs)[1](output)
    )(*inputs)

  found, wanted = gradients(convolve), gradients(_by_offsets)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize('channels', [3, 4])  # Small patches, and others.
def test_forward_mode_and_the_second_derivative_are_those_of_xla(channels):
  inputs = _inputs((2, 6, 5, channels), (3, 3, channels, 4))
  dots = _inputs((2, 6, 5, channels), (3, 3, channels, 4))

  def results(conv):
    def loss(images, kernel):
      return jnp.square(conv(images, kernel, (2, 1), ((1, 1), (0, 1)))).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    return (
      jax.jvp(loss, inputs, dots)[1],
      jax.jvp(gradient, inputs, dots)[1],
      jax.grad(lambda *a: sum(jnp.square(g).sum() for g in gradient(*a)))(
        *inputs
      ),
    )

  actual, expected = results(convolution.convolve), results(_reference)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-3)


def test_maps_smaller_than_the_kernel_are_products_on_the_cpu():
  """XLA takes 100 times as long for them."""
  images, kernel = _inputs((2, 3, 3, 2), (5, 5, 2, 3))
  arguments = (1, 1), ((2, 2), (2, 2))

  def program(images):
    compiled = jax.jit(lambda x: convolution.convolve(x, kernel, *arguments))
    return compiled.lower(images).compile().as_text()

  assert ' convolution(' not in program(images)
  assert ' convolution(' in program(jnp.tile(images, (1, 2, 2, 1)))


def test_networks_over_their_own_axis():
  images, kernel = _inputs((2, 6, 6, 3), (3, 3, 3, 4))
  kernels = jnp.stack([kernel, 2 * kernel])

  def gradients(conv):
    def loss(kernel):
      return jnp.square(conv(images, kernel, (1, 1), ((1, 1), (1, 1)))).sum()

    return jax.vmap(jax.grad(loss))(kernels)

  np.testing.assert_allclose(
    gradients(convolution.convolve), gradients(_reference), rtol=1e-4, atol=1e-3
  )


def test_bfloat16_stays_bfloat16():
  inputs = _inputs((2, 4, 4, 2), (3, 3, 2, 2), dtype=jnp.bfloat16)
  settings_ = (1, 1), ((1, 1), (1, 1))
  value, vjp = jax.vjp(
    lambda *args: convolution.convolve(*args, *settings_), *inputs
  )
  assert [value.dtype, *(g.dtype for g in vjp(value))] == [jnp.bfloat16] * 3


def test_the_gradient_keeps_no_copy_of_the_images_an_offset():
  images, kernel = _inputs((4, 16, 16, 8), (3, 3, 8, 8))

  def temporaries(conv):
    gradient = jax.grad(
      lambda k: jnp.square(conv(images, k, (1, 1), ((1, 1), (1, 1)))).sum()
    )
    compiled = jax.jit(gradient).lower(kernel).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(convolution.convolve) < 6 * images.nbytes


@pytest.mark.parametrize(
  'fields',
  [
    {'padding': 1},
    {'strides': 2},
    {'kernel_size': (4, 4), 'strides': (2, 3)},
    {'padding': 'VALID', 'use_bias': False},
  ],
)
def test_the_layer_is_linens_own_with_the_same_parameters(fields):
  fields = {'features': 5, 'kernel_size': (3, 3), **fields}
  images, _ = _inputs((2, 9, 8, 3), (1, 1, 3, 1))
  key = jax.random.key(3)
  expected, variables = nn.Conv(**fields).init_with_output(key, images)
  actual, own = convolution.Conv(**fields).init_with_output(key, images)
  np.testing.assert_array_equal(actual, expected)
  jax.tree.map(np.testing.assert_array_equal, own, variables)


@pytest.mark.parametrize(
  'option',
  [{'kernel_dilation': 2}, {'input_dilation': 2}, {'feature_group_count': 3}],
)
def test_other_options_are_refused(option):
  images, _ = _inputs((1, 8, 8, 3), (1, 1, 3, 1))
  layer = convolution.Conv(3, (3, 3), **option)
  with pytest.raises(ValueError, match=r'Take flax\.linen\.Conv'):
    layer.init(jax.random.key(0), images)
