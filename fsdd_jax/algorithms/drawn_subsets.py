"""Subsets of the large set Z by number, and what they are scored against.

`Draws` are several subsets, drawn together (Alg. 1, lines 3-12). Their targets
(line 16) come from a bank of the features of Z by default, so that no image of
X_T passes theta while subsets are distilled: they are rows of the bank, or sums
over classes. P augmented copies of the bank serve the steps in turn; the
literal way, which augments anew at each step, stays as a choice.

`b` denotes the subsets, `m` rows of a target set, `n` of a distilled set.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms.configs import SubsetConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.core import augment, krr_errors, losses
from fsdd_jax.data import feature_bank, near_features, random_subsets
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.data.subsets import ClassTable
from fsdd_jax.options import out_of_range
from fsdd_jax.types import LABEL_CODINGS, Subset

# The targets of each subset at a step.
TargetsAt = Callable[[int], list[krr_errors.Target]]
TargetsFn = Callable[['Draws'], TargetsAt]


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
  """

  numbers: jax.Array  # [b]
  keys: jax.Array  # [b]
  target: Subset
  initial: Subset
  classes: jax.Array  # [b, k]
  num_classes: jax.Array  # [b]
  ipc: jax.Array  # [b]


def check(table: ClassTable, config: SubsetConfig) -> None:
  """Raises a ValueError if the data set cannot serve the config."""
  random_subsets.check_ranges(table, **_ranges(config))


def allowed_classes(
  table: ClassTable, numbers: Sequence[int], config: CachingConfig
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
  table: ClassTable,
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
  table: ClassTable,
  numbers: jax.Array,
  allowed: jax.Array,
  *,
  config: SubsetConfig,
) -> Draws:
  def draw_one(number: jax.Array, allowed: jax.Array) -> Draws:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    draw_key, augment_key = jax.random.split(key)
    drawn = random_subsets.sample_subset(
      draw_key,
      table,
      **_ranges(config),
      coding=LABEL_CODINGS[config.label_coding],
      allowed=allowed,
    )
    return Draws(number, augment_key, **vars(drawn))

  return jax.vmap(draw_one)(jnp.asarray(numbers), jnp.asarray(allowed))


def targets_fn(source: BankSource, config: CachingConfig) -> TargetsFn:
  """Where the targets of a cache come from, as its config asks.

  Args:
    source: theta and the large set Z.
    config: of the caching stage.

  Returns:
    A function of several subsets drawn; its result maps a step to a target for
    each of them.
  """
  drawn_by = {'strategy': config.augmentation, 'seed': config.seed}
  if config.augmentation == 'none':
    sources = [source]
  elif config.augmented_copies:
    sources = [
      source._replace(augmentation=drawn_by | {'copy': copy})
      for copy in range(config.augmented_copies)
    ]
  else:
    return functools.partial(_augmented_anew, source, config)
  if config.max_images:
    rows = [near_features.features(x, banks=len(sources)) for x in sources]
    return functools.partial(_in_turn, [_from_rows(bank) for bank in rows])
  sums = [feature_bank.class_sums(one) for one in sources]
  return functools.partial(
    _in_turn, [_from_classes(one, config) for one in sums]
  )


def _in_turn(
  makers: list[Callable[[Draws, int], krr_errors.Target]], draws: Draws
) -> TargetsAt:
  """Targets by copy of the bank; each is read from it once."""
  count = len(draws.numbers)

  @functools.cache
  def of_copy(copy: int) -> list[krr_errors.Target]:
    return [jax.device_put(makers[copy](draws, i)) for i in range(count)]

  return lambda step: of_copy(step % len(makers))


def _from_rows(bank: Any) -> Callable[[Draws, int], krr_errors.Target]:
  def make(draws: Draws, i: int) -> krr_errors.Target:
    target = jax.tree.map(lambda x: np.asarray(x[i]), draws.target)
    features = near_features.rows_of(bank, target.rows)
    return krr_errors.FeatureSet(features, target.labels, target.mask)

  return make


def _from_classes(
  sums: feature_bank.ClassSums, config: CachingConfig
) -> Callable[[Draws, int], krr_errors.Target]:
  def make(draws: Draws, i: int) -> krr_errors.Target:
    classes = np.asarray(draws.classes[i])
    labels = random_subsets.class_labels(
      int(draws.num_classes[i]),
      len(classes),
      LABEL_CODINGS[config.label_coding],
    )
    return feature_bank.statistics_of(sums, classes, np.asarray(labels))

  return make


def _augmented_anew(
  source: BankSource, config: CachingConfig, draws: Draws
) -> TargetsAt:
  """The literal way: a fresh augmentation of X_T at each step."""
  normalization = source.large.normalization
  rows = np.asarray(draws.target.rows)
  # uint8 images go to the device once, and become floats there each step.
  images = jax.device_put(list(source.large.dataset.images[rows]))
  extract = jax.jit(losses.feature_fn(source.network))

  def targets_at(step: int) -> list[krr_errors.Target]:
    found: list[krr_errors.Target] = []
    for i, (own, key) in enumerate(zip(images, draws.keys, strict=True)):
      parts = _prepare(own, normalization, key, step, config=config)
      features = [extract(source.variables, part) for part in parts]
      target: Subset = jax.tree.map(lambda x, i=i: x[i], draws.target)
      found.append(
        krr_errors.FeatureSet(
          jnp.concatenate(features), target.labels, target.mask
        )
      )
    return found

  return targets_at


@functools.partial(jax.jit, static_argnames='config')
def _prepare(
  images: jax.Array,
  normalization: Normalization,
  key: jax.Array,
  step: int,
  *,
  config: CachingConfig,
) -> list[jax.Array]:
  """Augmented X_T of one subset, in parts (Alg. 1, line 16).

  No gradient passes X_T, so each subset goes its own way: `jax.vmap` would
  compute all six operations of DSA and keep one. The operation is drawn for a
  subset and step, its parameters for each image: siamese parameters make sense
  where X_S is augmented alike, which Alg. 1 does not do, and the loss of a
  step varies less without them.
  """
  x = augment.dsa(
    jax.random.fold_in(key, step),
    normalize(images, normalization),
    strategy=config.augmentation,
    siamese=False,
  )
  return jnp.array_split(x, -(-len(x) // config.features_per_call))
