"""Alg. 1, lines 3-12: subsets drawn by number, several at a time.

`b` denotes the subsets, `m` rows of a target set, `n` of a distilled set.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax import subsets
from fsdd_jax.method_configs import SubsetConfig
from fsdd_jax.types import LABEL_CODINGS, Subset


@flax.struct.dataclass
class Draws:
  """Subsets drawn together, padded to one size.

  Attributes:
    numbers: `[b]` int32, which subsets they are.
    keys: `[b]` random keys of their augmentation.
    target: rows of Z, labels and masks `[b, m, ...]` of X_T.
    initial: those `[b, n, ...]` of X_S before the first step.
    num_classes: `[b]` int32, C.
    ipc: `[b]` int32, I.

  Example:
    >>> from fsdd_jax import subsets, toy
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> found: Draws = draw(table, [0, 1], config=toy.CACHING)
    >>> found.target.rows.shape, found.initial.rows.shape
    ((2, 12), (2, 6))
  """

  numbers: jax.Array  # [b]
  keys: jax.Array  # [b]
  target: Subset
  initial: Subset
  num_classes: jax.Array  # [b]
  ipc: jax.Array  # [b]


def check(table: subsets.ClassTable, config: SubsetConfig) -> None:
  """Raises a ValueError if the data set cannot serve the config.

  Example:
    >>> from fsdd_jax import subsets, toy
    >>> labels = toy.problem()[1].labels
    >>> check(subsets.class_table(labels, 3), toy.CACHING)  # It can serve.
  """
  subsets.check_subset_ranges(table, **_ranges(config))


def draw(
  table: subsets.ClassTable, numbers: Sequence[int], *, config: SubsetConfig
) -> Draws:
  """Draws subsets by number, and the key of each one's augmentation.

  Args:
    table: rows of each class of the large set Z.
    numbers: b of them, at least 0.
    config: what subsets look like; subset i depends on its seed and i alone.

  Returns:
    The draws, padded to m = M and n = I_max rows and C_max label columns.

  Example:
    >>> from fsdd_jax import subsets, toy
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> draw(table, [3], config=toy.CACHING).numbers.tolist()
    [3]
  """
  return _draw(table, np.asarray(numbers, np.int32), config=config)


def unpad(draws: Draws) -> Draws:
  """Drops padded rows and unused label columns of a draw of one subset.

  Args:
    draws: of one subset, b = 1; concrete arrays, as the result's size varies.

  Returns:
    The same with m = C floor(M / C) and n = C I rows, and C label columns.

  Example:
    >>> from fsdd_jax import subsets, toy
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> whole = draw(table, [0], config=toy.CACHING)
    >>> int(whole.initial.mask.sum()) == unpad(whole).initial.rows.shape[1]
    True
  """
  (num_classes,) = draws.num_classes.tolist()

  def shorten(subset: Subset) -> Subset:
    keep = np.asarray(subset.mask[0] > 0)
    return Subset(
      subset.rows[:, keep],
      subset.labels[:, keep, :num_classes],
      subset.mask[:, keep],
    )

  return draws.replace(  # type: ignore[attr-defined]
    target=shorten(draws.target), initial=shorten(draws.initial)
  )


def _ranges(config: SubsetConfig) -> dict[str, int]:
  names = ('min_classes', 'max_classes', 'max_images', 'max_synthetic')
  return {name: getattr(config, name) for name in names}


@functools.partial(jax.jit, static_argnames='config')
def _draw(
  table: subsets.ClassTable, numbers: jax.Array, *, config: SubsetConfig
) -> Draws:
  def draw_one(number: jax.Array) -> Draws:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    draw_key, augment_key = jax.random.split(key)
    drawn = subsets.sample_subset(
      draw_key,
      table,
      **_ranges(config),
      coding=LABEL_CODINGS[config.label_coding],
    )
    return Draws(number, augment_key, *drawn)

  return jax.vmap(draw_one)(jnp.asarray(numbers))
