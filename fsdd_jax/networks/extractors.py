"""Feature extractors of the field as Linen modules: `(logits, features)`.

The ConvNet, AlexNet, VGG11 and ResNet18 of dataset condensation (DC, DSA, DM,
MTT, HaBa). Images are `[n, h, w, c]` float32 with any h, w and c; features are
`[n, d]`, the last map flattened; the classifier on top takes features.
Further modules join by `register`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.networks.alexnet import AlexNet
from fsdd_jax.networks.convnet import ConvNet, depth_for
from fsdd_jax.networks.layers import choose
from fsdd_jax.networks.mlp import Mlp
from fsdd_jax.networks.resnet import ResNet18
from fsdd_jax.networks.vgg import VGG11

HEAD = 'classifier'  # What takes features; no feature depends on it.

FieldsFor = Callable[[tuple[int, ...]], dict[str, Any]]


def _no_fields(image_shape: tuple[int, ...]) -> dict[str, Any]:
  del image_shape
  return {}


# By name: a module, and defaults of fields that depend on the image shape.
NETWORKS: dict[str, tuple[type[nn.Module], FieldsFor]] = {
  'convnet': (ConvNet, lambda shape: {'depth': depth_for(min(shape[:2]))}),
  'mlp': (Mlp, _no_fields),
  'alexnet': (AlexNet, _no_fields),
  'vgg11': (VGG11, _no_fields),
  'resnet18': (ResNet18, _no_fields),
}


def register(
  name: str, *, fields_for: FieldsFor = _no_fields
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


def outputs(
  found: Any, images: Any, *, num_classes: int | None = None
) -> tuple[jax.Array, jax.Array]:
  """What a network returned, once it is what all stages need.

  Args:
    found: of `network.apply`.
    images: `[n, h, w, c]` that it was applied to.
    num_classes: k, where logits are used; fewer would be broadcast.

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
  if num_classes not in (None, found[0].shape[1]):
    raise ValueError(
      f'A network returned {found[0].shape[1]} logits an image for '
      f'{num_classes} classes. Let its field num_classes set their number.'
    )
  return found[0], found[1]


def describe(network: nn.Module) -> str:
  """One line that names a network's class and fields, for tables."""
  parts = []
  for field in dataclasses.fields(network):  # type: ignore[arg-type]
    value = getattr(network, field.name)
    shown = field.name in ('norm', 'width', 'depth') or value != field.default
    if shown and field.name not in ('parent', 'name', 'num_classes'):
      parts.append(f'{field.name}={value}')
  return f'{type(network).__name__}({", ".join(parts)})'


def of_width(network: nn.Module, width: int) -> nn.Module:
  """The same architecture with another width; 0 leaves it as it is.

  Raises:
    ValueError: if the architecture has no width.
  """
  if width and not hasattr(network, 'width'):
    raise ValueError(
      f'{describe(network)} has no width, so it cannot be {width}: leave the '
      'width out, or this architecture.'
    )
  return network.clone(width=width) if width else network


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
