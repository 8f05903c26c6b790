"""DC's VGG11."""

import flax.linen as nn
import jax

from fsdd_jax.networks.layers import Network, max_pool, pad_to_multiple


class VGG11(Network):
  """DC's VGG11: eight convolutions, five poolings; d = 512 at 32 x 32."""

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    x = pad_to_multiple(images, 32)
    for widths in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
      for width in widths:
        x = self.activate(self.normalize(self.conv(x, width), train))
      x = max_pool(x)
    return self.head(x)
