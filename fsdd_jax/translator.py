"""The translator G: from images distilled in one network to better ones.

A fully convolutional residual auto-encoder, G(x) = x + Delta(x) (supplement,
A.1 "Translator"): it learns the difference between desired output and input,
and runs at any resolution. The supplement shows no layer sizes; those here are
this library's. There is no batch normalisation: translated images must not
depend on which others are in the batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.convolution import Conv
from fsdd_jax.types import LabeledSet

# Two stages of stride 2: sides of the inner images are multiples of it.
_TOTAL_STRIDE = 4


def _variance_scaling(scale: float) -> nn.initializers.Initializer:
  return nn.initializers.variance_scaling(scale, 'fan_in', 'truncated_normal')


class _ResidualBlock(nn.Module):
  """Two 3x3 convolutions beside a skip.

  Attributes:
    branch_scale: variance of the branch relative to that of the skip at
      initialisation.
  """

  branch_scale: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = Conv(width, (3, 3), kernel_init=_variance_scaling(2.0))(nn.relu(x))
    y = Conv(
      width, (3, 3), kernel_init=_variance_scaling(2.0 * self.branch_scale)
    )(nn.relu(y))
    return x + y


class Translator(nn.Module):
  """G(x) = x + Delta(x), Delta being a convolutional auto-encoder.

  3x3 convolution to `width` channels; two stages of stride 2 to 2 and 4 times
  as many; residual blocks; two stages of nearest up-sampling; and a linear
  head with the channels of the input.

  Attributes:
    width: channels of the outermost stage.
    num_blocks: number of residual blocks at a quarter of the resolution.
    head_scale: standard deviation of the head's weights at initialisation,
      relative to the usual one (1 / sqrt(fan in)). 0 makes G the identity. The
      small default starts near it and yet gives all layers a gradient from
      the first step on. Take 1 for an auto-encoder or for a translator that
      is used untrained, which would else hardly differ from the identity.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> same = Translator(width=1, num_blocks=0, head_scale=0.0)
    >>> images = jnp.ones((1, 8, 8, 3))
    >>> out, _ = same.init_with_output(jax.random.key(0), images)
    >>> jnp.array_equal(out, images).item()  # Without a head, G(x) = x.
    True
  """

  width: int = 64
  num_blocks: int = 4
  head_scale: float = 0.01

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Translates images.

    Args:
      images: `[..., h, w, c]` normalised images, any leading axes, h and w.

    Returns:
      Translated images of the same shape.
    """
    *_, height, width, channels = images.shape
    x = images.reshape(-1, height, width, channels)
    # Repeated borders, as zeros would draw an edge into the image.
    missing = (0, -height % _TOTAL_STRIDE), (0, -width % _TOTAL_STRIDE)
    x = jnp.pad(x, [(0, 0), *missing, (0, 0)], mode='edge')
    x = self._decode(self._encode(x))
    # A variance of 0 is no valid scale of the initialiser's, hence the product.
    base_init = _variance_scaling(1.0)
    delta = Conv(
      channels,
      (3, 3),
      kernel_init=lambda *args: self.head_scale * base_init(*args),
      name='head',
    )(x)
    return images + delta[:, :height, :width].reshape(images.shape)

  def _encode(self, x: jax.Array) -> jax.Array:
    he_init = _variance_scaling(2.0)
    x = Conv(self.width, (3, 3), kernel_init=he_init, name='stem')(x)
    for stage in (1, 2):
      x = Conv(
        self.width * 2**stage,
        (3, 3),
        strides=2,
        kernel_init=he_init,
        name=f'down_{stage}',
      )(nn.relu(x))
    for block in range(self.num_blocks):
      # Without normalisation the variance would double a block; so all blocks
      # together multiply it by less than e.
      x = _ResidualBlock(1.0 / self.num_blocks, name=f'block_{block}')(x)
    return nn.relu(x)

  def _decode(self, x: jax.Array) -> jax.Array:
    for stage in (1, 0):
      x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
      x = Conv(
        self.width * 2**stage,
        (3, 3),
        kernel_init=_variance_scaling(2.0),
        name=f'up_{2 - stage}',
      )(x)
      x = nn.relu(x)
    return x


def translate(
  translator: nn.Module, variables: Mapping[str, Any], labeled: LabeledSet
) -> LabeledSet:
  """Translates the images of a distilled set (Alg. 2, line 6).

  Args:
    translator: a module that maps images to images of the same shape.
    variables: its variables, `{'params': omega}`.
    labeled: a set, or several at once with more leading axes: images
      `[..., n, h, w, c]`, labels `[..., n, k]`, mask `[..., n]`.

  Returns:
    The set with translated images; labels and mask as before, and images of
    padded rows exactly 0, as is their gradient.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import toy, types
    >>> g = toy.translator()
    >>> labeled = types.labeled_set(jnp.ones((2, 8, 8, 3)), jnp.eye(2))
    >>> translated = jax.jit(translate, static_argnums=0)
    >>> translated(g.translator, g.variables, labeled).images.shape
    (2, 8, 8, 3)
    >>> gradient = jax.grad(
    ...   lambda v: translate(g.translator, v, labeled).images.sum()
    ... )(g.variables)
    >>> gradient['params']['head']['bias'].shape
    (3,)
  """
  images: Any = translator.apply(variables, labeled.images)
  keep = labeled.mask[..., None, None, None] > 0
  return dataclasses.replace(labeled, images=jnp.where(keep, images, 0.0))
