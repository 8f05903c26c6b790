"""Image operations of DSA and FRePo, as pure functions `(images, parameters)`.

Images are `[n, h, w, c]` floats. Parameters have a leading axis `p`, which is
1 (one parameter for the entire batch) or n (one an image).

All operations are affine in the images: they are differentiable, take any
value range, and map zero padding to finite values. Where dm_pix has the same
operation it is used.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import dm_pix
import jax
import jax.numpy as jnp

Parameters = Any  # A pytree of arrays [p, ...].
Fill = Callable[[jax.Array, int], jax.Array]  # (positions, size) -> positions


class ColorShift(NamedTuple):
  """Parameters of `color`, each `[p]`."""

  brightness: jax.Array
  saturation: jax.Array
  contrast: jax.Array


class Zoom(NamedTuple):
  """Parameters of `zoom`: factor `[p]` and offset `[p, 2]` in [-1, 1]."""

  factor: jax.Array
  offset: jax.Array


def zero_fill(positions: jax.Array, size: int) -> jax.Array:
  """Reads zeros outside the image (DSA)."""
  del size
  return positions


def edge_fill(positions: jax.Array, size: int) -> jax.Array:
  """Reads the nearest pixel outside the image (FRePo)."""
  return jnp.clip(positions, 0, size - 1)


def _batched(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Lifts `fn(image, parameters)` to a batch, with p = 1 or p = n."""

  @functools.wraps(fn)
  def apply(
    images: jax.Array, parameters: Parameters, **kwargs: Any
  ) -> jax.Array:
    rows = {len(leaf) for leaf in jax.tree.leaves(parameters)}
    one_image = functools.partial(fn, **kwargs)
    if rows == {1}:
      # Unbatched parameters keep the resampling weights shared.
      shared = jax.tree.map(lambda leaf: leaf[0], parameters)
      return jax.vmap(one_image, in_axes=(0, None))(images, shared)
    if rows != {len(images)}:
      raise ValueError(
        f'{fn.__name__} needs parameters for 1 image or for all '
        f'{len(images)}; got leading axes {sorted(rows)}.'
      )
    return jax.vmap(one_image)(images, parameters)

  return apply


def _centered(size: int) -> jax.Array:
  """Pixel positions relative to the image's center, `[size]`."""
  return jnp.arange(size) - (size - 1) / 2


def _resample(
  image: jax.Array, rows: jax.Array, columns: jax.Array
) -> jax.Array:
  """Bilinear values at rows x columns, counted from the center; zero outside.

  Two small matrix products, as a gather's transpose is a slow scatter. Full
  precision, as TF32 or bfloat16 would round pixels.
  """

  def weights(positions: jax.Array, size: int) -> jax.Array:
    distance = jnp.abs(positions[:, None] - jnp.arange(size))
    return jnp.maximum(0.0, 1.0 - distance)

  by_row = weights(rows, image.shape[0])
  by_column = weights(columns, image.shape[1])
  return jnp.einsum(
    'ah,bw,hwc->abc', by_row, by_column, image, precision='highest'
  )


def _interpolate(
  image: jax.Array, rows: jax.Array, columns: jax.Array
) -> jax.Array:
  """Bilinear values at positions `[h, w]` each; zero outside the image."""
  # Not jax.scipy.ndimage.map_coordinates: the same values, but the gradient is
  # added up in another order, which changes the bytes of every distilled set.
  h, w, _ = image.shape
  total = jnp.zeros_like(image)
  for row in (jnp.floor(rows), jnp.floor(rows) + 1):
    for column in (jnp.floor(columns), jnp.floor(columns) + 1):
      inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
      weight = (1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column))
      r = jnp.clip(row, 0, h - 1).astype(jnp.int32)
      c = jnp.clip(column, 0, w - 1).astype(jnp.int32)
      total += jnp.where(inside, weight, 0.0)[..., None] * image[r, c]
  return total


