import dataclasses
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import grain
import jax
import numpy as np
import pytest

from fsdd_jax.storage.cache import shards, summary
from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.storage.cache.records import CacheEntry
from fsdd_jax.types import LabeledSet, Subset

MANIFEST = Manifest(
  dataset='digits',
  dataset_fingerprint='abc',
  network={'name': 'convnet'},
  network_seed=3,
  normalization={},
  configuration={'steps': 2},
  num_heldout=1,
  num_subsets=7,
  num_shards=3,
  target_size=6,
  synthetic_size=4,
  label_size=3,
  image_shape=(8, 8, 1),
)


def make_entry(subset):
  rng = np.random.default_rng(subset)
  mask = (np.arange(4) < 1 + subset % 4).astype(np.float32)
  images = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)
  labels = rng.normal(size=(4, 3)).astype(np.float32)
  return CacheEntry(
    target=Subset(
      rng.integers(0, 100, 6).astype(np.int32),
      rng.normal(size=(6, 3)).astype(np.float32),
      np.ones(6, np.float32),
    ),
    synthetic=LabeledSet(
      images * mask[:, None, None, None], labels * mask[:, None], mask
    ),
    start_rows=rng.integers(0, 100, 4).astype(np.int32) * mask.astype(np.int32),
    classes=rng.permutation(9)[:3].astype(np.int32),
    num_classes=np.asarray(3, np.int32),
    ipc=np.asarray(subset, np.int32),
    losses=rng.normal(size=2).astype(np.float32),
  )


def entries_of(shard):
  return [make_entry(i) for i in MANIFEST.shard_range(shard)]


def write_all(folder, process_index=0, process_count=1):
  writer = shards.CacheWriter(folder, MANIFEST)
  missing = writer.missing_shards(
    process_index=process_index, process_count=process_count
  )
  for shard in missing:
    writer.write_shard(shard, entries_of(shard))
  return missing


def read_folder(folder):
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


def assert_same(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache')
  assert write_all(folder) == [0, 1, 2]
  return folder


@pytest.fixture
def copy(whole, tmp_path):
  """A folder of one's own, to damage."""
  for name, data in read_folder(whole).items():
    (tmp_path / name).write_bytes(data)
  return tmp_path


def shard_path(folder, shard):
  return pathlib.Path(folder) / MANIFEST.shard_name(shard)


def test_entries_come_back_in_order_and_padded(whole):
  source = shards.open_cache(whole, MANIFEST)
  assert len(source) == 7
  for i in range(7):
    assert_same(source[np.int64(i)], make_entry(i))
  source.verify()
  for i in (-1, 7):
    with pytest.raises(IndexError, match=r'not in \[0, 7\)'):
      source[i]


def test_no_entry_depends_on_the_number_of_shards(tmp_path, whole):
  manifest = dataclasses.replace(MANIFEST, num_shards=1)
  writer = shards.CacheWriter(tmp_path, manifest)
  writer.write_shard(0, (make_entry(i) for i in range(7)))  # A generator.
  source = shards.open_cache(tmp_path)
  assert_same(list(source), list(shards.open_cache(whole)))


def test_two_processes_split_the_work(tmp_path, whole):
  assert write_all(tmp_path, 1, 2) == [1]
  with pytest.raises(FileNotFoundError, match=r'shard-00000-of-00003.*miss'):
    shards.open_cache(tmp_path)
  assert write_all(tmp_path, 0, 2) == [0, 2]
  assert read_folder(tmp_path) == read_folder(whole)


def test_the_first_subsets_that_are_there_are_counted(copy):
  assert summary.count_available(copy) == 7
  shard_path(copy, 1).unlink()
  assert summary.count_available(copy) == len(entries_of(0))
  shard_path(copy, 0).unlink()
  assert summary.count_available(copy) == 0


@pytest.mark.parametrize('shard', [0, 2])
def test_a_restart_writes_only_the_missing_shards(copy, whole, shard):
  shard_path(copy, shard).unlink()
  kept = shard_path(copy, 1).stat().st_mtime_ns
  assert write_all(copy) == [shard]
  assert read_folder(copy) == read_folder(whole)
  assert shard_path(copy, 1).stat().st_mtime_ns == kept


def test_a_killed_writer_leaves_no_shard_and_a_restart_cleans_up(copy, whole):
  shard_path(copy, 1).unlink()
  script = (
    'import os, signal, sys; sys.path.insert(0, sys.argv[1]);'
    'import shards_test as t\n'
    'def entries():\n'
    '  yield t.entries_of(1)[0]\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
    't.shards.CacheWriter(sys.argv[2], t.MANIFEST).write_shard(1, entries())'
  )
  result = subprocess.run(
    [sys.executable, '-c', script, os.path.dirname(__file__), str(copy)],
    check=False,
  )
  assert result.returncode == -signal.SIGKILL
  assert [p for p in copy.iterdir() if p.suffix == '.tmp']
  with pytest.raises(FileNotFoundError, match='missing'):
    shards.open_cache(copy)
  assert write_all(copy) == [1]
  assert read_folder(copy) == read_folder(whole)


@pytest.mark.parametrize('count', [1, 3])
def test_a_wrong_number_of_entries_writes_nothing(tmp_path, count):
  writer = shards.CacheWriter(tmp_path, MANIFEST)
  with pytest.raises(ValueError, match=f'has 2 subsets .*got {count}'):
    writer.write_shard(0, [make_entry(i) for i in range(count)])
  assert list(read_folder(tmp_path)) == ['manifest.json']


def test_an_error_in_the_entries_writes_nothing(tmp_path):
  def entries():
    yield make_entry(0)
    raise RuntimeError('out of memory')

  writer = shards.CacheWriter(tmp_path, MANIFEST)
  with pytest.raises(RuntimeError, match='out of memory'):
    writer.write_shard(0, entries())
  assert list(read_folder(tmp_path)) == ['manifest.json']


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
  resource = pytest.importorskip('resource')
  writer = shards.CacheWriter(tmp_path, MANIFEST)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    with pytest.raises(OSError, match=r'shard-00000.*has space'):
      writer.write_shard(0, entries_of(0))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)
  assert list(read_folder(tmp_path)) == ['manifest.json']


