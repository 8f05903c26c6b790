"""What the translators are made of: residual blocks, a decoder of maps."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.networks.convolution import Conv

Maps = tuple[jax.Array, ...]


def variance_scaling(scale: float) -> nn.initializers.Initializer:
  """Normal weights whose outputs have `scale` times the inputs' variance."""
  return nn.initializers.variance_scaling(scale, 'fan_in', 'truncated_normal')


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions beside a skip.

  Attributes:
    branch_scale: variance of the branch relative to that of the skip at
      initialisation.
  """

  branch_scale: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns `[n, h, w, c]` as it takes them."""
    width = x.shape[-1]
    y = Conv(width, (3, 3), kernel_init=variance_scaling(2.0))(nn.relu(x))
    y = Conv(
      width, (3, 3), kernel_init=variance_scaling(2.0 * self.branch_scale)
    )(nn.relu(y))
    return x + y


class MapDecoder(nn.Module):
  """Leads theta's maps up to one size: a 3x3 convolution a map.

  Attributes:
    width: channels of the result.
  """

  width: int

  @nn.compact
  def __call__(self, maps: Maps, size: tuple[int, ...]) -> jax.Array:
    """Returns `[n, *size, width]` for maps from large to small."""
    y: Any = None
    for number, x in reversed(list(enumerate(maps))):
      # Maps of networks without norm are small; each image is its own scale.
      mean = jnp.mean(x**2, axis=(1, 2, 3), keepdims=True)
      x = x * jax.lax.rsqrt(mean + 1e-12)
      x = Conv(
        self.width,
        (3, 3),
        kernel_init=variance_scaling(2.0 / len(maps)),
        name=f'map_{number}',
      )(x)
      y = x if y is None else x + _resize(nn.relu(y), x.shape[1:3])
    return _resize(y, size)


def _resize(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """Nearest neighbours upwards, means downwards, cropped to a size.

  In the middle, as networks pad images on both sides.
  """
  for axis, wanted in enumerate(size, 1):
    found = x.shape[axis]
    if found < wanted:
      x = jnp.repeat(x, -(-wanted // found), axis)
    elif (factor := found // wanted) > 1:
      window = (factor, 1) if axis == 1 else (1, factor)
      x = nn.avg_pool(x, window, window)
    first = (x.shape[axis] - wanted) // 2
    x = jax.lax.slice_in_dim(x, first, first + wanted, axis=axis)
  return x
