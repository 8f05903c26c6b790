"""The data set D of Alg. 1 on disk: distilled sets of many random subsets.

A folder holds `manifest.json`, which says what was distilled and how, and
ArrayRecord shards of equal share. Entry i is subset i of Alg. 1, however many
shards there are. An entry stores rows of the large data set Z, not its images,
and no padding; reading pads to the sizes of the manifest again. Each record
carries its own number and the manifest's hash, and ArrayRecord checks the hash
of each record's bytes, so that a damaged, moved or foreign shard is noticed.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from etils import epy

from fsdd_jax.runtime import files
from fsdd_jax.storage.cache import manifest as cache_manifest
from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.storage.cache.records import CacheEntry, from_record, to_record

with epy.lazy_imports():  # Slow, and most programs open no cache.
  import grain
  from array_record.python import array_record_module

# One record a group, for fast random access, as Grain demands.
_WRITER_OPTIONS = 'group_size:1'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'

Path = str | os.PathLike[str]


class CacheWriter:
  """Writes a cache shard by shard; a restart writes the missing shards only.

  Several processes may write to one folder, if each writes its own shards. The
  same entries give the same bytes, whoever writes them.
  """

  def __init__(self, folder: Path, manifest: Manifest) -> None:
    """Starts a cache, or goes on with one.

    Args:
      folder: made if missing.
      manifest: what will be written.

    Raises:
      ValueError: naming the fields that differ, if the folder holds a cache
        with another manifest.
      OSError: if the folder cannot be written.
    """
    self._folder = files.resolve(folder)
    self._manifest = manifest
    self._claimed: set[int] = set()
    path = self._folder / cache_manifest.FILE_NAME
    if path.exists():
      cache_manifest.check_manifest(self._folder, manifest)
    else:
      files.write_bytes_atomic(path, manifest.to_json().encode() + b'\n')

  def missing_shards(
    self, *, process_index: int = 0, process_count: int = 1
  ) -> list[int]:
    """Shards not yet written, of those whose number falls to a process.

    Args:
      process_index: number of this process, in [0, process_count).
      process_count: number of processes that share the work; shard s falls to
        process s modulo this.

    Returns:
      Shard numbers in rising order.
    """
    return [
      shard
      for shard in range(
        process_index, self._manifest.num_shards, process_count
      )
      if not (self._folder / self._manifest.shard_name(shard)).exists()
    ]

  @contextlib.contextmanager
  def claim(self, shard: int) -> Iterator[None]:
    """Keeps a shard for this program, while its entries are made.

    Raises:
      OSError: if another program makes it.
    """
    if shard in self._claimed:
      yield
      return
    name = f'.{self._manifest.shard_name(shard)}.lock'
    with files.lock(self._folder, name):
      self._claimed.add(shard)
      try:
        yield
      finally:
        self._claimed.discard(shard)

  def write_shard(self, shard: int, entries: Iterable[CacheEntry]) -> None:
    """Writes one shard, whole or not at all.

    Args:
      shard: its number.
      entries: the entries of `manifest.shard_range(shard)`, in that order, of
        the manifest's sizes; may be a generator.

    Raises:
      ValueError: if number or shapes of entries differ from the manifest, or a
        value is NaN or infinite. Nothing is written then.
      OSError: if the file cannot be written, or another program writes it.
    """
    with self.claim(shard):
      self._write_shard(shard, entries)

  def _write_shard(self, shard: int, entries: Iterable[CacheEntry]) -> None:
    path = self._folder / self._manifest.shard_name(shard)
    subsets = self._manifest.shard_range(shard)
    for leftover in self._folder.glob(f'.{path.name}.*.tmp'):
      leftover.unlink(missing_ok=True)  # Of a run that was killed.
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
      count = self._write_records(temporary, subsets, entries)
      if count != len(subsets):
        raise ValueError(
          f'Shard {shard} has {len(subsets)} subsets ({subsets.start} to '
          f'{subsets.stop - 1}); got {count} entries. Pass one for each.'
        )
      with files.named(path), open(temporary, 'rb') as file:
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)

  def _write_records(
    self, path: pathlib.Path, subsets: range, entries: Iterable[CacheEntry]
  ) -> int:
    """Writes entries to `path` and returns how many there were."""
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    count = 0
    try:
      for entry in entries:
        record = to_record(entry, self._manifest, subsets.start + count)
        _call_writer(path, writer.write, record)
        count += 1
    finally:
      _call_writer(path, writer.close)
    return count


class CacheSource:
  """Random access to the entries of a cache; a source for Grain.

  For example `grain.MapDataset.source(source).shuffle(seed).repeat().batch(b)`.
  Reading is safe in several threads, and the object may be sent to worker
  processes.

  Example:
    >>> import tempfile
    >>> import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> len(source), source[0].synthetic.images.shape
    (4, (6, 8, 8, 3))
    >>> source.verify()
  """

  def __init__(
    self, folder: Path, manifest: Manifest, num_subsets: int
  ) -> None:
    """Opens the shards of the first so many subsets; use `open_cache`."""
    self.manifest = manifest
    self._folder = files.resolve(folder)
    self._length = num_subsets
    paths = []
    for shard in range(manifest.num_shards):
      if manifest.shard_range(shard).start >= num_subsets:
        break
      path = self._folder / manifest.shard_name(shard)
      _check_shard(path, len(manifest.shard_range(shard)))
      paths.append(str(path))
    self._records = grain.sources.ArrayRecordDataSource(paths)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: SupportsIndex) -> CacheEntry:
    """Entry `index`, padded, as NumPy arrays; a ValueError if it is damaged."""
    subset = index.__index__()
    if not 0 <= subset < len(self):
      raise IndexError(f'Entry {subset} is not in [0, {len(self)}).')
    try:
      return from_record(self._records[subset], self.manifest, subset)
    except (RuntimeError, ValueError) as error:
      raise ValueError(
        f'{self._path_of(subset)}: entry {subset} cannot be read: {error}. '
        'Delete this file and run the caching stage again, which writes only '
        'the missing shards.'
      ) from error

  def verify(self) -> None:
    """Reads every entry; raises the ValueError of the first damaged one."""
    for subset in range(len(self)):
      self[subset]

  def _path_of(self, subset: int) -> pathlib.Path:
    shards = range(self.manifest.num_shards)
    shard = next(s for s in shards if subset in self.manifest.shard_range(s))
    return self._folder / self.manifest.shard_name(shard)


def open_cache(
  folder: Path,
  expected_manifest: Manifest | Mapping[str, Any] | None = None,
  *,
  num_subsets: int | None = None,
) -> CacheSource:
  """Opens a cache for reading.

  All shards are checked for presence, length and number of entries. The bytes
  of an entry are checked whenever it is read; `CacheSource.verify` reads all.

  Args:
    folder: what `CacheWriter` wrote.
    expected_manifest: what it must hold: a manifest, or only those fields that
      matter, by name.
    num_subsets: only the first so many entries are opened, so that a cache may
      serve while more is added to it; all by default.

  Returns:
    A source of padded `CacheEntry`s of NumPy arrays.

  Raises:
    FileNotFoundError: if there is no cache, or it lacks a shard.
    ValueError: if a shard is damaged, or the manifest is damaged, of another
      format version, differs from the expected one, or holds fewer subsets.

  Example:
    >>> import tempfile
    >>> import toy
    >>> folder = tempfile.mkdtemp()
    >>> made = toy.build_cache(folder)
    >>> len(open_cache(folder, {'dataset': 'toy'}))
    4
  """
  expected = {} if expected_manifest is None else expected_manifest
  manifest = cache_manifest.check_manifest(files.resolve(folder), expected)
  count = manifest.num_subsets if num_subsets is None else num_subsets
  if not 1 <= count <= manifest.num_subsets:
    raise ValueError(
      f'{folder} holds {manifest.num_subsets} subsets; cannot open {count}.'
    )
  return CacheSource(folder, manifest, count)


def _check_shard(path: pathlib.Path, count: int) -> None:
  """Makes sure that a shard is there and whole as far as its index says."""
  if not path.exists():
    raise FileNotFoundError(
      f'{path}: this shard is missing. Run the caching stage again, which '
      'writes only the missing shards.'
    )
  reader = array_record_module.ArrayRecordReader(
    str(path), _READER_OPTIONS, file_reader_buffer_size=32768
  )
  found = reader.num_records()  # 0 if the file makes no sense.
  try:
    reader.close()
    reason = 'it was not written by this manifest'
  except RuntimeError as error:
    reason = str(error)
  if found != count:
    raise ValueError(
      f'{path}: {found} entries can be read instead of {count} ({reason}). '
      'Delete this file and run the caching stage again, which writes only '
      'the missing shards.'
    )


def _call_writer(
  path: pathlib.Path, call: Callable[..., None], *args: Any
) -> None:
  """Calls the ArrayRecord writer, whose errors are all RuntimeErrors."""
  try:
    call(*args)
  except RuntimeError as error:
    raise OSError(
      f'{path}: cannot write: {error}. Choose a folder that is writable and '
      'has space.'
    ) from error
