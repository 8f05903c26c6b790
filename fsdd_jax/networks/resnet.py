"""DC's ResNet18."""

import flax.linen as nn
import jax

from fsdd_jax.networks.layers import Network, pad_to_multiple


class ResNet18(Network):
  """DC's ResNet18 for small images, global average pooling; d = 512."""

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    # More than a pixel must be left, of which instance norm makes a constant.
    x = pad_to_multiple(images, 8 if min(images.shape[1:3]) > 8 else 16)
    x = self.conv(x, 64, use_bias=False)
    x = self.activate(self.normalize(x, train))
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
      x = self._block(x, width, stride, train)
      x = self._block(x, width, 1, train)
    return self.head(x.mean((1, 2)))

  @nn.nowrap
  def _block(
    self, x: jax.Array, width: int, stride: int, train: bool
  ) -> jax.Array:
    y = self.conv(x, width, stride=stride, use_bias=False)
    y = self.activate(self.normalize(y, train))
    y = self.normalize(self.conv(y, width, use_bias=False), train)
    if x.shape[-1] != width:
      x = self.conv(x, width, size=1, stride=stride, use_bias=False)
      x = self.normalize(x, train)
    return self.activate(x + y)
