"""Alg. 1: the data set D of random subsets, distilled in one fixed network.

Subset i depends on the seed and i alone. The subsets of one batch pass theta
together and make one file, so devices and processes share the work by files,
to the same bytes for any number of them, and a restart makes missing files.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from fsdd_jax.algorithms import drawn_subsets, subset_step
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.core.losses import feature_fn
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import finite, progress
from fsdd_jax.runtime.devices import default_device, map_devices
from fsdd_jax.runtime.loop import ProgressFn
from fsdd_jax.storage.cache.manifest import Manifest, facts_of
from fsdd_jax.storage.cache.records import CacheEntry
from fsdd_jax.storage.cache.shards import CacheWriter

# Settings that do not shape an entry, or stand elsewhere in the manifest.
_NOT_IN_CONFIGURATION = (
  'heldout_subsets',
  'log_every',
  'num_subsets',
  'subsets_per_batch',
  'theta_seed',
)


def build_cache(
  network: nn.Module,
  large: TargetSet,
  *,
  config: CachingConfig,
  folder: str | os.PathLike[str],
  dataset_name: str = '',
  process_index: int = 0,
  process_count: int = 1,
  progress_fn: ProgressFn | None = None,
  bank_root: pathlib.Path | None = None,
) -> Manifest:
  """Distils N subsets of a large set and writes them to a folder (Alg. 1).

  A file holds the subsets of one batch and appears whole or not at all. Each
  device of this process makes one file at a time. So a kill loses the subsets
  in flight, and a restart writes the missing files, to the same bytes.

  Args:
    network: f; its weights theta follow from `config.theta_seed`.
    large: the large set Z.
    config: N, C_min, C_max, M, I_max, T, alpha and the rest.
    folder: made if missing.
    dataset_name: the name of Z in the manifest.
    process_index: number of this process; each writes its own files.
    process_count: number of processes that share the folder.
    progress_fn: called after each file with the number of subsets done by this
      process, and the mean `first_loss` and `last_loss` over its subsets.
    bank_root: folder of feature banks; None: `array_store.default_root`.

  Returns:
    The manifest; `shards.open_cache` reads the folder once all files are there.

  Raises:
    ValueError: if the data set cannot serve the config, or the folder holds
      another cache.
    FloatingPointError: if a loss is not finite; it names the subset.

  Example:
    >>> import tempfile
    >>> import toy
    >>> from fsdd_jax.storage.cache import shards
    >>> done = []
    >>> folder = tempfile.mkdtemp()
    >>> manifest = build_cache(
    ...   toy.problem()[0],
    ...   toy.target(),
    ...   config=toy.CACHING,
    ...   folder=folder,
    ...   progress_fn=lambda subsets, losses: done.append(subsets),
    ... )
    >>> done, len(shards.open_cache(folder))
    ([2, 4], 4)
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index={process_index} must lie in [0, {process_count}), the '
      'number of processes; number them from 0.'
    )
  bar = progress.Bar(0, 'cache', unit='subset')
  stopping = threading.Event()

  def on_step(step: int, loss: float) -> None:
    if stopping.is_set():
      raise concurrent.futures.CancelledError
    bar.set_postfix(step=f'{step}/{config.num_steps}', loss=f'{loss:.4f}')

  @functools.cache
  def distiller_on(device: Any) -> SubsetDistiller:
    del device  # JAX's default one, where the distiller keeps theta.
    return SubsetDistiller(
      network, large, config=config, on_step=on_step, bank_root=bank_root
    )

  _check(large, config)  # Before anything is made.
  manifest = _manifest(network, large, config, dataset_name)
  writer = CacheWriter(folder, manifest)
  missing = writer.missing_shards(
    process_index=process_index, process_count=process_count
  )
  if missing:
    distiller_on(default_device())  # Its features, before the bar begins.

  def make(shard: int) -> np.ndarray:
    distil = distiller_on(default_device())
    with writer.claim(shard):
      entries = distil(manifest.shard_range(shard))  # Lines 3-19.
      writer.write_shard(shard, entries)  # Line 20.
    return np.stack([entry.losses for entry in entries])

  ours = range(process_index, manifest.num_shards, process_count)
  sizes = {shard: len(manifest.shard_range(shard)) for shard in ours}
  done = sum(size for shard, size in sizes.items() if shard not in missing)
  bar.start_at(done, sum(sizes.values()))
  with bar:
    for losses in map_devices(make, missing, stopping=stopping):  # Line 2.
      done += len(losses)
      bar.update(len(losses))
      if progress_fn is not None:
        first, last = losses.mean(axis=0)[[0, -1]].tolist()
        progress_fn(done, {'first_loss': first, 'last_loss': last})
  return manifest


