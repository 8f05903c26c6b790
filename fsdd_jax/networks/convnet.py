"""The ConvNet of DC, DSA, DM, MTT, HaBa and FRePo."""

import math

import flax.linen as nn
import jax

from fsdd_jax.networks.layers import Network, pad_to_multiple


def depth_for(image_size: int) -> int:
  """Blocks of a ConvNet: 3 at 28 and 32 pixels, 4 at 64, 5 at 128 (DC, MTT)."""
  return max(1, round(math.log2(image_size)) - 2)


class ConvNet(Network):
  """Blocks of 3 x 3 convolution, norm, ReLU and 2 x 2 average pooling.

  Constant width is DC's ConvNet (d = 2048 at 32 x 32), `width_multiplier=2`
  FRePo's (d = 8192).

  Attributes:
    width: channels of the first block.
    depth: number of blocks; see `depth_for`.
    width_multiplier: factor of the width from one block to the next.
  """

  width: int = 128
  depth: int = 3
  width_multiplier: int = 1

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    x = pad_to_multiple(images, 2**self.depth)
    for block in range(self.depth):
      x = self.conv(x, self.width * self.width_multiplier**block)
      x = self.activate(self.normalize(x, train))
      x = nn.avg_pool(x, (2, 2), strides=(2, 2))
      self.sow('intermediates', 'maps', x)  # For `feature_maps`.
    return self.head(x)
