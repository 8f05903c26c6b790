"""Alg. 1: the data set D of random subsets, distilled in one fixed network.

Subset i depends on the seed and i alone. The subsets of one batch make one
file, so devices and processes share the work by files, to the same bytes for
any number of them, and a restart makes missing files.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import threading
from typing import Any

import flax.linen as nn
import numpy as np

from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.algorithms.subset_distiller import SubsetDistiller
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import extractors
from fsdd_jax.runtime import progress
from fsdd_jax.runtime.devices import default_device, map_devices
from fsdd_jax.runtime.stage_loop import ProgressFn
from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.storage.cache.shards import CacheWriter

# Settings that do not shape an entry, or stand elsewhere in the manifest.
_NOT_IN_CONFIGURATION = (
  'heldout_subsets',
  'log_every',
  'num_subsets',
  'subsets_per_batch',
  'theta_seed',
)


def make_manifest(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: CachingConfig,
  dataset_name: str = '',
) -> Manifest:
  """What the cache of a configuration holds; see `build_cache`.

  Example:
    >>> import toy
    >>> manifest = make_manifest(*toy.problem(), config=toy.CACHING)
    >>> manifest.num_subsets, manifest.num_shards, manifest.network['width']
    (4, 2, 4)
  """
  configuration = dataclasses.asdict(config)
  for name in _NOT_IN_CONFIGURATION:
    del configuration[name]
  height, width, channels = dataset.images.shape[1:]
  return Manifest(
    dataset=dataset_name,
    dataset_fingerprint=dataset.fingerprint(),
    network=extractors.describe_network(network),
    network_seed=config.theta_seed,
    normalization=describe_normalization(normalization),
    configuration=configuration,
    num_subsets=config.num_subsets,
    num_heldout=config.num_heldout,
    num_shards=-(-config.num_subsets // config.subsets_per_batch),
    target_size=config.max_images,
    synthetic_size=config.max_synthetic,
    label_size=config.max_classes,
    image_shape=(height, width, channels),
  )


def build_cache(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
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
    dataset: the large set Z.
    normalization: how its images become network inputs.
    config: N, C_min, C_max, M, I_max, T, alpha and the rest.
    folder: made if missing.
    dataset_name: the name of Z that the manifest tells.
    process_index: number of this process; each writes its own files.
    process_count: number of processes that share the folder.
    progress_fn: called after each file with the number of subsets done by this
      process, and the mean `first_loss` and `last_loss` over its subsets.
    bank_root: folder of feature banks; None: as of `array_store.default_root`.

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
    ...   *toy.problem(),
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
      network,
      dataset,
      normalization,
      config=config,
      on_step=on_step,
      bank_root=bank_root,
    )

  distiller_on(default_device())  # Checks, before anything is made.
  manifest = make_manifest(
    network, dataset, normalization, config=config, dataset_name=dataset_name
  )
  writer = CacheWriter(folder, manifest)
  ours = range(process_index, manifest.num_shards, process_count)
  missing = writer.missing_shards(
    process_index=process_index, process_count=process_count
  )

  def make(shard: int) -> np.ndarray:
    distil = distiller_on(default_device())
    with writer.claim(shard):
      entries = distil(manifest.shard_range(shard))
      writer.write_shard(shard, entries)
    return np.stack([entry.losses for entry in entries])

  sizes = {shard: len(manifest.shard_range(shard)) for shard in ours}
  done = sum(size for shard, size in sizes.items() if shard not in missing)
  bar.start_at(done, sum(sizes.values()))
  with bar:
    for losses in map_devices(make, missing, stopping=stopping):
      done += len(losses)
      bar.update(len(losses))
      if progress_fn is not None:
        first, last = losses.mean(axis=0)[[0, -1]].tolist()
        progress_fn(done, {'first_loss': first, 'last_loss': last})
  return manifest