def _check(large: TargetSet, config: CachingConfig) -> None:
  """Raises a ValueError if the data set cannot serve the config."""
  drawn_subsets.check(large.class_table, config)
  drawn_subsets.allowed_classes(large.class_table, [0], config)


def _manifest(
  network: nn.Module,
  large: TargetSet,
  config: CachingConfig,
  dataset_name: str,
) -> Manifest:
  configuration = dataclasses.asdict(config)
  for name in _NOT_IN_CONFIGURATION:
    del configuration[name]
  return Manifest(
    **facts_of(network, large, theta_seed=config.theta_seed),
    dataset=dataset_name,
    configuration=configuration,
    num_subsets=config.num_subsets,
    num_heldout=config.num_heldout,
    num_shards=-(-config.num_subsets // config.subsets_per_batch),
    target_size=config.max_images,
    synthetic_size=config.max_synthetic,
    label_size=config.max_classes,
  )


class SubsetDistiller:
  """Distils subsets of a large set in one network (Alg. 1, lines 3-19).

  Called with the numbers of at most `config.subsets_per_batch` subsets, it
  returns an entry of NumPy arrays for each, with the loss of every step
  (before its update). A second distiller with the same settings compiles
  nothing.
  """

  def __init__(
    self,
    network: nn.Module,
    large: TargetSet,
    *,
    config: CachingConfig,
    on_step: Callable[[int, float], None] | None = None,
    bank_root: pathlib.Path | None = None,
    targets: drawn_subsets.TargetsFn | None = None,
  ) -> None:
    """Draws theta and computes the features of Z that are not there yet.

    Args:
      network: as for `build_cache`, like what is not described here.
      large: the large set Z.
      config: of the caching stage; `num_subsets` plays no part here.
      on_step: called every `config.log_every` steps with the steps done and
        the mean loss of the batch.
      bank_root: folder of feature banks.
      targets: what drawn subsets are scored against; by default what the
        config asks for.

    Raises:
      ValueError: if the data set cannot serve the config.
    """
    _check(large, config)
    self._table = large.class_table
    self._features_of = feature_fn(network)
    self._variables = random_networks.sample(
      jax.random.key(config.theta_seed), network, large.image_shape
    )
    self._large = large
    self._config, self._on_step = config, on_step
    seed = {'seed': config.theta_seed}
    bank = BankSource(network, self._variables, large, seed, root=bank_root)
    self._targets = targets or drawn_subsets.targets_fn(bank, config)

  def __call__(self, numbers: Sequence[int]) -> list[CacheEntry]:
    """Draws and distils subsets, given by number, side by side.

    Raises:
      FloatingPointError: naming the subset that is not finite.
    """
    count = len(numbers)
    # The last subset is repeated, as a smaller batch would compile anew.
    repeated = [numbers[-1]] * (self._config.subsets_per_batch - count)
    return self.distil(self.draw([*numbers, *repeated]))[:count]

  def draw(self, numbers: Sequence[int]) -> drawn_subsets.Draws:
    """Draws any number of subsets, padded to the config's sizes (lines 3-9)."""
    allowed = drawn_subsets.allowed_classes(self._table, numbers, self._config)
    return drawn_subsets.draw(
      self._table, numbers, config=self._config, allowed=allowed
    )

  def distil(self, draws: drawn_subsets.Draws) -> list[CacheEntry]:
    """Distils what was drawn, which may have any padding (lines 10-19).

    Each number of subsets and each padding compiles anew.
    """
    config, moves = self._config, self._config.jitter
    tx = subset_step.optimizer(config)
    targets_at = self._targets(draws)
    images = self._large.dataset.images[np.asarray(draws.initial.rows)]
    state = subset_step.init_state(
      images, self._large.normalization, draws.initial, tx=tx
    )
    mask = np.asarray(draws.initial.mask)
    rows, count = jax.device_put(subset_step.packed_rows(mask)), mask.shape[1]
    curves: list[np.ndarray] = []
    pending: list[jax.Array] = []
    for index in range(config.num_steps):  # Line 14.
      state, losses = subset_step.step(  # Lines 15-18.
        state,
        self._variables,
        targets_at(index),
        rows,
        subset_step.image_keys(draws.keys, index, count) if moves else None,
        features_of=self._features_of,
        tx=tx,
        loss=config.loss,
        ridge=config.ridge,
        moves=moves,
      )
      pending.append(losses)
      done = index + 1
      if done % config.log_every == 0 or done == config.num_steps:
        curves.extend(jax.device_get(pending))
        pending = []
        subset_step.check_finite(np.asarray(curves), draws)
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
    size = len(draws.numbers)
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(size)]
