"""What feature banks save, side by side in one process.

Caching and pre-training with features of X_T from a bank, against X_T passing
the network each time.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms import (
  caching,
  drawn_subsets,
  pretraining,
  pretraining_objectives,
  pretraining_state,
)
from fsdd_jax.algorithms.caching import SubsetDistiller
from fsdd_jax.algorithms.drawn_subsets import Draws
from fsdd_jax.algorithms.method_configs import CachingConfig, PretrainingConfig
from fsdd_jax.algorithms.pretraining_banks import Problem
from fsdd_jax.core import krr_errors, losses
from fsdd_jax.data import passes, random_subsets, subsets
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.fixed import FixedNetwork, maps_for
from fsdd_jax.runtime.devices import ALONE
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache import shards
from fsdd_jax.storage.cache.batches import Sample
from fsdd_jax.types import LABEL_CODINGS, Subset
from measures.yardsticks import Pairs, time_pairs

_IMAGES_A_CALL = 1000


def caching_pairs(
  network: nn.Module,
  large: TargetSet,
  *,
  config: CachingConfig,
  bank_root: pathlib.Path,
  repeats: int,
) -> Pairs:
  """Seconds of one batch of subsets, by a bank and by passing X_T once.

  Args:
    network: f.
    large: the large set Z.
    config: of caching; without augmentation, so that X_T passes once a subset.
    bank_root: folder of the bank, which is made before the clock starts.
    repeats: timed pairs.

  Returns:
    By the bank (measured) and by passing X_T (yardstick).
  """
  theta = random_networks.sample(
    jax.random.key(config.theta_seed), network, large.image_shape
  )

  def passing(draws: Draws) -> drawn_subsets.TargetsAt:
    targets: list[krr_errors.Target] = [
      _passed(network, theta, large, *part)
      for part in _rows_and_labels(draws, large.class_table, config)
    ]
    return lambda step: targets

  by_bank = SubsetDistiller(network, large, config=config, bank_root=bank_root)
  by_pass = SubsetDistiller(network, large, config=config, targets=passing)
  # The same subsets on both sides and in every round, so that sizes are
  # compiled before the clock starts.
  numbers = range(config.num_heldout, config.num_heldout + 4)
  return time_pairs(
    lambda: _images(by_bank(numbers)),
    lambda: _images(by_pass(numbers)),
    repeats=repeats,
  )


def pretraining_pairs(
  network: nn.Module,
  translator: nn.Module,
  large: TargetSet,
  *,
  caching_config: CachingConfig,
  config: PretrainingConfig,
  folder: pathlib.Path,
  repeats: int,
) -> Pairs:
  """Seconds of an update, by banks and by passing X_T through fresh networks.

  Args:
    network: f.
    translator: the module G.
    large: the large set Z.
    caching_config: of the cache that is made first.
    config: of pre-training.
    folder: of the cache and the banks.
    repeats: timed pairs.

  Returns:
    By banks (measured) and by passing X_T (yardstick).
  """
  caching.build_cache(
    network,
    large,
    config=caching_config,
    folder=folder / 'cache',
    bank_root=folder,
  )
  source = shards.open_cache(folder / 'cache')
  problem = Problem(network, large, jax.random.key(0), config)
  banks = pretraining_objectives.translation_in_banks(problem, folder)
  literal = pretraining_objectives.translation(problem)
  # The same samples on both sides and in every round.
  chosen = np.arange(config.batch_size) % len(source)
  batch = cache_batches.read(
    source, large.dataset, cache_batches.without_images, rows=chosen.tolist()
  )

  def literal_inputs(step: int, batch: Sample) -> Any:
    whole = _with_target_images(batch, large, caching_config)
    return literal.inputs(step, whole)

  sides = [(banks.loss_fn, banks.inputs), (literal.loss_fn, literal_inputs)]
  for step in range(repeats + 2):  # Banks are made before the clock starts.
    banks.inputs(step, batch)
  calls = [
    _updates(problem, translator, batch, loss_fn, inputs)
    for loss_fn, inputs in sides
  ]
  return time_pairs(*calls, repeats=repeats)


def _updates(
  problem: Problem,
  translator: nn.Module,
  batch: Sample,
  loss_fn: random_networks.LossFn,
  inputs: Callable[[int, Sample], Any],
) -> Callable[[], Any]:
  """One more update a call."""
  image_shape = problem.large.image_shape
  theta = FixedNetwork(problem.network, 0, image_shape)
  maps_of = maps_for(translator, theta)
  tx = optax.adam(problem.config.learning_rate)
  update = pretraining.make_update(
    translator, loss_fn, tx, networks_per_call=1, devices=ALONE, maps_of=maps_of
  )
  state = pretraining_state.init_state(
    jax.random.key(1), translator, image_shape, tx, 1, maps_of
  )
  steps = itertools.count()

  def call() -> Any:
    nonlocal state
    state, values = update(state, inputs(next(steps), batch))
    return values

  return call


def _images(entries: Sequence[Any]) -> list[Any]:
  return [entry.synthetic.images for entry in entries]


def _rows_and_labels(
  draws: Draws, table: subsets.ClassTable, config: CachingConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rows of X_T and their labels of each subset, unpadded."""
  found = []
  for i, num_classes in enumerate(np.asarray(draws.num_classes)):
    if config.max_images:
      keep = np.asarray(draws.target.mask[i]) > 0
      rows = np.asarray(draws.target.rows[i])[keep]
      found.append((rows, np.asarray(draws.target.labels[i])[keep]))
      continue
    coding = LABEL_CODINGS[config.label_coding]
    of_class = random_subsets.class_labels(
      int(num_classes), config.max_classes, coding
    )
    classes = np.asarray(draws.classes[i])[:num_classes]
    counts = np.asarray(table.counts)[classes]
    rows = np.concatenate(
      [np.asarray(table.rows)[c][:n] for c, n in zip(classes, counts)]  # noqa: B905
    )
    labels = np.repeat(np.asarray(of_class)[:num_classes], counts, axis=0)
    found.append((rows, labels))
  return found


