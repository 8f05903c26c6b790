"""Feature extractors of the field as Linen modules: `(logits, features)`.

The ConvNet, AlexNet, VGG11 and ResNet18 of dataset condensation (DC, DSA, DM,
MTT, HaBa). Images are `[n, h, w, c]` float32 with any h, w and c; features are
`[n, d]`, the last map flattened; the classifier on top takes features.
Further modules join by `register`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.networks.layers import Network, choose, max_pool, pad_to_multiple

HEAD = 'classifier'  # What takes features; no feature depends on it.

FieldsFor = Callable[[tuple[int, ...]], dict[str, Any]]


def depth_for(image_size: int) -> int:
  """Blocks of a ConvNet: 3 at 28 and 32 pixels, 4 at 64, 5 at 128 (DC, MTT)."""
  return max(1, round(math.log2(image_size)) - 2)


NETWORKS: dict[str, tuple[type[nn.Module], FieldsFor]] = {}


def register(
  name: str, *, fields_for: FieldsFor = lambda image_shape: {}
) -> Callable[[type[nn.Module]], type[nn.Module]]:
  """Class decorator that lets `make` build a module by name.

  The module must have a field `num_classes`, and `apply(variables, images,
  train=False)` must return logits `[n, num_classes]` and features `[n, d]`.

  Args:
    name: name for `make`; a class of the same qualified name is replaced, so
      that a notebook's cell can run twice.
    fields_for: defaults of fields that depend on the image shape `(h, w, c)`.

  Returns:
    The decorator; it returns the class unchanged.

  Raises:
    TypeError: if the class is no Linen module with a field `num_classes`.
    ValueError: if another class has the name.

  Example:
    >>> import flax.linen as nn
    >>> @register('flat')
    ... class Flat(nn.Module):
    ...   num_classes: int = 10
    ...   @nn.compact
    ...   def __call__(self, images, train=False):
    ...     features = images.reshape(len(images), -1)
    ...     return nn.Dense(self.num_classes)(features), features
    >>> make('flat', image_shape=(8, 8, 3), num_classes=2).num_classes
    2
    >>> del NETWORKS['flat']
  """

  def add(module: type[nn.Module]) -> type[nn.Module]:
    is_module = isinstance(module, type) and issubclass(module, nn.Module)
    if not is_module or 'num_classes' not in _fields(module):
      raise TypeError(
        f'Network {name!r} must be a flax.linen.Module with a field '
        f'num_classes; got {module!r}.'
      )
    if name in NETWORKS:
      taken = NETWORKS[name][0].__qualname__
      if taken != module.__qualname__:
        raise ValueError(
          f'The network name {name!r} belongs to {taken}; choose another.'
        )
    NETWORKS[name] = (module, fields_for)
    return module

  return add


def _fields(module: type[nn.Module]) -> list[str]:
  names = [field.name for field in dataclasses.fields(module)]
  return [name for name in names if name not in ('parent', 'name')]


def make(
  name: str, *, image_shape: Sequence[int], num_classes: int, **fields: Any
) -> nn.Module:
  """Builds a network by its registered name.

  Args:
    name: 'convnet', 'mlp', 'alexnet', 'vgg11', 'resnet18' or a registered name.
    image_shape: `(h, w, c)` of the images; sets the depth of a ConvNet.
    num_classes: columns of the logits.
    **fields: further fields of the module.

  Returns:
    A module; its parameters are drawn by `init`.

  Raises:
    ValueError: if the name, a field or its value is unknown.

  Example:
    >>> net = make('convnet', image_shape=(64, 64, 3), num_classes=10, width=4)
    >>> net.depth, net.width, net.norm
    (4, 4, 'instance')
  """
  module, fields_for = choose(NETWORKS, name, 'network')
  shape = tuple(image_shape)
  if len(shape) != 3 or min(shape) < 1:
    raise ValueError(f'image_shape must be (h, w, c), each >= 1; got {shape}.')
  known = _fields(module)
  if unknown := sorted(set(fields) - set(known)):
    raise ValueError(
      f'Network {name!r} has no field {", ".join(unknown)}; its fields are '
      f'{", ".join(known)}.'
    )
  return module(**{**fields_for(shape), **fields, 'num_classes': num_classes})


def check_variables(
  variables: Any, expected: Any, where: Any, *, besides: str = ''
) -> None:
  """Makes sure that variables are those of a module, by names and shapes.

  Args:
    variables: nested mappings of arrays.
    expected: what the module draws, or its shapes.
    where: they come from, the beginning of the message.
    besides: a part whose shapes may differ, as a head of other classes.

  Raises:
    ValueError: naming the first variables that differ.
  """
  found, needed = (
    {
      '/'.join(str(getattr(part, 'key', part)) for part in path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (variables, expected)
  )
  wrong = [
    f'{name} is {found.get(name, "missing")}, {needed.get(name, "none")} is '
    'needed'
    for name in sorted(found.keys() | needed.keys())
    if name not in found
    or name not in needed
    or (found[name] != needed[name] and besides not in name.split('/'))
  ]
  if wrong:
    raise ValueError(
      f'{where}: its variables are not those of the module: '
      f'{"; ".join(wrong[:3])}. Give the file of that module, or write it anew.'
    )


def outputs(found: Any, images: Any) -> tuple[jax.Array, jax.Array]:
  """What a network returned, once it is what all stages need.

  Args:
    found: of `network.apply`.
    images: `[n, h, w, c]` that it was applied to.

  Returns:
    Logits `[n, k]` and features `[n, d]`.

  Raises:
    ValueError: if it is something else; at tracing, before anything runs.
  """
  is_pair = isinstance(found, tuple | list) and len(found) == 2
  if not is_pair or any(
    jnp.ndim(part) != 2 or len(part) != len(images) for part in found
  ):
    parts = [
      f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
      for leaf in jax.tree.leaves(found)
    ]
    raise ValueError(
      'A network must return (logits [n, k], features [n, d]); got '
      f'{", ".join(parts)} for {len(images)} images.'
    )
  return found[0], found[1]


def describe(network: nn.Module) -> str:
  """One line that names a network's class and fields, for tables."""
  parts = []
  for field in dataclasses.fields(network):  # type: ignore[arg-type]
    value = getattr(network, field.name)
    told = field.name in ('norm', 'width', 'depth') or value != field.default
    if told and field.name not in ('parent', 'name', 'num_classes'):
      parts.append(f'{field.name}={value}')
  return f'{type(network).__name__}({", ".join(parts)})'


