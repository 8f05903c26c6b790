"""Batches of cached subsets with their real images, read through Grain."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from etils import epy

from fsdd_jax.data.datasets import Dataset
from fsdd_jax.runtime import residence
from fsdd_jax.storage.cache.records import CacheEntry
from fsdd_jax.types import LabeledSet, Subset

with epy.lazy_imports():  # Slow, and most programs open no cache.
  import grain

_EPOCHS = 2**20
_NUM_SIZES = 8


@flax.struct.dataclass
class Sample:
  """An entry of D as pre-training reads it (Alg. 2, lines 4-5).

  NumPy arrays, as they stay on the host until a step; those of a batch have a
  leading axis `[b]`.

  Attributes:
    synthetic: X_S' and Y_S, `[n, ...]`.
    start: `[n, h, w, c]` uint8 images that X_S started from.
    target: rows of X_T in Z with their labels, `[m, ...]`.
    images: `[m, h, w, c]` uint8 images of these rows; None where not read.
    classes: `[k]` int32, the classes of Z; -1 where unused.
    num_classes: `[]` int32, C.
  """

  synthetic: LabeledSet
  start: jax.Array  # [n, h, w, c]
  target: Subset
  images: jax.Array | None  # [m, h, w, c]
  classes: jax.Array  # [k]
  num_classes: jax.Array  # []


ReadFn = Callable[[CacheEntry, Dataset], Sample]


def without_images(entry: CacheEntry, dataset: Dataset) -> Sample:
  """A sample of which no image of X_T is needed."""
  start: Any = dataset.images[np.asarray(entry.start_rows)]
  return Sample(
    entry.synthetic,
    start,
    entry.target,
    None,
    entry.classes,
    entry.num_classes,
  )


def with_images(entry: CacheEntry, dataset: Dataset) -> Sample:
  """A sample with the images of X_T."""
  images: Any = dataset.images[np.asarray(entry.target.rows)]
  return dataclasses.replace(without_images(entry, dataset), images=images)


def stack(samples: Sequence[Sample]) -> Sample:
  """Samples to a batch of NumPy arrays."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *samples)


def stack_short(samples: Sequence[Sample]) -> Sample:
  """As `stack`, but as short as the longest of the sets allows.

  Padding is cut to one of eight sizes, so that few functions are compiled, or
  not at all (`residence.padded_sizes`).
  """
  batch = stack(samples)
  mask = np.asarray(batch.synthetic.mask)
  most = mask.shape[1]
  part, longest = -(-most // _NUM_SIZES), int(mask.sum(axis=1).max())
  sizes = [min(most, part * (i + 1)) for i in range(_NUM_SIZES)]
  size = next(x for x in residence.padded_sizes(sizes) if x >= longest)
  synthetic, start = jax.tree.map(
    lambda x: x[:, :size], (batch.synthetic, batch.start)
  )
  return dataclasses.replace(batch, synthetic=synthetic, start=start)


def split(
  source: Any, num_learned: int, num_scored: int
) -> tuple[range, range]:
  """The entries of a cache that are learned from, and those that are scored.

  Args:
    source: the cache.
    num_learned: how many to learn from; 0: all that are not held out.
    num_scored: most held-out ones.

  Returns:
    Numbers of entries.

  Raises:
    ValueError: if there are too few.
  """
  held = source.manifest.num_heldout
  stop = held + num_learned if num_learned else None
  learned = range(len(source))[held:stop]
  if len(learned) < max(1, num_learned):
    raise ValueError(
      f'A cache of {len(source)} subsets has {len(learned)} to learn '
      f'from beside {held} held-out ones; cache more, or lower num_subsets.'
    )
  return learned, range(min(held, num_scored))


def read(
  source: Any, dataset: Dataset, read_fn: ReadFn, *, rows: Sequence[int]
) -> Sample:
  """A batch of given entries of a cache."""
  return stack_short([read_fn(source[row], dataset) for row in rows])


def random_batches(
  source: Any,
  dataset: Dataset,
  read_fn: ReadFn,
  *,
  seed: int,
  size: int,
  start: int = 0,
  numbers: range | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Sample]:
  """Endless batches in random order, epoch by epoch (Alg. 2, line 4).

  The batch of a step depends on the step alone, so a resumed run starts at
  its step and stores nothing. Reading runs ahead in threads.

  Args:
    source: entries by number, from `shards.open_cache`.
    dataset: the large set Z.
    read_fn: makes a sample of an entry.
    seed: of the order.
    size: samples a batch over all processes, B.
    start: the first step.
    numbers: the entries that are read; None takes all.
    process_index: number of this process.
    process_count: processes that share a batch; sample i of it falls to
      process i modulo this.

  Returns:
    An iterator of batches of `size / process_count` samples.

  Raises:
    ValueError: if the number of processes does not divide `size`.
  """
  if size % process_count:
    raise ValueError(
      f'{process_count} processes do not divide a batch of {size} samples; '
      f'choose a batch_size that is a multiple of {process_count}.'
    )
  chosen = range(len(source)) if numbers is None else numbers
  entries = grain.MapDataset.source(source)[chosen.start : chosen.stop]
  order = entries.seed(seed)
  # Nearly endless: the length of an endless one overflows in batches of one.
  own = order.shuffle().repeat(_EPOCHS)[process_index::process_count]
  # Processes share an array, whose parts must have one size.
  batches = own.map(lambda entry: read_fn(entry, dataset)).batch(
    size // process_count,
    batch_fn=stack_short if process_count == 1 else stack,
  )
  # Grain's defaults (16 threads, 500 batches) suit batches of a few images.
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
  return iter(batches[start:].to_iter_dataset(options))