def test_a_disk_that_fails_in_the_end_is_reported_by_name(
  tmp_path, monkeypatch
):
  writer = shards.CacheWriter(tmp_path, MANIFEST)

  def full(*_):
    raise OSError(28, os.strerror(28))

  with monkeypatch.context() as failing:
    failing.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=r'No space left.*shard-00000'):
      writer.write_shard(0, entries_of(0))
  assert writer.missing_shards() == [0, 1, 2]
  assert [path.name for path in tmp_path.iterdir()] == ['manifest.json']


def test_another_manifest_is_refused(whole):
  other = dataclasses.replace(MANIFEST, network_seed=4)
  with pytest.raises(ValueError, match='network_seed: 3 in the cache, 4'):
    shards.CacheWriter(whole, other)
  with pytest.raises(ValueError, match='network_seed: 3 in the cache, 4'):
    shards.open_cache(whole, other)
  with pytest.raises(ValueError, match='dataset_fingerprint'):
    shards.open_cache(whole, {'dataset_fingerprint': 'xyz'})
  assert len(shards.open_cache(whole, {'dataset_fingerprint': 'abc'})) == 7


def test_no_cache_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'manifest\.json: no such file'):
    shards.open_cache(tmp_path)


@pytest.mark.parametrize('keep', [0, 1, 100, 0.5, -1])
def test_a_truncated_shard_is_refused_at_opening(copy, keep):
  path = shard_path(copy, 1)
  data = path.read_bytes()
  path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else keep])
  with pytest.raises(ValueError, match=r'shard-00001.* of 2 .*Delete'):
    shards.open_cache(copy)


def test_a_flipped_bit_is_never_read_as_data(copy):
  path = shard_path(copy, 1)
  data = path.read_bytes()
  expected = [make_entry(i) for i in range(7)]
  rng = np.random.default_rng(0)
  # Most of the file is padding of zeros, which nobody reads.
  positions = rng.choice(np.flatnonzero(np.frombuffer(data, np.uint8)), 100)
  messages = []
  for position in positions:
    damaged = bytearray(data)
    damaged[position] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      assert_same(list(shards.open_cache(copy)), expected)
    except ValueError as error:
      messages.append(str(error))
  assert len(messages) > 90
  for message in messages:
    assert message.startswith(str(path))
    assert 'run the caching stage again' in message


def test_shards_that_changed_places_are_refused(copy):
  paths = [shard_path(copy, i) for i in (0, 1)]
  data = [p.read_bytes() for p in paths]
  for path, other in zip(paths, reversed(data), strict=True):
    path.write_bytes(other)
  with pytest.raises(ValueError, match=r'shard-00000.* holds entry 2 instead'):
    shards.open_cache(copy).verify()


def test_a_shard_of_another_cache_is_refused(copy, tmp_path_factory):
  other = dataclasses.replace(MANIFEST, network_seed=4)
  folder = tmp_path_factory.mktemp('other')
  shards.CacheWriter(folder, other).write_shard(2, entries_of(2))
  shard_path(copy, 2).write_bytes(shard_path(folder, 2).read_bytes())
  with pytest.raises(ValueError, match=r'shard-00002.* another manifest'):
    shards.open_cache(copy).verify()


def batches(source):
  return (
    grain.MapDataset.source(source)
    .shuffle(seed=1)
    .repeat()
    .batch(2, drop_remainder=True)
    .to_iter_dataset()
  )


def test_grain_shuffles_and_batches_entries(whole):
  iterator = iter(batches(shards.open_cache(whole)))
  drawn = [next(iterator) for _ in range(7)]
  assert drawn[0].synthetic.images.shape == (2, 4, 8, 8, 1)
  assert drawn[0].target.labels.shape == (2, 6, 3)
  numbers = np.concatenate([batch.ipc for batch in drawn])
  # Two epochs, each in an order of its own.
  assert sorted(numbers[:7]) == sorted(numbers[7:]) == list(range(7))
  assert list(numbers[:7]) not in (list(range(7)), list(numbers[7:]))
  for batch in drawn:
    entries = [make_entry(int(i)) for i in batch.ipc]
    assert_same(batch, jax.tree.map(lambda *x: np.stack(x), *entries))


def test_grain_resumes_where_it_stopped(whole):
  iterator = iter(batches(shards.open_cache(whole)))
  for _ in range(3):
    next(iterator)
  state = iterator.get_state()
  expected = [next(iterator) for _ in range(4)]
  resumed = iter(batches(shards.open_cache(whole)))
  resumed.set_state(state)
  assert_same([next(resumed) for _ in range(4)], expected)


def test_the_source_can_be_sent_to_a_worker_process(whole):
  source = shards.open_cache(whole)
  assert_same(source[5], make_entry(5))  # With an open reader.
  assert_same(pickle.loads(pickle.dumps(source))[5], make_entry(5))