def describe_network(network: nn.Module) -> dict[str, Any]:
  """Name and fields of a network as JSON values, for manifests and artifacts.

  `make(**description, image_shape=..., num_classes=...)` builds it
  again. The number of classes is left out, as features do not depend on it.

  Args:
    network: a module, of a class known to `make` if it is to be built
      again.

  Returns:
    `{'name': ..., field: value, ...}`.
  """
  names = {module: name for name, (module, _) in NETWORKS.items()}
  kind = type(network)
  description = {'name': names.get(kind, kind.__qualname__)}
  for field in dataclasses.fields(network):  # type: ignore[arg-type]
    if field.name not in ('parent', 'name', 'num_classes'):
      value = getattr(network, field.name)
      if isinstance(value, tuple):
        value = list(value)
      elif not isinstance(value, bool | int | float | str | None):
        value = getattr(value, '__name__', repr(value))  # Such as a dtype.
      description[field.name] = value
  return description


def feature_maps(
  network: nn.Module, variables: Any, images: jax.Array
) -> tuple[jax.Array, ...]:
  """The maps after each block of a network, from large to small.

  Args:
    network: a module that sows them as `maps` in `intermediates`, as the
      ConvNet does.
    variables: its weights.
    images: `[n, h, w, c]`.

  Returns:
    Maps `[n, h', w', c']`.

  Raises:
    ValueError: if the network sows none.
  """
  _, sown = network.apply(variables, images, mutable=['intermediates'])
  maps = sown.get('intermediates', {}).get('maps', ())
  if not maps:
    raise ValueError(
      f'{type(network).__name__} gives no feature maps to a translator; leave '
      "'theta' out of its inputs, or let the module "
      "sow('intermediates', 'maps', x) after each block."
    )
  return tuple(maps)


@register(
  'convnet', fields_for=lambda shape: {'depth': depth_for(min(shape[:2]))}
)
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


@register('mlp')
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


@register('alexnet')
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


@register('vgg11')
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


@register('resnet18')
class ResNet18(Network):
  """DC's ResNet18 for small images, global average pooling; d = 512."""

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[n, num_classes]` and features `[n, d]`."""
    x = pad_to_multiple(images, 8)
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
