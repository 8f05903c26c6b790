"""Small random moves of distilled images, a new one at each step.

Images that are distilled in one network fit the very places at which its
filters look, and score worse in another. If each step mirrors them at random
and shifts them by a pixel, they fit what networks have in common. The paper
augments real images alone (Alg. 1, line 16).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fsdd_jax.core import augment, image_ops
from fsdd_jax.types import LabeledSet

# In the order of use.
MOVES: dict[str, augment.Operation] = {
  'flip': augment.STRATEGIES['dsa']['flip'],
  'shift': augment.Operation(
    functools.partial(image_ops.crop, fill=image_ops.edge_fill),
    augment.shift_by(1 / 32, least=1),
  ),
}


def move(keys: jax.Array, images: jax.Array, names: Sequence[str]) -> jax.Array:
  """Moves each image by its own key.

  Args:
    keys: `[n]` typed keys, one an image, so that the move of an image does not
      depend on which others are in the batch; consumed.
    images: `[n, h, w, c]`.
    names: of `MOVES`: flip (mirrored with probability 1/2) and shift (by up to
      1/32 of each side, and a pixel at least, borders repeated); without any,
      images stay.

  Returns:
    `[n, h, w, c]` images.
  """
  size = (images.shape[1], images.shape[2])
  for number, (name, operation) in enumerate(MOVES.items()):
    if name in names:
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      drawn = jax.vmap(lambda key, draw=operation.draw: draw(key, 1, size))(own)
      images = operation.apply(images, jax.tree.map(lambda x: x[:, 0], drawn))
  return images


def move_set(
  key: jax.Array, labeled: LabeledSet, names: Sequence[str]
) -> LabeledSet:
  """The set with moved images, labels as before; see `move`.

  Args:
    key: of the step; image i uses `fold_in(key, i)`.
    labeled: images `[n, h, w, c]`; their starts, if any, move alike.
    names: of `MOVES`.
  """
  if not names:
    return labeled
  keys, start = row_keys(key, len(labeled.images)), labeled.start
  return dataclasses.replace(
    labeled,
    images=move(keys, labeled.images, names),
    start=None if start is None else move(keys, start, names),
  )


def row_keys(key: jax.Array, count: int) -> jax.Array:
  """Keys `[count]`, `fold_in(key, i)` for row i."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
