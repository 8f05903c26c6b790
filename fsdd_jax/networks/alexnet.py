"""DC's AlexNet."""

import flax.linen as nn
import jax

from fsdd_jax.networks.layers import Network, max_pool, pad_to_multiple


class AlexNet(Network):
  """DC's AlexNet: five convolutions; d = 3072 at 32 x 32."""

  norm: str = 'none'

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    x = pad_to_multiple(images, 8)
    for width, size, pool in (
      (128, 5, True),
      (192, 5, True),
      (256, 3, False),
      (192, 3, False),
      (192, 3, True),
    ):
      x = self.activate(self.normalize(self.conv(x, width, size=size), train))
      x = max_pool(x) if pool else x
    return self.head(x)
