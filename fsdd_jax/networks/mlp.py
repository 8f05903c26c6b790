"""Fully connected layers."""

import flax.linen as nn
import jax

from fsdd_jax.networks.layers import Network


class Mlp(Network):
  """Fully connected layers with ReLU; features are those of the last.

  Attributes:
    width: units a layer.
    depth: number of layers, without the classifier.
  """

  norm: str = 'none'
  width: int = 128
  depth: int = 3

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    x = images.reshape(len(images), 1, 1, -1)
    for _ in range(self.depth):
      # A layer is a convolution of one pixel, by the same initialisation.
      x = self.activate(self.normalize(self.conv(x, self.width, size=1), train))
    return self.head(x)
