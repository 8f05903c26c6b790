"""Alg. 1, lines 3-20: several random subsets distilled side by side.

Their distilled images pass the one fixed network as one larger batch. All sets
are padded to one size, and their images without the padding are packed to one
of few sizes, so that few compiled functions serve any number of classes C and
of images a class I.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms import subset_draws, subset_targets
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.algorithms.subset_draws import Draws
from fsdd_jax.core import distill_step, krr, objective
from fsdd_jax.data import subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import finite
from fsdd_jax.storage.cache.records import CacheEntry
from fsdd_jax.types import LabeledSet, Subset

State = tuple[LabeledSet, optax.OptState]

# Sizes of packed images, each compiled when it first occurs: more of them are
# less padding. The sum of several random sizes falls on two or three of eight.
_NUM_PACKED_SIZES = 8


def packed_rows(mask: np.ndarray) -> np.ndarray:
  """Rows that are no padding, filled up to one of few sizes.

  Args:
    mask: 1 for rows in use and 0 for padding, of any shape; at least one 1.

  Returns:
    `[r]` int32 indices into the flattened mask, then its size, which is none of
    them, until r is a multiple of an eighth of the size, rounded up.
  """
  rows = np.flatnonzero(mask)
  part = -(-mask.size // _NUM_PACKED_SIZES)
  missing = min(-len(rows) % part, mask.size - len(rows))
  return np.pad(rows, (0, missing), constant_values=mask.size).astype(np.int32)


class SubsetDistiller:
  """Distils subsets of a large set in one network (Alg. 1, lines 3-20).

  Called with the numbers of at most `config.subsets_per_batch` subsets, it
  returns an entry of NumPy arrays for each, with the loss of every step
  (before its update). It compiles at its first call, or never if another was
  made with the same settings, and when a size of `packed_rows` first occurs.
  """

  def __init__(
    self,
    network: nn.Module,
    dataset: Dataset,
    normalization: Normalization,
    *,
    config: CachingConfig,
    on_step: Callable[[int, float], None] | None = None,
    bank_root: pathlib.Path | None = None,
    targets: subset_targets.TargetsFn | None = None,
  ) -> None:
    """Draws theta and computes the features of Z that are not there yet.

    Args:
      network: f; its weights theta follow from `config.theta_seed`.
      dataset: the large set Z.
      normalization: how its images become network inputs.
      config: of the caching stage; `num_subsets` plays no part here.
      on_step: called every `config.log_every` steps with the steps done and
        the mean loss of the batch.
      bank_root: folder of feature banks; None: as of
        `array_store.default_root`.
      targets: what drawn subsets are scored against; by default what
        `subset_targets.choose` makes of the config.

    Raises:
      ValueError: if the data set cannot serve the config.
    """
    self._table = subsets.class_table(dataset.labels, dataset.num_classes)
    subset_draws.check(self._table, config)
    subset_draws.allowed_classes(self._table, [0], config)
    self._features_of = objective.feature_fn(network)
    self._variables = random_networks.sample(
      jax.random.key(config.theta_seed), network, dataset.images.shape[1:]
    )
    self._images = dataset.images
    self._normalization = normalization
    self._config = config
    self._on_step = on_step
    self._targets = targets or subset_targets.choose(
      BankSource(
        network,
        self._variables,
        dataset,
        normalization,
        {'seed': config.theta_seed},
        root=bank_root,
      ),
      config,
    )

  def __call__(self, numbers: Sequence[int]) -> list[CacheEntry]:
    """Draws and distils subsets, given by number, side by side.

    Raises:
      FloatingPointError: naming the subset whose loss or gradient is not
        finite.
    """
    count = len(numbers)
    # The last subset is repeated, as a smaller batch would compile anew.
    repeated = [numbers[-1]] * (self._config.subsets_per_batch - count)
    return self.distil(self.draw([*numbers, *repeated]))[:count]

  def draw(self, numbers: Sequence[int]) -> Draws:
    """Draws any number of subsets, padded to the sizes of the config."""
    allowed = subset_draws.allowed_classes(self._table, numbers, self._config)
    return subset_draws.draw(
      self._table, numbers, config=self._config, allowed=allowed
    )

  def distil(self, draws: Draws) -> list[CacheEntry]:
    """Distils what was drawn, which may have any padding; see `__call__`.

    Each number of subsets and each padding compiles anew.
    """
    config = self._config
    targets_at = self._targets(draws)
    state = _init_state(
      self._images[np.asarray(draws.initial.rows)],
      self._normalization,
      draws.initial,
      config=config,
    )
    rows = jax.device_put(packed_rows(np.asarray(draws.initial.mask)))
    curves: list[np.ndarray] = []
    pending: list[jax.Array] = []
    for index in range(config.num_steps):
      state, losses = _step(
        state,
        self._variables,
        targets_at(index),
        rows,
        features_of=self._features_of,
        config=config,
      )
      pending.append(losses)
      done = index + 1
      if done % config.log_every == 0 or done == config.num_steps:
        curves.extend(jax.device_get(pending))
        pending = []
        _check_finite(np.asarray(curves), draws)
        if self._on_step is not None:
          self._on_step(done, float(np.mean(curves[-1])))
    finite.check(
      state[0],
      f'Subsets {np.asarray(draws.numbers).tolist()} after the last step',
      'Try a smaller learning rate, in a new folder.',
    )
    curve: Any = np.asarray(curves).T
    batch = CacheEntry(
      target=draws.target,
      synthetic=state[0],
      start_rows=draws.initial.rows,
      classes=draws.classes,
      num_classes=draws.num_classes,
      ipc=draws.ipc,
      losses=curve,
    )
    batch = jax.device_get(batch)
    count = len(draws.numbers)
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(count)]


# The compiled parts are functions of this module with static settings, so that
# a second distiller with the same settings compiles nothing.


def _optimizer(config: CachingConfig) -> optax.GradientTransformation:
  return distill_step.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
    schedule=lambda rate: distill_step.SCHEDULES[config.schedule](
      rate, config.num_steps
    ),
  )


@functools.partial(jax.jit, static_argnames='config')
def _init_state(
  images: jax.Array,
  normalization: Normalization,
  initial: Subset,
  *,
  config: CachingConfig,
) -> State:
  """X_S and Y_S of each subset before the first step (Alg. 1, line 10)."""
  flat = normalize(images.reshape(-1, *images.shape[2:]), normalization)
  x = flat.reshape(images.shape) * initial.mask[..., None, None, None]
  # Copies, as the first step donates its state.
  synthetic = jax.tree.map(
    jnp.copy, LabeledSet(x, initial.labels, initial.mask)
  )
  return synthetic, jax.vmap(_optimizer(config).init)(_trainable(synthetic))


def _trainable(synthetic: LabeledSet) -> dict[str, jax.Array]:
  return {'images': synthetic.images, 'labels': synthetic.labels}


@functools.partial(
  jax.jit, static_argnames=('features_of', 'config'), donate_argnums=0
)
def _step(
  state: State,
  variables: Any,
  targets: list[krr.Target],
  rows: jax.Array,
  *,
  features_of: objective.FeatureFn,
  config: CachingConfig,
) -> tuple[State, jax.Array]:
  """Updates all X_S and Y_S of a batch (Alg. 1, lines 15-18)."""
  synthetic, opt_state = state
  sizes = synthetic.mask.shape

  def subset_loss(
    features: jax.Array, labels: jax.Array, mask: jax.Array, target: krr.Target
  ) -> jax.Array:
    weights = krr.solve(features, labels, ridge=config.ridge, mask=mask)
    return krr.error_on(config.loss, weights, target)

  def total_loss(trainable: dict[str, jax.Array]) -> tuple:
    images = trainable['images']
    flat = images.reshape(-1, *images.shape[2:])
    packed = features_of(variables, flat.at[rows].get(mode='fill'))
    features = jnp.zeros((len(flat), packed.shape[-1]), packed.dtype)
    features = features.at[rows].set(packed, mode='drop').reshape(*sizes, -1)
    # One regression after another, unrolled: with `jax.vmap`, batched LAPACK
    # calls of jaxlib 0.10 wait for threads of the very pool that they occupy,
    # and two at once block a machine of two cores for ever.
    each = zip(features, trainable['labels'], synthetic.mask, strict=True)
    losses = jnp.stack(
      [
        subset_loss(*own, target)
        for own, target in zip(each, targets, strict=True)
      ]
    )
    return losses.sum(), losses

  trainable = _trainable(synthetic)
  gradient, losses = jax.grad(total_loss, has_aux=True)(trainable)
  # An optimiser for each subset, as some (LAMB) look at norms of the whole.
  updates, opt_state = jax.vmap(_optimizer(config).update)(
    gradient, opt_state, trainable
  )
  norms = jax.vmap(optax.tree.norm)(gradient)
  losses = jnp.where(jnp.isfinite(norms), losses, jnp.nan)
  changed = optax.apply_updates(trainable, updates)
  return (dataclasses.replace(synthetic, **changed), opt_state), losses


def _check_finite(curves: np.ndarray, draws: Draws) -> None:
  """Stops at the first loss `[steps, b]` that is not finite."""
  bad = np.argwhere(~np.isfinite(curves))
  if len(bad):
    step, i = bad[0]
    raise FloatingPointError(
      f'Subset {draws.numbers[i]} (C = {draws.num_classes[i]} classes, I = '
      f'{draws.ipc[i]} images a class): loss or gradient of step {step + 1} is '
      'not finite. Try a smaller learning rate or a larger ridge, in a new '
      'folder; files written before are intact.'
    )