def _passed(
  network: nn.Module,
  theta: Any,
  large: TargetSet,
  rows: np.ndarray,
  labels: np.ndarray,
) -> krr_errors.FeatureSet:
  """Features of X_T that has just passed the network."""
  parts = list(
    passes.batches(large.dataset.images[rows], labels, _IMAGES_A_CALL)
  )
  features = [
    _features(losses.feature_fn(network), theta, images, large.normalization)
    for images, _, _ in parts
  ]
  _, each_labels, each_mask = zip(*parts, strict=True)
  return krr_errors.FeatureSet(
    jnp.concatenate(features),
    jnp.concatenate(each_labels),
    jnp.concatenate(each_mask),
  )


@functools.partial(jax.jit, static_argnums=0)
def _features(
  features_of: losses.FeatureFn,
  theta: Any,
  images: jax.Array,
  normalization: Normalization,
) -> jax.Array:
  return features_of(theta, normalize(images, normalization))


def _with_target_images(
  batch: Sample, large: TargetSet, config: CachingConfig
) -> Sample:
  """The batch with the images of X_T, those of all images padded alike."""
  if config.max_images:
    images: Any = large.dataset.images[np.asarray(batch.target.rows)]
    return dataclasses.replace(batch, images=images)
  draws: Any = batch
  parts = _rows_and_labels(draws, large.class_table, config)
  size = config.max_classes * int(np.asarray(large.class_table.counts).max())

  def pad(x: np.ndarray) -> np.ndarray:
    missing = size - len(x)
    return np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))

  rows = np.stack([pad(rows) for rows, _ in parts])
  fields: dict[str, Any] = {
    'rows': rows,
    'labels': np.stack([pad(labels) for _, labels in parts]),
    'mask': np.stack([pad(np.ones(len(r), np.float32)) for r, _ in parts]),
  }
  found: Any = large.dataset.images[rows]
  return dataclasses.replace(batch, images=found, target=Subset(**fields))
