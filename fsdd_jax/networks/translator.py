"""The translator G: from images distilled in one network to better ones.

A fully convolutional residual network, G(x) = x + Delta(x) (supplement, A.1
"Translator"): it learns the difference between desired output and input, and
runs at any resolution. The supplement shows no layer sizes; those here are this
library's. No batch normalisation: an image must not depend on its batch.

The paper's translator sees the images alone. Here it may also see what
distillation added to its start, x - x_0, and the feature maps of theta, for
which that was made (`INPUTS`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.networks.convolution import Conv
from fsdd_jax.networks.translator_layers import (
  MapDecoder,
  Maps,
  ResidualBlock,
  variance_scaling,
)
from fsdd_jax.types import LabeledSet

INPUTS = ('images', 'start', 'theta')

MapsFn = Callable[[jax.Array], tuple[jax.Array, ...]]


class _Residual(nn.Module):
  """What all translators share: inputs, padding, skip and head.

  A subclass says how large its stride is and what lies between.

  Attributes:
    width: channels of the outermost stage.
    num_blocks: number of residual blocks.
    head_scale: standard deviation of the head's weights at initialisation,
      relative to the usual one (1 / sqrt(fan in)). 0 makes G the identity. The
      small default starts near it and yet gives all layers a gradient from
      the first step on. Take 1 for an auto-encoder or for a translator that
      is used untrained, which would else hardly differ from the identity.
    inputs: what it sees, of `INPUTS`.
  """

  width: int = 64
  num_blocks: int = 4
  head_scale: float = 0.01
  inputs: tuple[str, ...] = ('images',)

  stride = 1

  def __post_init__(self) -> None:
    self.inputs = tuple(self.inputs)
    if 'images' not in self.inputs or set(self.inputs) - set(INPUTS):
      raise ValueError(
        f'A translator sees images, and start and theta beside them; got '
        f'inputs={self.inputs!r}.'
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self, images: jax.Array, start: jax.Array | None = None, maps: Maps = ()
  ) -> jax.Array:
    """Translates images.

    Args:
      images: `[..., h, w, c]` normalised images, any leading axes, h and w.
      start: `[..., h, w, c]` x_0, if 'start' is among the inputs.
      maps: theta's maps of the images, leading axes as one, if 'theta' is.

    Returns:
      Translated images of the same shape.
    """
    *_, height, width, channels = images.shape
    x = images.reshape(-1, height, width, channels)
    if 'start' in self.inputs:
      assert start is not None  # `translate` sees to it.
      x = jnp.concatenate([x, x - start.reshape(x.shape)], axis=-1)
    # Repeated borders, as zeros would draw an edge into the image.
    missing = (0, -height % self.stride), (0, -width % self.stride)
    x = jnp.pad(x, [(0, 0), *missing, (0, 0)], mode='edge')
    delta = self._delta(x, maps, channels)
    return images + delta[:, :height, :width].reshape(images.shape)

  def _head(self, x: jax.Array, channels: int) -> jax.Array:
    # A variance of 0 is no valid scale of the initialiser's, hence the product.
    base_init = variance_scaling(1.0)
    return Conv(
      channels,
      (3, 3),
      kernel_init=lambda *args: self.head_scale * base_init(*args),
      name='head',
    )(x)

  def _see_maps(self, x: jax.Array, maps: Maps) -> jax.Array:
    """Adds theta's maps, at the size of the inner images."""
    if 'theta' not in self.inputs:
      return x
    decoder = MapDecoder(x.shape[-1], name='maps')
    return x + decoder(maps, x.shape[1:3])

  def _blocks(self, x: jax.Array) -> jax.Array:
    for block in range(self.num_blocks):
      # Without normalisation the variance would double a block; so all blocks
      # together multiply it by less than e.
      x = ResidualBlock(1.0 / self.num_blocks, name=f'block_{block}')(x)
    return nn.relu(x)

  def _delta(self, x: jax.Array, maps: Maps, channels: int) -> jax.Array:
    raise NotImplementedError


class Translator(_Residual):
  """G(x) = x + Delta(x), Delta being a convolutional auto-encoder (A.1).

  3x3 convolution to `width` channels; two stages of stride 2 to 2 and 4 times
  as many; residual blocks; two stages of nearest up-sampling; and a linear
  head with the channels of the input.

  Attributes:
    width: channels of the outermost stage.
    num_blocks: number of residual blocks at a quarter of the resolution.
    head_scale: initial weights of the head; 0 makes G the identity.
    inputs: what it sees, of `INPUTS`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> same = Translator(width=1, num_blocks=0, head_scale=0.0)
    >>> images = jnp.ones((1, 8, 8, 3))
    >>> out, _ = same.init_with_output(jax.random.key(0), images)
    >>> jnp.array_equal(out, images).item()  # Without a head, G(x) = x.
    True
  """

  stride = 4

  def _delta(self, x: jax.Array, maps: Maps, channels: int) -> jax.Array:
    he_init = variance_scaling(2.0)
    x = Conv(self.width, (3, 3), kernel_init=he_init, name='stem')(x)
    for stage in (1, 2):
      x = Conv(
        self.width * 2**stage,
        (3, 3),
        strides=2,
        kernel_init=he_init,
        name=f'down_{stage}',
      )(nn.relu(x))
    x = self._blocks(self._see_maps(x, maps))
    for stage in (1, 0):
      x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
      x = Conv(
        self.width * 2**stage,
        (3, 3),
        kernel_init=he_init,
        name=f'up_{2 - stage}',
      )(x)
      x = nn.relu(x)
    return self._head(x, channels)


