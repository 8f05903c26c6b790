"""Damaged files: a clear error that names them, or what was there.

Never a traceback of another kind, and never other content.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toy
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.data import datasets
from fsdd_jax.runtime import files, metrics, workdir
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage import distilled_set, learned_network, translators
from fsdd_jax.storage.cache import manifest as cache_manifest
from fsdd_jax.storage.cache import shards
from workbench import cells, tasks

_BOUNDED = settings(
  max_examples=60,
  derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Places are shares of a file, so that they make sense for any size.
_CHANGES = st.lists(
  st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
  min_size=1,
  max_size=4,
)
_LENGTH = st.one_of(st.just(1.0), st.floats(0, 1))


def _damaged(whole, changes, length):
  data = bytearray(whole)
  for place, value in changes:
    data[int(place * len(data))] ^= value
  return bytes(data[: round(length * len(data))])


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _hold(path, whole, read, expected, changes, length):
  """Reads a damaged file; it is refused by name, or nothing has changed."""
  path.write_bytes(_damaged(whole, changes, length))
  try:
    found = read()
  except (ValueError, OSError) as error:
    assert path.name in str(error) or str(path.parent) in str(error)  # noqa: PT017
  else:
    _same(found, expected)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A file of each kind that safetensors holds, and how it is read."""
  folder = tmp_path_factory.mktemp('files')
  start, transform = toy.translator(), toy.problem()[2]
  theta = learned_network.learned_network(
    toy.problem()[0], 3, (8, 8, 3), toy.theta(5)
  )
  distilled_set.save_distilled(folder / 'set', toy.distilled())
  translators.save_translator(
    folder / 'translator',
    start.adapted(start.variables['params'], transform, record={}),
  )
  learned_network.save_learned(folder / 'network', theta, transform, record={})

  def distilled():
    found = distilled_set.read_distilled(folder / 'set')
    return found.images, found.labels, dataclasses.asdict(found.metadata)

  return folder, {
    'set': distilled,
    'translator': lambda: (
      translators.read_translator(folder / 'translator').variables
    ),
    'network': lambda: (
      learned_network.load_learned(folder / 'network').variables
    ),
  }


@pytest.mark.parametrize('kind', ['set', 'translator', 'network'])
@_BOUNDED
@given(changes=_CHANGES, length=_LENGTH)
def test_safetensors(written, kind, changes, length):
  folder, readers = written
  path = folder / kind
  whole, expected = path.read_bytes(), readers[kind]()
  try:
    _hold(path, whole, readers[kind], expected, changes, length)
  finally:
    path.write_bytes(whole)


@pytest.fixture(scope='module', params=[np.savez, np.savez_compressed])
def arrays(request, tmp_path_factory):
  """A file of `npz:PATH`."""
  path = tmp_path_factory.mktemp('arrays') / 'own.npz'
  rng = np.random.default_rng(0)
  request.param(
    path,
    train_images=rng.integers(0, 256, (6, 4, 4, 3), np.uint8),
    train_labels=np.arange(6) % 2,
    class_names=['ant', 'bee'],
  )
  return path


@_BOUNDED
@given(changes=_CHANGES, length=_LENGTH)
def test_arrays(arrays, changes, length):
  def read():
    found = datasets.load(f'npz:{arrays}', progress=False)
    return found.images, found.labels, found.class_names

  whole, expected = arrays.read_bytes(), read()
  try:
    _hold(arrays, whole, read, expected, changes, length)
  finally:
    arrays.write_bytes(whole)


@_BOUNDED
@given(changes=_CHANGES, length=_LENGTH, shard=st.booleans())
def test_caches(tmp_path_factory, changes, length, shard):
  folder = _cache(tmp_path_factory)
  source = shards.open_cache(folder)
  name = source.manifest.shard_name(0) if shard else 'manifest.json'
  path = folder / name
  whole = path.read_bytes()

  def read():
    found = shards.open_cache(folder)
    return [found[number] for number in range(len(found))]

  expected = [source[number] for number in range(len(source))]
  try:
    _hold(path, whole, read, expected, changes, length)
  finally:
    path.write_bytes(whole)


_made = []


def _cache(factory):
  if not _made:
    _made.append(factory.mktemp('cache'))
    toy.build_cache(_made[0])
  return _made[0]


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda part: (
    st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3)
  ),
  max_leaves=6,
)
_TEXTS = st.one_of(st.binary(max_size=40), _JSON.map(
  lambda value: json.dumps(value).encode()
))  # fmt: skip


@_BOUNDED
@given(data=_TEXTS)
def test_every_reader_of_json(tmp_path, data):
  task = tasks.Task('one', 'a.py', ())
  folder = task.folder(tmp_path)
  readers = {
    'config.json': lambda: workdir.claim_workdir(
      LoopOptions(folder), DistillationConfig()
    ),
    'manifest.json': lambda: cache_manifest.read_manifest(folder),
    'metrics.jsonl': lambda: metrics.read_metrics(folder / 'metrics.jsonl'),
    'seconds.jsonl': lambda: metrics.StageClock(folder / 'seconds.jsonl'),
    'scores.json': lambda: cells.read_scores(task, tmp_path),
  }
  for name, read in readers.items():
    files.write_bytes_atomic(folder / name, data)
    try:
      read()
    except ValueError as error:
      assert name in str(error) or str(folder) in str(error)  # noqa: PT017
  files.write_bytes_atomic(folder / 'done.json', data)
  assert not task.is_done(tmp_path)
