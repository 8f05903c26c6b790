"""Batches of cached subsets with their real images, read through Grain."""

from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import grain
import jax
import numpy as np

from fsdd_jax.cache_records import CacheEntry
from fsdd_jax.datasets import Dataset
from fsdd_jax.types import LabeledSet

# Grain's defaults (16 threads, 500 batches) suit batches of a few images.
_EPOCHS = 2**20
_READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)


@flax.struct.dataclass
class SubsetBatch:
  """Samples of D with the real images that they name (Alg. 2, lines 4-5).

  NumPy arrays, as they stay on the host until a step.

  Attributes:
    synthetic: X_S' and Y_S; arrays `[b, n, ...]`.
    images: `[b, m, h, w, c]` uint8 images of X_T.
    labels: `[b, m, k]` their labels, Y_T.
    mask: `[b, m]` 1 for an image and 0 for padding.

  Example:
    >>> import tempfile
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> batch: SubsetBatch = read(source, toy.problem()[1], rows=[0, 3])
    >>> batch.synthetic.labels.shape, batch.images.shape, batch.mask.shape
    ((2, 6, 3), (2, 12, 8, 8, 3), (2, 12))
  """

  synthetic: LabeledSet
  images: jax.Array  # [b, m, h, w, c]
  labels: jax.Array  # [b, m, k]
  mask: jax.Array  # [b, m]


def with_images(entry: CacheEntry, dataset: Dataset) -> SubsetBatch:
  """One entry, without the axis `b`, with the images of its rows of Z.

  Example:
    >>> import tempfile
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> with_images(source[0], toy.problem()[1]).images.shape
    (12, 8, 8, 3)
  """
  target = entry.target
  images: Any = dataset.images[np.asarray(target.rows)]
  return SubsetBatch(entry.synthetic, images, target.labels, target.mask)


def stack(samples: Sequence[SubsetBatch]) -> SubsetBatch:
  """Samples to a batch of NumPy arrays.

  Example:
    >>> import tempfile
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> one = with_images(source[0], toy.problem()[1])
    >>> stack([one, one]).images.shape
    (2, 12, 8, 8, 3)
  """
  return jax.tree.map(lambda *leaves: np.stack(leaves), *samples)


def read(source: Any, dataset: Dataset, *, rows: Sequence[int]) -> SubsetBatch:
  """A batch of given entries of a cache.

  Example:
    >>> import tempfile
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> read(source, toy.problem()[1], rows=[0, 3]).images.shape
    (2, 12, 8, 8, 3)
  """
  return stack([with_images(source[row], dataset) for row in rows])


def random_batches(
  source: Any,
  dataset: Dataset,
  *,
  seed: int,
  size: int,
  start: int = 0,
  count: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[SubsetBatch]:
  """Endless batches in random order, epoch by epoch (Alg. 2, line 4).

  The batch of a step depends on the step alone, so a resumed run starts at
  its step and stores nothing. Reading runs ahead in threads.

  Args:
    source: entries by number, as of `cache.open_cache`.
    dataset: the large set Z.
    seed: of the order.
    size: samples a batch over all processes, B.
    start: the first step.
    count: only the first so many entries are read; None takes all.
    process_index: number of this process.
    process_count: processes that share a batch; sample i of it falls to
      process i modulo this.

  Returns:
    An iterator of batches of `size / process_count` samples.

  Raises:
    ValueError: if the number of processes does not divide `size`.

  Example:
    >>> import tempfile
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> batches = random_batches(source, toy.problem()[1], seed=0, size=2)
    >>> next(batches).images.shape
    (2, 12, 8, 8, 3)
  """
  if size % process_count:
    raise ValueError(
      f'{process_count} processes do not divide a batch of {size} samples; '
      f'choose a batch_size that is a multiple of {process_count}.'
    )
  entries = grain.MapDataset.source(source)
  order = entries[: len(source) if count is None else count].seed(seed)
  # Nearly endless: the length of an endless one overflows in batches of one.
  own = order.shuffle().repeat(_EPOCHS)[process_index::process_count]
  batches = own.map(lambda entry: with_images(entry, dataset)).batch(
    size // process_count, batch_fn=stack
  )
  return iter(batches[start:].to_iter_dataset(_READ_OPTIONS))