class LightTranslator(_Residual):
  """G(x) = x + Delta(x), Delta working at half the resolution throughout.

  Each 2 x 2 pixels become the channels of one; a 3x3 convolution, residual
  blocks and a linear head follow, and the pixels are spread again.

  The fields are those of `Translator`; `width` is that of all inner layers.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> g = LightTranslator(width=4, num_blocks=1, inputs=('images', 'start'))
    >>> x = jnp.ones((2, 8, 8, 3))
    >>> out, _ = g.init_with_output(jax.random.key(0), x, start=x)
    >>> out.shape
    (2, 8, 8, 3)
  """

  stride = 2

  def _delta(self, x: jax.Array, maps: Maps, channels: int) -> jax.Array:
    n, height, width, _ = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // 2, width // 2, -1)
    he_init = variance_scaling(2.0)
    x = Conv(self.width, (3, 3), kernel_init=he_init, name='stem')(x)
    x = self._blocks(self._see_maps(x, maps))
    x = self._head(x, 4 * channels)
    x = x.reshape(n, height // 2, width // 2, 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, channels)


TRANSLATORS: dict[str, type[_Residual]] = {
  'auto_encoder': Translator,
  'light': LightTranslator,
}


def translate(
  translator: nn.Module,
  variables: Mapping[str, Any],
  labeled: LabeledSet,
  maps_of: MapsFn | None = None,
) -> LabeledSet:
  """Translates the images of a distilled set (Alg. 2, line 6).

  Args:
    translator: a module that maps images to images of the same shape.
    variables: its variables, `{'params': omega}`.
    labeled: a set, or several at once with more leading axes: images
      `[..., n, h, w, c]`, labels `[..., n, k]`, mask `[..., n]`, and start as
      images where the translator sees it.
    maps_of: theta's feature maps of images `[n, h, w, c]`, for a translator
      that sees them; see `FixedNetwork.maps_of`.

  Returns:
    The set with translated images and without start; labels and mask as
    before, and images of padded rows exactly 0, as is their gradient.

  Raises:
    ValueError: if an input is missing that the translator sees.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax import types
    >>> g = toy.translator()
    >>> labeled = types.labeled_set(jnp.ones((2, 8, 8, 3)), jnp.eye(2))
    >>> translate(g.translator, g.variables, labeled).images.shape
    (2, 8, 8, 3)
  """
  inputs = getattr(translator, 'inputs', ('images',))
  seen: dict[str, Any] = {}
  if 'start' in inputs:
    if labeled.start is None:
      raise ValueError(
        'This translator sees the images that distillation began with, but '
        'the set has no start; take a set as `distill_in_theta` returns it.'
      )
    seen['start'] = labeled.start
  if 'theta' in inputs:
    if maps_of is None:
      raise ValueError(
        'This translator sees the feature maps of theta; give maps_of.'
      )
    flat = labeled.images.reshape(-1, *labeled.images.shape[-3:])
    seen['maps'] = jax.lax.stop_gradient(maps_of(flat))
  images: Any = translator.apply(variables, labeled.images, **seen)
  keep = labeled.mask[..., None, None, None] > 0
  images = jnp.where(keep, images, 0.0)
  return dataclasses.replace(labeled, images=images, start=None)


def init(
  key: jax.Array,
  translator: nn.Module,
  image_shape: Sequence[int],
  maps_of: MapsFn | None = None,
) -> Any:
  """Draws the weights of a translator (Alg. 2, line 1).

  Args:
    key: random key, consumed.
    translator: the module G.
    image_shape: `(h, w, c)` of images; only c shapes the parameters.
    maps_of: see `translate`.

  Returns:
    Its variables, `{'params': omega}`.
  """
  shape = tuple(image_shape)
  maps = () if maps_of is None else maps_of(jnp.zeros((1, *shape), jnp.float32))
  return _init(key, maps, translator, shape)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _init(
  key: jax.Array,
  maps: Maps,
  translator: nn.Module,
  image_shape: tuple[int, ...],
) -> Any:
  images = jnp.zeros((1, *image_shape), jnp.float32)
  inputs = getattr(translator, 'inputs', ('images',))
  seen: dict[str, Any] = {}
  if 'start' in inputs:
    seen['start'] = images
  if 'theta' in inputs:
    seen['maps'] = maps
  return translator.init(key, images, **seen)
