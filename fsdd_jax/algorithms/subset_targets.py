"""What the subsets of the caching stage are scored against (Alg. 1, line 16).

By default nothing of X_T passes theta while subsets are distilled: rows of its
features, or sums over its classes, come from a bank. Augmented real images are
P copies of the bank, which serve the steps in turn; augmenting anew at each
step, the literal way, stays as a choice.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.algorithms.subset_draws import Draws
from fsdd_jax.core import augment, krr, objective
from fsdd_jax.data import feature_bank, subsets
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.types import LABEL_CODINGS, Subset

# The targets of each subset at a step.
TargetsAt = Callable[[int], list[krr.Target]]
TargetsFn = Callable[[Draws], TargetsAt]


def choose(source: BankSource, config: CachingConfig) -> TargetsFn:
  """Where the targets of a cache come from, as its config asks.

  Args:
    source: theta and the large set Z.
    config: of the caching stage.

  Returns:
    A function of several subsets drawn; its result maps a step to a target for
    each of them.
  """
  if config.augmentation == 'none':
    sources = [source]
  elif config.augmented_copies:
    sources = [
      source._replace(
        augmentation={
          'strategy': config.augmentation,
          'seed': config.seed,
          'copy': copy,
        }
      )
      for copy in range(config.augmented_copies)
    ]
  else:
    return functools.partial(_augmented_anew, source, config)
  if config.max_images:
    rows = [feature_bank.feature_rows(one) for one in sources]
    return functools.partial(_in_turn, [_from_rows(bank) for bank in rows])
  sums = [feature_bank.class_sums(one) for one in sources]
  return functools.partial(
    _in_turn, [_from_classes(one, config) for one in sums]
  )


def _in_turn(
  makers: list[Callable[[Draws, int], krr.Target]], draws: Draws
) -> TargetsAt:
  """Targets by copy of the bank; each is read from it once."""
  count = len(draws.numbers)

  @functools.cache
  def of_copy(copy: int) -> list[krr.Target]:
    return [jax.device_put(makers[copy](draws, i)) for i in range(count)]

  return lambda step: of_copy(step % len(makers))


def _from_rows(bank: np.ndarray) -> Callable[[Draws, int], krr.Target]:
  def make(draws: Draws, i: int) -> krr.Target:
    target = jax.tree.map(lambda x: np.asarray(x[i]), draws.target)
    features: Any = bank[target.rows].astype(np.float32)
    return krr.FeatureSet(features, target.labels, target.mask)

  return make


def _from_classes(
  sums: feature_bank.ClassSums, config: CachingConfig
) -> Callable[[Draws, int], krr.Target]:
  def make(draws: Draws, i: int) -> krr.Target:
    classes = np.asarray(draws.classes[i])
    labels = subsets.class_labels(
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
  rows = np.asarray(draws.target.rows)
  # uint8 images go to the device once, and become floats there each step.
  images = jax.device_put(list(source.dataset.images[rows]))
  features_of = objective.feature_fn(source.network)

  def targets_at(step: int) -> list[krr.Target]:
    found: list[krr.Target] = []
    for i, (own, key) in enumerate(zip(images, draws.keys, strict=True)):
      parts = _prepare(own, source.normalization, key, step, config=config)
      features = jnp.concatenate(
        [
          _extract(source.variables, part, features_of=features_of)
          for part in parts
        ]
      )
      target: Subset = jax.tree.map(lambda x, i=i: x[i], draws.target)
      found.append(krr.FeatureSet(features, target.labels, target.mask))
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


@functools.partial(jax.jit, static_argnames='features_of')
def _extract(
  variables: Any, images: jax.Array, *, features_of: objective.FeatureFn
) -> jax.Array:
  return features_of(variables, images)