@_batched
def brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds `delta` `[p]` to every pixel of `[n, h, w, c]` images."""
  return dm_pix.adjust_brightness(image, delta)


@_batched
def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance to each pixel's channel mean by `factor` `[p]`.

  The identity for one channel. dm_pix's HSV form needs images in [0, 1].
  """
  mean = image.mean(axis=-1, keepdims=True)
  return (image - mean) * factor + mean


@_batched
def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance to the image's mean by `factor` `[p]`.

  One mean over pixels and channels, as in DSA; dm_pix takes one a channel.
  """
  mean = image.mean()
  return (image - mean) * factor + mean


def color(images: jax.Array, shift: ColorShift) -> jax.Array:
  """Brightness, then saturation, then contrast of `[n, h, w, c]` images."""
  images = brightness(images, shift.brightness)
  images = saturation(images, shift.saturation)
  return contrast(images, shift.contrast)


@_batched
def crop(
  image: jax.Array, shift: jax.Array, *, fill: Fill = zero_fill
) -> jax.Array:
  """Moves the window over `[n, h, w, c]` images by `shift` `[p, 2]` pixels.

  Output pixel i reads i + shift (rows, columns), bilinear if not whole.
  """
  h, w, _ = image.shape
  rows = fill(jnp.arange(h) + shift[0], h)
  return _resample(image, rows, fill(jnp.arange(w) + shift[1], w))


@_batched
def cutout(image: jax.Array, box: jax.Array) -> jax.Array:
  """Zeroes a rectangle of `[n, h, w, c]` images, clipped to the image.

  `box` is `[p, 4]` int32: top, left, bottom, right, the last two exclusive.
  """
  rows, columns = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])
  in_rows = (rows >= box[0]) & (rows < box[2])
  in_columns = (columns >= box[1]) & (columns < box[3])
  inside = in_rows[:, None] & in_columns
  return jnp.where(inside[..., None], 0.0, image)


@_batched
def flip(image: jax.Array, flipped: jax.Array) -> jax.Array:
  """Mirrors `[n, h, w, c]` images sideways where `flipped` `[p]` (bool)."""
  return jnp.where(flipped, dm_pix.flip_left_right(image), image)


@_batched
def scale(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales `[n, h, w, c]` images about the center, bilinear, zero fill.

  Positions are multiplied by `factor` `[p, 2]` (vertical, horizontal): 0.5
  enlarges twice. Pixel centers are the grid's corners (align_corners=True).
  """
  h, w, _ = image.shape
  rows = _centered(h) * factor[0] + (h - 1) / 2
  return _resample(image, rows, _centered(w) * factor[1] + (w - 1) / 2)


@_batched
def zoom(image: jax.Array, parameters: Zoom) -> jax.Array:
  """Enlarges `[n, h, w, c]` images and moves the window within the result.

  FRePo's crop: a factor of 2 enlarges twice, an offset of -1 or 1 puts the
  window at an edge of the scaled image; bilinear, edge fill.
  """

  def positions(size: int, offset: jax.Array) -> jax.Array:
    shift = offset * jnp.abs(parameters.factor - 1) * size / 2
    source = (_centered(size) + shift) / parameters.factor + (size - 1) / 2
    return edge_fill(source, size)

  h, w, _ = image.shape
  rows = positions(h, parameters.offset[0])
  return _resample(image, rows, positions(w, parameters.offset[1]))


@_batched
def rotate(
  image: jax.Array, angle: jax.Array, *, fill: Fill = zero_fill
) -> jax.Array:
  """Rotates `[n, h, w, c]` images about the center, bilinear.

  `angle` is `[p]` radians, counter-clockwise. Pixels, not unit squares, are
  rotated, so oblong images are not sheared. (dm_pix blanks whole pixels at
  the border and multiplies positions at the default, perhaps low, precision.)
  """
  h, w, _ = image.shape
  y, x = jnp.meshgrid(_centered(h), _centered(w), indexing='ij')
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  rows = fill(cos * y + sin * x + (h - 1) / 2, h)
  return _interpolate(image, rows, fill(cos * x - sin * y + (w - 1) / 2, w))
