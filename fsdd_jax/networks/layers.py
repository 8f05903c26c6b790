"""Norms, initializations and pooling by name: what `extractors` is built of.

Images and maps are `[n, h, w, c]`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.networks.convolution import Conv, PatchConv

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
  """The entry of a table, or a `ValueError` that names the choices."""
  if name not in table:
    raise ValueError(
      f'Unknown {kind} {name!r}; choose one of {", ".join(sorted(table))}.'
    )
  return table[name]


class InstanceNorm(nn.Module):
  """Normalizes each channel of each image, then scales and shifts.

  Two passes, as exact as float32 allows. On the CPU, forward and backward
  within a ConvNet are as fast as those of nn.InstanceNorm, or faster.
  """

  # nn.InstanceNorm(use_fast_variance=False) has the same values, but gradients
  # of other bytes, which would change every distilled set.

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[n, h, w, c]` to the same shape and type."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    y = x.astype(jnp.float32)
    y = y - y.mean((1, 2), keepdims=True)
    variance = jnp.square(y).mean((1, 2), keepdims=True)
    y = y * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
    return y.astype(x.dtype)


def _no_norm(x: jax.Array, train: bool) -> jax.Array:
  del train
  return x


def _instance_norm(x: jax.Array, train: bool) -> jax.Array:
  del train
  return InstanceNorm()(x)


def _group_norm(x: jax.Array, train: bool) -> jax.Array:
  del train
  return nn.GroupNorm(num_groups=4, epsilon=1e-5)(x)


def _batch_norm(x: jax.Array, train: bool) -> jax.Array:
  # Flax's momentum is the share that stays: PyTorch's 0.1.
  norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
  return norm(x)


NORMS: dict[str, Callable[[jax.Array, bool], jax.Array]] = {
  'none': _no_norm,
  'instance': _instance_norm,
  'batch': _batch_norm,
  'group': _group_norm,
}


def _pytorch(fan_in: int) -> tuple[Initializer, Initializer]:
  """U(-b, b) with b = 1 / sqrt(fan_in) for weights and biases."""

  def uniform(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
  ) -> jax.Array:
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return uniform, uniform


def _lecun(fan_in: int) -> tuple[Initializer, Initializer]:
  """Flax's default: normal of variance 1 / fan_in, zero biases."""
  del fan_in
  return nn.initializers.lecun_normal(), nn.initializers.zeros


INITIALIZATIONS: dict[str, Callable[[int], tuple[Initializer, Initializer]]] = {
  'pytorch': _pytorch,
  'lecun': _lecun,
}


def pad_to_multiple(images: jax.Array, multiple: int) -> jax.Array:
  """Zeros on all sides, so that pooling divides evenly (28 to 32, as DC)."""
  widths = [(0, 0)]
  for size in images.shape[1:3]:
    missing = -size % multiple
    widths.append((missing // 2, missing - missing // 2))
  return jnp.pad(images, [*widths, (0, 0)])


def max_pool(x: jax.Array) -> jax.Array:
  """2 x 2 maxima. On the CPU the gradient of nn.max_pool is 3 times slower."""
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


class Network(nn.Module):
  """What all networks of `extractors` share.

  Attributes:
    num_classes: columns of the logits.
    norm: a name of `NORMS`.
    initialization: a name of `INITIALIZATIONS`, for convolutions and
      classifier.
    dtype: type that convolutions compute in, e.g. `jnp.bfloat16`; None means
      that of the images. Parameters, features and logits stay float32.
  """

  num_classes: int = 10
  norm: str = 'instance'
  initialization: str = 'pytorch'
  dtype: Any = None

  # Of a class, not a field: it changes how, not what, a network computes.
  layer: ClassVar[Callable[..., nn.Module]] = Conv
  activation_fn: ClassVar[Callable[[jax.Array], jax.Array]] = staticmethod(
    nn.relu
  )

  def __post_init__(self) -> None:
    """Checks names where the module is made, not where it is first applied."""
    choose(NORMS, self.norm, 'norm')
    choose(INITIALIZATIONS, self.initialization, 'initialization')
    super().__post_init__()

  @nn.nowrap
  def conv(
    self,
    x: jax.Array,
    width: int,
    *,
    size: int = 3,
    stride: int = 1,
    use_bias: bool = True,
  ) -> jax.Array:
    """A `size` x `size` convolution, padded on both sides as in PyTorch."""
    initializers = INITIALIZATIONS[self.initialization]
    kernel_init, bias_init = initializers(size * size * x.shape[-1])
    layer = type(self).layer(
      width,
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=kernel_init,
      bias_init=bias_init,
    )
    return layer(x)

  @nn.nowrap
  def activate(self, x: jax.Array) -> jax.Array:
    """ReLU, or what `with_softplus` has put in its place."""
    return type(self).activation_fn(x)

  @nn.nowrap
  def normalize(self, x: jax.Array, train: bool) -> jax.Array:
    """The norm by its name."""
    return NORMS[self.norm](x, train)

  @nn.nowrap
  def head(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `[n, num_classes]` and features `[n, d]` of the last map."""
    features = x.reshape(len(x), -1).astype(jnp.float32)
    initializers = INITIALIZATIONS[self.initialization]
    kernel_init, bias_init = initializers(features.shape[-1])
    classifier = nn.Dense(
      self.num_classes,
      kernel_init=kernel_init,
      bias_init=bias_init,
      name='classifier',
    )
    return classifier(features), features


@functools.cache
def _soft_class(kind: Any, beta: float) -> type[Network]:
  def activation(x: jax.Array) -> jax.Array:
    return nn.softplus(beta * x) / beta

  return type(
    kind.__name__, (kind,), {'activation_fn': staticmethod(activation)}
  )


def with_softplus(network: nn.Module, beta: float) -> nn.Module:
  """The same network with a smooth activation instead of ReLU.

  Args:
    network: one built on `layers.Network`, whose weights fit both.
    beta: softplus(beta x) / beta; the larger, the closer to ReLU; 0: ReLU.

  Raises:
    TypeError: for another network.
  """
  if not beta:
    return network
  if not isinstance(network, Network):
    raise TypeError(
      f'{type(network).__name__} does not say its activation; derive it from '
      'layers.Network and use its method activate, or choose no softplus.'
    )
  kind: Any = type(network)
  fields = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(kind)
    if field.name not in ('parent', 'name')
  }
  return _soft_class(kind, beta)(**fields)


def by_patches(network: nn.Module) -> nn.Module:
  """The same network with convolutions as products of patches and weights.

  Raises:
    TypeError: for a network that is not built on `Network`.
  """
  kind = type(network)
  if not issubclass(kind, Network):
    raise TypeError(
      f'{kind.__name__} does not say its convolutions; derive it from '
      'layers.Network and build them by its method conv.'
    )
  other = type(kind.__name__, (kind,), {'layer': PatchConv})
  fields = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(network)  # type: ignore[arg-type]
    if field.name not in ('parent', 'name')
  }
  return other(**fields)
