"""theta: the one random network that translators are trained for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.options import SEEDS, whole


@dataclasses.dataclass(frozen=True)
class FixedNetwork:
  """theta: the arbitrary but fixed random network of Alg. 1 and Alg. 3.

  Attributes:
    network: its module.
    seed: of its weights.
    image_shape: `(h, w, c)` that the translator was pre-trained at.

  Example:
    >>> import toy
    >>> network, _, _ = toy.problem()
    >>> theta = FixedNetwork(network, seed=0, image_shape=(8, 8, 3))
    >>> theta.sample((8, 8, 3))['params']['Conv_0']['kernel'].shape
    (3, 3, 3, 4)
  """

  network: nn.Module
  seed: int
  image_shape: tuple[int, ...]

  def __post_init__(self) -> None:
    whole('theta_seed', self.seed, below=SEEDS)

  def sample(self, image_shape: tuple[int, ...]) -> Any:
    """Its variables for images `(h, w, c)`; only the head depends on h, w."""
    key = jax.random.key(self.seed)
    return random_networks.sample(key, self.network, image_shape)

  @property
  def maps_of(self) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """Its feature maps of images `[n, h, w, c]`; the same function each time.

    For a translator that sees them, see `translator.translate`.
    """
    return _maps_of(self)


def maps_for(
  translator: nn.Module, theta: FixedNetwork
) -> Callable[[jax.Array], tuple[jax.Array, ...]] | None:
  """The feature maps of theta that a translator sees, None if it sees none."""
  sees_theta = 'theta' in getattr(translator, 'inputs', ())
  return theta.maps_of if sees_theta else None


@functools.cache
def _maps_of(
  theta: FixedNetwork,
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
  @functools.cache
  def variables_for(image_shape: tuple[int, ...]) -> Any:
    # Drawn now, not within the function that is being compiled.
    with jax.ensure_compile_time_eval():
      return theta.sample(image_shape)

  def maps_of(images: jax.Array) -> tuple[jax.Array, ...]:
    variables = variables_for(images.shape[1:])
    return extractors.feature_maps(theta.network, variables, images)

  return maps_of
