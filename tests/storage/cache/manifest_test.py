import dataclasses
import json

import numpy as np
import pytest

from fsdd_jax.storage.cache import manifest as cache_manifest
from fsdd_jax.storage.cache.manifest import Manifest


def make_manifest(**fields):
  return Manifest(
    **{
      'dataset': 'digits',
      'dataset_fingerprint': 'abc',
      'network': {'name': 'convnet', 'width': 8},
      'network_seed': 3,
      'normalization': {'kind': 'standard', 'mean': (0.5,)},
      'configuration': {'steps': 2, 'sizes': {2: 'a', 10: 'b'}},
      'num_subsets': 7,
      'num_heldout': 1,
      'num_shards': 3,
      'target_size': 6,
      'synthetic_size': 4,
      'label_size': 3,
      'image_shape': (2, 2, 1),
    }
    | fields
  )


def write(folder, manifest):
  path = folder / cache_manifest.FILE_NAME
  path.write_text(manifest.to_json())
  return path


def test_reading_gives_the_same_manifest(tmp_path):
  manifest = make_manifest()
  write(tmp_path, manifest)
  found = cache_manifest.read_manifest(tmp_path)
  assert found.image_shape == (2, 2, 1)
  assert found.digest == manifest.digest
  assert (
    cache_manifest.check_manifest(tmp_path, manifest).digest == found.digest
  )


def test_digest_depends_on_every_field():
  digests = {make_manifest().digest}
  for field in dataclasses.fields(Manifest):
    value = getattr(make_manifest(), field.name)
    changed = value + 1 if isinstance(value, int) else f'{value}x'
    digests.add(
      dataclasses.replace(make_manifest(), **{field.name: changed}).digest
    )
  assert len(digests) == len(dataclasses.fields(Manifest)) + 1


@pytest.mark.parametrize('num_shards', [1, 3, 7])
def test_shards_divide_the_subsets_evenly_and_in_order(num_shards):
  manifest = make_manifest(num_shards=num_shards)
  ranges = [manifest.shard_range(s) for s in range(num_shards)]
  assert [i for r in ranges for i in r] == list(range(7))
  assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
  assert len({manifest.shard_name(s) for s in range(num_shards)}) == num_shards
  with pytest.raises(ValueError, match=f'no shard {num_shards}'):
    manifest.shard_range(num_shards)


@pytest.mark.parametrize('num_shards', [0, 8])
def test_more_shards_than_subsets_are_refused(num_shards):
  with pytest.raises(ValueError, match='choose 1 to 7'):
    make_manifest(num_shards=num_shards)


@pytest.mark.parametrize('value', [np.float32(1), float('nan'), {1, 2}])
def test_values_that_json_does_not_know_are_refused(value):
  with pytest.raises(ValueError, match='JSON values only'):
    make_manifest(configuration={'value': value}).to_json()


def test_differences_are_named_down_to_the_nested_value(tmp_path):
  write(tmp_path, make_manifest())
  other = make_manifest(
    network_seed=4, configuration={'steps': 5, 'sizes': {2: 'a', 10: 'b'}}
  )
  with pytest.raises(ValueError, match='not the manifest') as caught:
    cache_manifest.check_manifest(tmp_path, other)
  lines = str(caught.value).splitlines()
  assert '  network_seed: 3 in the cache, 4 expected' in lines
  assert '  configuration.steps: 2 in the cache, 5 expected' in lines
  assert len(lines) == 4  # A head, two differences and the remedy.


def test_missing_and_additional_values_are_differences(tmp_path):
  write(tmp_path, make_manifest())
  with pytest.raises(ValueError, match=r'configuration\.ridge: None in the'):
    cache_manifest.check_manifest(
      tmp_path, {'configuration': make_manifest().configuration | {'ridge': 0}}
    )
  with pytest.raises(ValueError, match=r'network\.width: 8 .* None expected'):
    cache_manifest.check_manifest(tmp_path, {'network': {'name': 'convnet'}})


def test_some_fields_alone_may_be_compared(tmp_path):
  write(tmp_path, make_manifest())
  found = cache_manifest.check_manifest(
    tmp_path,
    {'dataset': 'digits', 'normalization': {'kind': 'standard', 'mean': [0.5]}},
  )
  assert found.num_subsets == 7
  with pytest.raises(ValueError, match='dataset'):
    cache_manifest.check_manifest(tmp_path, {'dataset': 'cifar10'})


def test_a_folder_without_manifest_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='caching stage'):
    cache_manifest.read_manifest(tmp_path)


def test_a_damaged_or_newer_manifest_is_refused(tmp_path):
  path = write(tmp_path, make_manifest())
  fields = json.loads(path.read_text())
  for text, match in [
    (path.read_text()[:-5], 'not a manifest'),
    ('[]', 'not a manifest'),
    (json.dumps(fields | {'format_version': 99}), 'format version 99'),
    (json.dumps(fields | {'surprise': 1}), 'surprise'),
    (json.dumps({'format_version': 2}), 'image_shape'),
  ]:
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
      cache_manifest.read_manifest(tmp_path)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('network', 'convnet'),
    ('configuration', None),
    ('num_subsets', '7'),
    ('num_subsets', True),
    ('dataset', 3),
  ],
)
def test_a_manifest_of_other_types_is_named(tmp_path, name, value):
  fields = json.loads(make_manifest().to_json()) | {name: value}
  (tmp_path / 'manifest.json').write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=r'manifest\.json: not a manifest'):
    cache_manifest.read_manifest(tmp_path)
