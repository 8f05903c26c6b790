"""A 2-D convolution that is fast on the CPU as well.

XLA's CPU back end computes the gradient of a kernel as a convolution with a
window of the whole image, 2 to 9 times slower than the sum of one matrix
product an offset of the kernel that stands here; and a map smaller than the
kernel, as in the last layers of VGG11, up to 100 times slower than the product
of patches. Elsewhere XLA's own is taken.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Of flax.linen.Conv: images [n, h, w, c], kernels [kh, kw, c, d].
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
Pairs = tuple[tuple[int, int], tuple[int, int]]

# Values of a patch up to which the gradient of images is one of patches.
_SMALL_PATCH = 32


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolve(
  images: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Pairs,
) -> jax.Array:
  """Correlates images with a kernel, as networks do.

  Differentiable any number of times in both modes.

  Args:
    images: `[n, h, w, c]`.
    kernel: `[kh, kw, c, d]`, of the same type.
    strides: steps down and to the right.
    padding: rows of zeros `(above, below)` and columns `(left, right)`.

  Returns:
    Maps `[n, h', w', d]`.
  """
  if min(images.shape[1:3]) >= max(kernel.shape[:2]):
    return _of_xla(images, kernel, strides=strides, padding=padding)
  return _on_cpu(convolve_patches, _of_xla)(
    images, kernel, strides=strides, padding=padding
  )


@convolve.defjvp
def _convolve_jvp(
  strides: tuple[int, int],
  padding: Pairs,
  primals: tuple[jax.Array, jax.Array],
  tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  images, kernel = primals
  images_dot, kernel_dot = tangents
  window = {'strides': strides, 'padding': padding}
  of_kernel = _on_cpu(_sum_over_offsets, convolve)
  of_images: Callable[..., jax.Array] = convolve
  if math.prod(kernel.shape[:3]) <= _SMALL_PATCH:
    of_images = _on_cpu(convolve_patches, convolve)
  return (
    convolve(images, kernel, **window),
    of_images(images_dot, kernel, **window)
    + of_kernel(images, kernel_dot, **window),
  )


def _on_cpu(
  convolve_fn: Callable[..., jax.Array], default_fn: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
  """One way to convolve on the CPU, and another one elsewhere."""

  def convolve_there(
    images: jax.Array, kernel: jax.Array, **window: Any
  ) -> jax.Array:
    return lax.platform_dependent(
      images,
      kernel,
      cpu=functools.partial(convolve_fn, **window),
      default=functools.partial(default_fn, **window),
    )

  return convolve_there


def _of_xla(
  images: jax.Array,
  kernel: jax.Array,
  *,
  strides: tuple[int, int],
  padding: Pairs,
) -> jax.Array:
  return lax.conv_general_dilated(
    images, kernel, strides, padding, dimension_numbers=_DIMENSIONS
  )


def _sum_over_offsets(
  images: jax.Array,
  kernel: jax.Array,
  *,
  strides: tuple[int, int],
  padding: Pairs,
) -> jax.Array:
  """`convolve` as a sum of products, whose transpose is as plain."""
  kernel_height, kernel_width, channels, width = kernel.shape
  padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
  num_images = len(images)
  height = (padded.shape[1] - kernel_height) // strides[0] + 1
  columns = (padded.shape[2] - kernel_width) // strides[1] + 1
  span = (
    num_images,
    (height - 1) * strides[0] + 1,
    (columns - 1) * strides[1] + 1,
    channels,
  )

  # Without the checkpoint a copy of the images an offset would be kept.
  @jax.checkpoint
  def add(total: jax.Array, tap: Any) -> tuple[jax.Array, None]:
    row, column, weights = tap
    window = lax.dynamic_slice(padded, (0, row, column, 0), span)
    window = window[:, :: strides[0], :: strides[1]].reshape(-1, channels)
    return total + window @ weights, None

  rows, offsets = jnp.divmod(
    jnp.arange(kernel_height * kernel_width), kernel_width
  )
  taps = rows, offsets, kernel.reshape(-1, channels, width)
  zeros = jnp.zeros((num_images * height * columns, width), images.dtype)
  total, _ = lax.scan(add, zeros, taps)
  return total.reshape(num_images, height, columns, width)


def convolve_patches(
  images: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Pairs,
) -> jax.Array:
  """`convolve` as one product of patches and weights.

  Over networks side by side it is a batched matrix product, where `convolve`
  becomes a grouped convolution. It holds each pixel once an offset.

  Args:
    images: `[n, h, w, c]`.
    kernel: `[kh, kw, c, d]`, of the same type.
    strides: steps down and to the right.
    padding: rows of zeros `(above, below)` and columns `(left, right)`.

  Returns:
    Maps `[n, h', w', d]`.
  """
  kernel_height, kernel_width, channels, width = kernel.shape
  padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
  height = (padded.shape[1] - kernel_height) // strides[0] + 1
  columns = (padded.shape[2] - kernel_width) // strides[1] + 1
  patches = [
    padded[
      :,
      row : row + (height - 1) * strides[0] + 1 : strides[0],
      column : column + (columns - 1) * strides[1] + 1 : strides[1],
    ]
    for row in range(kernel_height)
    for column in range(kernel_width)
  ]
  weights = kernel.reshape(kernel_height * kernel_width * channels, width)
  return jnp.concatenate(patches, axis=-1) @ weights


def _for_linen(
  convolve_fn: Callable[..., jax.Array],
  images: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  dimension_numbers: lax.ConvDimensionNumbers,
  **options: Any,
) -> jax.Array:
  """A convolution as nn.Conv calls it; refuses what it cannot do."""
  del dimension_numbers  # Linen has no other than these.
  plain = {
    'lhs_dilation': (1, 1),
    'rhs_dilation': (1, 1),
    'feature_group_count': 1,
    'precision': None,
  }
  if options != plain:
    raise ValueError(
      f'convolution.Conv has no other options than {plain}; got {options}. '
      'Take flax.linen.Conv.'
    )
  strides = tuple(strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      images.shape[1:3], kernel.shape[:2], strides, padding
    )
  return convolve_fn(images, kernel, strides, tuple(padding))


def _layer(convolve_fn: Callable[..., jax.Array]) -> Callable[..., nn.Module]:
  """flax.linen.Conv, with the same parameters, over a function."""
  return functools.partial(
    nn.Conv, conv_general_dilated=functools.partial(_for_linen, convolve_fn)
  )


Conv = _layer(convolve)
PatchConv = _layer(convolve_patches)
