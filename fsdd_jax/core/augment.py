"""Differentiable siamese augmentation (DSA): random draws and strategies.

A random operation is a pair of pure functions: one of `image_ops`, and a draw
`(key, n, (h, w))` of its parameters for n images of that size.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fsdd_jax.core import image_ops
from fsdd_jax.core.image_ops import Parameters

Size = tuple[int, int]  # (h, w)
Draw = Callable[[jax.Array, int, Size], Parameters]
Sampler = Callable[[jax.Array, int], jax.Array]  # (key, n) -> [n] or [n, 2]


class Operation(NamedTuple):
  """A random operation: `apply(images, draw(key, n, (h, w)))`."""

  apply: Callable[[jax.Array, Parameters], jax.Array]
  draw: Draw


def _uniform(low: float, high: float) -> Sampler:
  return lambda key, n: jax.random.uniform(
    key, (n,), jnp.float32, minval=low, maxval=high
  )


def _log_uniform(log_low: float, log_high: float) -> Sampler:
  return lambda key, n: jnp.exp(_uniform(log_low, log_high)(key, n))


def _pairs(sampler: Sampler) -> Sampler:
  return lambda key, n: sampler(key, 2 * n).reshape(n, 2)


def _any_size(sampler: Sampler) -> Draw:
  return lambda key, n, size: sampler(key, n)


def _pixels(ratio: float, size: Size) -> Size:
  """A share of each side; halves go up, as in DSA (Python's go to even)."""
  return int(size[0] * ratio + 0.5), int(size[1] * ratio + 0.5)


def _draw_color(*samplers: Sampler) -> Draw:
  def draw(key: jax.Array, n: int, size: Size) -> image_ops.ColorShift:
    del size
    keys = jax.random.split(key, len(samplers))
    return image_ops.ColorShift(
      *[f(k, n) for f, k in zip(samplers, keys, strict=True)]
    )

  return draw


def shift_by(ratio: float, *, least: int = 0) -> Draw:
  """Draws whole pixels `[n, 2]`, up to a share of each side either way.

  Args:
    ratio: the share.
    least: pixels that it stands for at least.
  """

  def draw(key: jax.Array, n: int, size: Size) -> jax.Array:
    limit = jnp.maximum(jnp.array(_pixels(ratio, size), jnp.int32), least)
    return jax.random.randint(key, (n, 2), -limit, limit + 1, jnp.int32)

  return draw


def _draw_translation(key: jax.Array, n: int, size: Size) -> jax.Array:
  limit = 0.125 * jnp.array(size, jnp.float32)
  return jax.random.uniform(
    key, (n, 2), jnp.float32, minval=-limit, maxval=limit
  )


def _draw_box(key: jax.Array, n: int, size: Size) -> jax.Array:
  """Half a side, centered anywhere."""
  sides = jnp.array(_pixels(0.5, size), jnp.int32)
  end = jnp.array(size, jnp.int32) + 1 - sides % 2
  center = jax.random.randint(key, (n, 2), 0, end, jnp.int32)
  corner = center - sides // 2
  return jnp.concatenate([corner, corner + sides], axis=1)


def _draw_inner_box(key: jax.Array, n: int, size: Size) -> jax.Array:
  """A quarter of a side, fully inside."""
  whole = jnp.array(size, jnp.int32)
  sides = whole // 4
  corner = jax.random.randint(key, (n, 2), 0, whole - sides + 1, jnp.int32)
  return jnp.concatenate([corner, corner + sides], axis=1)


def _draw_zoom(key: jax.Array, n: int, size: Size) -> image_ops.Zoom:
  del size
  factor_key, offset_key = jax.random.split(key)
  factor = _log_uniform(math.log(0.8), math.log(1.25))(factor_key, n)
  return image_ops.Zoom(factor, _pairs(_uniform(-1.0, 1.0))(offset_key, n))


def _draw_flipped(key: jax.Array, n: int, size: Size) -> jax.Array:
  del size
  return jax.random.bernoulli(key, jnp.float32(0.5), (n,))


_draw_angle = _any_size(_uniform(-math.radians(15), math.radians(15)))
_mild = _log_uniform(-0.25, 0.25)

# Ranges of DC's ParamDiffAug and of FRePo's augmax/export.py.
STRATEGIES: dict[str, dict[str, Operation]] = {
  'none': {},
  'dsa': {
    'color': Operation(
      image_ops.color,
      _draw_color(_uniform(-0.5, 0.5), _uniform(0, 2), _uniform(0.5, 1.5)),
    ),
    'crop': Operation(image_ops.crop, shift_by(0.125)),
    'cutout': Operation(image_ops.cutout, _draw_box),
    'flip': Operation(image_ops.flip, _draw_flipped),
    'scale': Operation(
      image_ops.scale, _any_size(_pairs(_uniform(1 / 1.2, 1.2)))
    ),
    'rotate': Operation(image_ops.rotate, _draw_angle),
  },
  'frepo': {
    'color': Operation(
      image_ops.color, _draw_color(_uniform(-0.25, 0.25), _mild, _mild)
    ),
    'crop': Operation(image_ops.zoom, _draw_zoom),
    'rotate': Operation(
      functools.partial(image_ops.rotate, fill=image_ops.edge_fill), _draw_angle
    ),
    'translate': Operation(
      functools.partial(image_ops.crop, fill=image_ops.edge_fill),
      _draw_translation,
    ),
    'cutout': Operation(image_ops.cutout, _draw_inner_box),
    'flip': Operation(image_ops.flip, _draw_flipped),
  },
}


def select(
  strategy: str, *, without: Iterable[str] = ()
) -> dict[str, Operation]:
  """Operations of a named strategy, less some (digits do without 'flip').

  Args:
    strategy: a name of `STRATEGIES`.
    without: names of operations to leave out.

  Returns:
    Operations by name.

  Raises:
    ValueError: if a name is unknown.
  """
  if strategy not in STRATEGIES:
    raise ValueError(
      f'Unknown augmentation {strategy!r}; choose one of {sorted(STRATEGIES)}.'
    )
  operations, left_out = STRATEGIES[strategy], set(without)
  if unknown := sorted(left_out - set(operations)):
    raise ValueError(
      f'Augmentation {strategy!r} has no {unknown}; it holds '
      f'{sorted(operations)}.'
    )
  return {k: v for k, v in operations.items() if k not in left_out}


def _apply(
  operation: Operation, n: int, key: jax.Array, images: jax.Array
) -> jax.Array:
  size = (images.shape[1], images.shape[2])
  return operation.apply(images, operation.draw(key, n, size))


def one_of(
  key: jax.Array, images: jax.Array, operations: Sequence[Operation], n: int
) -> jax.Array:
  """Applies one operation, drawn for the batch (DSA's mode 'S').

  Args:
    key: typed PRNG key; consumed. Under `vmap` over keys every operation is
      computed, and one is kept.
    images: `[n, h, w, c]`.
    operations: at least one.
    n: number of parameters to draw, 1 or that of the images.

  Returns:
    `[n, h, w, c]` images.
  """
  index_key, draw_key = jax.random.split(key)
  index = jax.random.randint(index_key, (), 0, len(operations), jnp.int32)

  branches = [
    functools.partial(_apply, operation, n) for operation in operations
  ]
  return jax.lax.switch(index, branches, draw_key, images)


def in_turn(
  key: jax.Array, images: jax.Array, operations: Sequence[Operation], n: int
) -> jax.Array:
  """Applies all operations in order (DSA's mode 'M'); arguments of `one_of`."""
  for operation in operations:
    key, draw_key = jax.random.split(key)
    images = _apply(operation, n, draw_key, images)
  return images


def augment(
  key: jax.Array,
  images: jax.Array,
  *,
  operations: Mapping[str, Operation],
  compose: Callable[..., jax.Array] = one_of,
  siamese: bool = True,
) -> jax.Array:
  """Augments a batch of images by given operations.

  Siamese parameters depend on the key and the image size only: a second call
  with the same key augments another batch, of any n, in the same way.

  Args:
    key: typed PRNG key; consumed.
    images: `[n, h, w, c]` normalized float images.
    operations: see `select`; without any, images are returned as they are.
    compose: `one_of`, `in_turn`, or a function of the same form.
    siamese: one parameter for the entire batch rather than one an image.

  Returns:
    `[n, h, w, c]` images.

  Raises:
    ValueError: if images are not `[n, h, w, c]` floats.
  """
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      'Augmentation needs normalized float images [n, h, w, c]; got '
      f'{images.dtype}{list(images.shape)}.'
    )
  if not operations:
    return images
  n = 1 if siamese else len(images)
  # Parameters are float32, so that half-precision images would be promoted by
  # some operations and not by others.
  inputs = images.astype(jnp.promote_types(images.dtype, jnp.float32))
  augmented = compose(key, inputs, tuple(operations.values()), n)
  return augmented.astype(images.dtype)


