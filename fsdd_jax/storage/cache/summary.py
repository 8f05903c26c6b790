"""What a cache on disk holds, complete or not: counts, histogram, damage."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from etils import epy

from fsdd_jax.storage.cache.manifest import Manifest, read_manifest
from fsdd_jax.storage.cache.records import CacheEntry, from_record

with epy.lazy_imports():  # Slow, and most programs open no cache.
  import grain


@dataclasses.dataclass(frozen=True)
class CacheSummary:
  """Numbers of the subsets that can be read, and files that cannot.

  Attributes:
    manifest: of the cache.
    subsets: `[s]` numbers of the subsets found.
    num_classes: `[s]` C of each.
    ipc: `[s]` I of each.
    first_losses: `[s]` loss of each before the first step.
    last_losses: `[s]` loss of each before the last step.
    missing: names of files not yet written.
    damaged: names of damaged files, with what is wrong.
  """

  manifest: Manifest
  subsets: np.ndarray  # [s]
  num_classes: np.ndarray  # [s]
  ipc: np.ndarray  # [s]
  first_losses: np.ndarray  # [s]
  last_losses: np.ndarray  # [s]
  missing: tuple[str, ...]
  damaged: dict[str, str]

  @property
  def padded_share(self) -> float:
    """Share of the rows of distilled sets that were padding while made."""
    if not len(self.subsets):
      return 0.0
    used = np.mean(self.num_classes * self.ipc)
    return float(1.0 - used / self.manifest.synthetic_size)


def summarize(folder: str | os.PathLike[str]) -> CacheSummary:
  """Reads all entries of a cache, also one that is not complete.

  Args:
    folder: what `shards.CacheWriter` wrote, perhaps not to the end.

  Returns:
    Its summary; a damaged file is named there, not raised.

  Raises:
    FileNotFoundError: if the folder has no manifest.
    ValueError: if the manifest is damaged.
  """
  path = pathlib.Path(folder)
  manifest = read_manifest(path)
  rows: list[tuple[float, ...]] = []
  missing, damaged = [], {}
  for shard in range(manifest.num_shards):
    name = manifest.shard_name(shard)
    if not (path / name).exists():
      missing.append(name)
      continue
    try:
      rows += [
        (number, int(entry.num_classes), int(entry.ipc), *entry.losses[[0, -1]])
        for number, entry in read_shard(path, manifest, shard)
      ]
    except ValueError as error:
      damaged[name] = str(error)
  table = np.array(rows, np.float64).reshape(-1, 5).T
  numbers, num_classes, ipc = table[:3].astype(np.int64)
  return CacheSummary(
    manifest,
    numbers,
    num_classes,
    ipc,
    first_losses=table[3],
    last_losses=table[4],
    missing=tuple(missing),
    damaged=damaged,
  )


def count_available(folder: str | os.PathLike[str]) -> int:
  """How many of the first subsets of a cache are there, complete or not.

  Args:
    folder: what `shards.CacheWriter` wrote, perhaps not to the end.

  Returns:
    What `shards.open_cache` may take as `num_subsets`, or 0.

  Raises:
    FileNotFoundError, ValueError: as `summarize`.

  Example:
    >>> import tempfile
    >>> import toy
    >>> folder = tempfile.mkdtemp()
    >>> made = toy.build_cache(folder)
    >>> count_available(folder)
    4
  """
  path = pathlib.Path(folder)
  manifest = read_manifest(path)
  for shard in range(manifest.num_shards):
    if not (path / manifest.shard_name(shard)).exists():
      return manifest.shard_range(shard).start
  return manifest.num_subsets


def read_shard(
  folder: pathlib.Path, manifest: Manifest, shard: int
) -> Iterator[tuple[int, CacheEntry]]:
  """Reads one file of a cache, whichever others are there.

  Args:
    folder: the cache.
    manifest: its manifest.
    shard: number of the file.

  Yields:
    Number and padded entry of each of its subsets.

  Raises:
    ValueError: if the file is damaged.
  """
  path = folder / manifest.shard_name(shard)
  numbers = manifest.shard_range(shard)
  try:
    records = grain.sources.ArrayRecordDataSource([str(path)])
    if len(records) != len(numbers):
      raise ValueError(f'{len(records)} entries instead of {len(numbers)}')
    for place, number in enumerate(numbers):
      yield number, from_record(records[place], manifest, number)
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f'{path}: {error}. Delete this file and run the caching stage again, '
      'which writes only the missing files.'
    ) from error


def intact_entries(
  folder: str | os.PathLike[str], summary: CacheSummary
) -> Iterator[tuple[int, CacheEntry]]:
  """Number and entry of each subset that can be read, in rising order."""
  skipped = {*summary.missing, *summary.damaged}
  for shard in range(summary.manifest.num_shards):
    if summary.manifest.shard_name(shard) not in skipped:
      yield from read_shard(pathlib.Path(folder), summary.manifest, shard)


def to_text(summary: CacheSummary) -> str:
  """Lines of a summary: counts, losses, histogram of (C, I), damage."""
  manifest = summary.manifest
  lines = [
    f'{len(summary.subsets)} of {manifest.num_subsets} subsets of '
    f'{manifest.dataset or "a data set"} in {manifest.num_shards} files; '
    f'{len(summary.missing)} missing, {len(summary.damaged)} damaged.'
  ]
  if len(summary.subsets):
    lines += [
      'Loss (mean, least, most): first '
      + _spread(summary.first_losses)
      + ', last '
      + _spread(summary.last_losses)
      + '.',
      f'Padding: {summary.padded_share:.0%} of the rows of distilled sets.',
      'Subsets by number of classes C (rows) and images a class I (columns):',
      *histogram(summary.num_classes, summary.ipc),
    ]
  lines += [f'Missing: {name}' for name in summary.missing]
  lines += [f'Damaged: {text}' for text in summary.damaged.values()]
  return '\n'.join(lines)


def _spread(values: np.ndarray) -> str:
  return f'{values.mean():.4f}, {values.min():.4f}, {values.max():.4f}'


def histogram(num_classes: np.ndarray, ipc: np.ndarray) -> list[str]:
  """Lines of a table of counts by C (rows) and I (columns, doubling).

  Args:
    num_classes: `[s]` C of each subset, s at least 1.
    ipc: `[s]` I of each.

  Returns:
    A heading, and a line for each of at most 8 ranges of C.
  """
  edges = [2**i for i in range(int(ipc.max()).bit_length() + 1)]
  columns = [
    str(low) if high == low + 1 else f'{low}-{high - 1}'
    for low, high in itertools.pairwise(edges)
  ]
  width = max(6, *(len(name) + 2 for name in columns))
  lowest, highest = int(num_classes.min()), int(num_classes.max())
  step = max(1, -(-(highest - lowest + 1) // 8))
  lines = [' ' * 9 + ''.join(name.rjust(width) for name in columns)]
  for low in range(lowest, highest + 1, step):
    high = min(low + step - 1, highest)
    chosen = ipc[(num_classes >= low) & (num_classes <= high)]
    counts = np.histogram(chosen, [*edges[:-1], edges[-1] - 0.5])[0]
    name = str(low) if high == low else f'{low}-{high}'
    lines.append(name.rjust(9) + ''.join(str(n).rjust(width) for n in counts))
  return lines
