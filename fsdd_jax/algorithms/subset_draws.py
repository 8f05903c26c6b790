"""Alg. 1, lines 3-12: subsets drawn by number, several at a time.

`b` denotes the subsets, `m` rows of a target set, `n` of a distilled set.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms.configs import SubsetConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data import subsets
from fsdd_jax.options import out_of_range
from fsdd_jax.types import LABEL_CODINGS, Subset


@flax.struct.dataclass
class Draws:
  """Subsets drawn together, padded to one size.

  Attributes:
    numbers: `[b]` int32, which subsets they are.
    keys: `[b]` random keys of their augmentation.
    target: rows of Z, labels and masks `[b, m, ...]` of X_T.
    initial: those `[b, n, ...]` of X_S before the first step.
    classes: `[b, k]` int32 numbers of the classes in Z; -1 where unused.
    num_classes: `[b]` int32, C.
    ipc: `[b]` int32, I.

  Example:
    >>> import toy
    >>> from fsdd_jax.data import subsets
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> found: Draws = draw(table, [0, 1], config=toy.CACHING)
    >>> found.target.rows.shape, found.initial.rows.shape
    ((2, 12), (2, 6))
  """

  numbers: jax.Array  # [b]
  keys: jax.Array  # [b]
  target: Subset
  initial: Subset
  classes: jax.Array  # [b, k]
  num_classes: jax.Array  # [b]
  ipc: jax.Array  # [b]


def check(table: subsets.ClassTable, config: SubsetConfig) -> None:
  """Raises a ValueError if the data set cannot serve the config.

  Example:
    >>> import toy
    >>> from fsdd_jax.data import subsets
    >>> labels = toy.problem()[1].labels
    >>> check(subsets.class_table(labels, 3), toy.CACHING)  # It can serve.
  """
  subsets.check_subset_ranges(table, **_ranges(config))


def allowed_classes(
  table: subsets.ClassTable, numbers: Sequence[int], config: CachingConfig
) -> np.ndarray:
  """The classes that each subset may be drawn from.

  Held-out subsets come first and see the held-out classes alone; the others
  see the rest. Without held-out classes all see all.

  Args:
    table: rows of each of the k classes of Z.
    numbers: b subsets.
    config: how many are held out, and the seed that chooses the classes.

  Returns:
    `[b, k]` bool.

  Raises:
    ValueError: if too few classes are left for either.

  Example:
    >>> import toy
    >>> from fsdd_jax.data import subsets
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> allowed_classes(table, [0, 3], toy.CACHING).all().item()
    True
  """
  total, held = len(table.counts), config.heldout_classes
  if not held:
    return np.ones((len(numbers), total), bool)
  if not config.min_classes <= held <= total - config.max_classes:
    raise out_of_range(
      'heldout_classes',
      held,
      f'0, or at least min_classes = {config.min_classes} and at most '
      f'{total - config.max_classes}, which leaves max_classes = '
      f'{config.max_classes} of {total} classes',
    )
  order = np.random.default_rng((config.seed, 1)).permutation(total)
  is_held = np.isin(np.arange(total), order[:held])
  of_heldout = np.asarray(numbers) < config.num_heldout
  return is_held[None] == of_heldout[:, None]


def draw(
  table: subsets.ClassTable,
  numbers: Sequence[int],
  *,
  config: SubsetConfig,
  allowed: np.ndarray | None = None,
) -> Draws:
  """Draws subsets by number, and the key of each one's augmentation.

  Args:
    table: rows of each class of the large set Z.
    numbers: b of them, at least 0.
    config: what subsets look like; subset i depends on its seed and i alone.
    allowed: `[b, k]` bool, the classes each may be drawn from; all by default.

  Returns:
    The draws, padded to m = M and n = I_max rows and C_max label columns.

  Example:
    >>> import toy
    >>> from fsdd_jax.data import subsets
    >>> table = subsets.class_table(toy.problem()[1].labels, 3)
    >>> draw(table, [3], config=toy.CACHING).numbers.tolist()
    [3]
  """
  if allowed is None:
    allowed = np.ones((len(numbers), len(table.counts)), bool)
  return _draw(table, np.asarray(numbers, np.int32), allowed, config=config)


def unpad(draws: Draws) -> Draws:
  """Drops padded rows and unused label columns of a draw of one subset.

  Args:
    draws: of one subset, b = 1; concrete arrays, as the result's size varies.

  Returns:
    The same with m = C floor(M / C) and n = C I rows, and C label columns.

  Example:
    >>> import toy
    >>> from fsdd_jax.data import subsets
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
    target=shorten(draws.target),
    initial=shorten(draws.initial),
    classes=draws.classes[:, :num_classes],
  )


def _ranges(config: SubsetConfig) -> dict[str, int]:
  names = ('min_classes', 'max_classes', 'max_images', 'max_synthetic')
  return {name: getattr(config, name) for name in names}


@functools.partial(jax.jit, static_argnames='config')
def _draw(
  table: subsets.ClassTable,
  numbers: jax.Array,
  allowed: jax.Array,
  *,
  config: SubsetConfig,
) -> Draws:
  def draw_one(number: jax.Array, allowed: jax.Array) -> Draws:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    draw_key, augment_key = jax.random.split(key)
    drawn = subsets.sample_subset(
      draw_key,
      table,
      **_ranges(config),
      coding=LABEL_CODINGS[config.label_coding],
      allowed=allowed,
    )
    return Draws(
      number,
      augment_key,
      drawn.target,
      drawn.initial,
      drawn.classes,
      drawn.num_classes,
      drawn.ipc,
    )

  return jax.vmap(draw_one)(jnp.asarray(numbers), jnp.asarray(allowed))