def dsa(
  key: jax.Array,
  images: jax.Array,
  *,
  strategy: str = 'dsa',
  without: Iterable[str] = (),
  compose: Callable[..., jax.Array] = one_of,
  siamese: bool = True,
) -> jax.Array:
  """Augments a batch of images by a named strategy (DSA; Alg. 1, line 16).

  Args:
    key: typed PRNG key; consumed.
    images: `[n, h, w, c]` normalized float images.
    strategy: a name of `STRATEGIES`.
    without: names of operations to leave out, such as 'flip' for digits.
    compose: see `augment`.
    siamese: see `augment`.

  Returns:
    `[n, h, w, c]` images.

  Raises:
    ValueError: if a name is unknown or images are not `[n, h, w, c]` floats.

  Example:
    >>> import functools
    >>> import jax
    >>> import jax.numpy as jnp
    >>> images = jnp.arange(128.0).reshape(2, 8, 8, 1)
    >>> some = functools.partial(dsa, without=['color', 'rotate', 'scale'])
    >>> both, one = (some(jax.random.key(1), x) for x in (images, images[:1]))
    >>> jnp.array_equal(both[:1], one).item()  # Siamese: alike in any batch.
    True
  """
  operations = select(strategy, without=without)
  return augment(
    key, images, operations=operations, compose=compose, siamese=siamese
  )
