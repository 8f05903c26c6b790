"""Tests of TFDS, folders and fractals as sources of data sets."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from fsdd_jax.data import datasets, sources, undecoded

_REAL = os.environ.get('FSDD_DATA_DIR', '')
_REAL_SETS = {  # Name: classes, size, training and test images.
  'cifar10': (10, 32, 50000, 10000),
  'tiny_imagenet_32': (200, 32, 100000, 10000),
  'imagenette_128': (10, 128, 9469, 3925),
}


def _load(name, **kwargs):
  return datasets.load(name, progress=False, **kwargs)


def _rows(images):
  """Images as a set of bytes, to compare splits."""
  return {image.tobytes() for image in images}


def _noise(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _write_tfds(root, name, splits, *, shape=(6, 4, 3), file_format=None):
  """Writes `{split: [(pixels, label)]}` as TFDS would, without TensorFlow."""
  folder = root / name / '1.0.0'
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      'picture': tfds.features.Image(shape=shape, encoding_format='png'),
      'kind': tfds.features.ClassLabel(names=['ant', 'bee', 'cow']),
    }
  )
  features.save_config(folder)
  info = {
    'name': name,
    'version': '1.0.0',
    'fileFormat': file_format or 'array_record',
    'moduleName': 'none',
    'splits': [],
  }
  for split, examples in splits.items():
    path = folder / f'{name}-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for pixels, label in examples:
      file = io.BytesIO()
      Image.fromarray(pixels.squeeze()).save(file, 'PNG')
      file.seek(0)
      example = features.encode_example({'picture': file, 'kind': label})
      writer.write(features.serialize_example(example))
    writer.close()
    info['splits'].append(
      {
        'name': split,
        'shardLengths': [str(len(examples))],
        'numBytes': '1',
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
    )
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  return folder


def _examples(n, shape=(6, 4, 3), seed=0):
  return [(x, i % 3) for i, x in enumerate(_noise((n, *shape), seed))]


def _write_folder(root, counts, *, shape=(5, 5, 3), seed=0):
  for i, (name, count) in enumerate(counts.items()):
    (root / name).mkdir(parents=True)
    for j, pixels in enumerate(_noise((count, *shape), seed + i)):
      Image.fromarray(pixels.squeeze()).save(root / name / f'{j:03}.png')


def test_tfds_directory_and_name(tmp_path, monkeypatch):
  train, test = _examples(12), _examples(6, seed=1)
  folder = _write_tfds(tmp_path, 'bugs', {'train': train, 'validation': test})
  data = _load(str(folder))
  np.testing.assert_array_equal(data.images, [x for x, _ in train])
  np.testing.assert_array_equal(data.labels, [c for _, c in train])
  assert data.class_names == ('ant', 'bee', 'cow')
  held = _load('bugs', data_dir=tmp_path, split='test')
  np.testing.assert_array_equal(held.images, [x for x, _ in test])
  monkeypatch.setenv('FSDD_DATA_DIR', str(tmp_path))
  assert _load('bugs').fingerprint() == data.fingerprint()
  some = _load('bugs', classes=['cow', 'ant'], limit=3)
  originals = [(x.tobytes(), data.class_names[c]) for x, c in train]
  for image, label in zip(some.images, some.labels, strict=True):
    assert (image.tobytes(), some.class_names[label]) in originals


def test_data_in_a_home_are_found_by_every_name(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _write_tfds(tmp_path / 'data', 'bugs', {'train': _examples(6)})
  _write_folder(tmp_path / 'pets', {'a': 5, 'b': 5})
  monkeypatch.setenv('FSDD_DATA_DIR', '~/data')
  assert len(_load('bugs').labels) == 6
  monkeypatch.delenv('FSDD_DATA_DIR')
  assert len(_load('bugs', data_dir='~/data').labels) == 6
  assert len(_load('~/data/bugs/1.0.0').labels) == 6
  assert len(_load('folder:~/pets').labels) == 8
  with pytest.raises(ValueError, match='no local path'):
    _load('bugs', data_dir='gs://bucket/data')


def test_tfds_default_folder_serves_when_the_variable_does_not(
  tmp_path, monkeypatch
):
  _write_tfds(tmp_path / 'default', 'bugs', {'train': _examples(6)})
  (tmp_path / 'other').mkdir()
  monkeypatch.setenv('FSDD_DATA_DIR', str(tmp_path / 'other'))
  builder = tfds.builder
  monkeypatch.setattr(
    tfds,
    'builder',
    lambda name, data_dir: builder(
      name, data_dir=data_dir or tmp_path / 'default'
    ),
  )
  assert len(_load('bugs').labels) == 6
  with pytest.raises(ValueError, match='Unknown data set'):
    _load('bugs', data_dir=tmp_path / 'other')


def test_tfds_grey_stays_grey(tmp_path):
  examples = _examples(6, (6, 4, 1))
  folder = _write_tfds(tmp_path, 'bugs', {'train': examples}, shape=(6, 4, 1))
  found = sources.size(str(folder), 'train')
  assert found == (len(examples), 3, (6, 4, 1))
  np.testing.assert_array_equal(
    _load(str(folder)).images, [x for x, _ in examples]
  )


def test_tfds_missing_split_and_label_and_class(tmp_path):
  examples = _examples(6)
  folder = _write_tfds(tmp_path, 'bugs', {'train': examples})
  with pytest.raises(ValueError, match="no split 'test' or 'validation'"):
    _load(str(folder), split='test')
  assert not sources.has_test_split(str(folder))
  assert not sources.has_test_split('bugs', tmp_path)
  assert sources.has_test_split('digits')
  examples[4] = (examples[4][0], -1)
  folder = _write_tfds(tmp_path, 'unlabeled', {'train': examples})
  with pytest.raises(ValueError, match='Label -1 of row 4'):
    _load(str(folder))
  examples = [e for e in _examples(6) if e[1] != 1]
  folder = _write_tfds(tmp_path, 'beeless', {'train': examples})
  with pytest.raises(ValueError, match="Class 'bee' has no image"):
    _load(str(folder))
  assert len(_load(str(folder), classes=['cow', 'ant']).labels) == 4


def _damaged(folder, part):
  """Files with something wrong, one after another; whole again in the end."""
  path = {
    'info': folder / 'dataset_info.json',
    'features': folder / 'features.json',
    'records': next(folder.glob('*-train.*')),
  }[part]
  whole = path.read_bytes()
  texts = [b'[]', b'{', b'\xff', b'{"name": 3}']
  if part == 'records':
    flipped = bytearray(whole)
    flipped[100] ^= 4
    texts = [bytes(flipped), whole[: len(whole) // 2], b'']
  for text in texts:
    path.write_bytes(text)
    yield
  if part == 'records':
    path.unlink()
    yield
  path.write_bytes(whole)


@pytest.mark.parametrize('part', ['info', 'features', 'records'])
def test_tfds_files_that_are_damaged_are_named(tmp_path, part):
  folder = _write_tfds(tmp_path, 'bugs', {'train': _examples(12)})
  expected = _load(str(folder))
  for _ in _damaged(folder, part):
    for name, options in ((str(folder), {}), ('bugs', {'data_dir': tmp_path})):
      with pytest.raises(ValueError, match='bugs') as caught:
        _load(name, **options)
      assert str(tmp_path) in str(caught.value)
      assert '\n' not in str(caught.value)
  np.testing.assert_array_equal(_load(str(folder)).images, expected.images)


def test_tfds_other_file_format_is_refused(tmp_path):
  folder = _write_tfds(tmp_path, 'bugs', {}, file_format='tfrecord')
  info = json.loads((folder / 'dataset_info.json').read_text())
  info['splits'] = [{'name': 'train', 'shardLengths': ['1'], 'numBytes': '1'}]
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(ValueError, match='not stored as array_record'):
    _load(str(folder))


def test_unknown_and_unprepared_names(tmp_path):
  with pytest.raises(ValueError, match=r"'cifar11'.*'folder:PATH'"):
    _load('cifar11', data_dir=tmp_path)
  with pytest.raises(ValueError, match=r"'/no/where'.*dataset_info"):
    _load('/no/where', data_dir=tmp_path)


def test_failed_preparation_says_what_to_do(tmp_path, monkeypatch):
  def fail(self, **kwargs):
    raise OSError('no network')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  with pytest.raises(
    FileNotFoundError, match=r"'mnist' is not on disk.*no network.*data_dir"
  ):
    _load('mnist', data_dir=tmp_path)


def test_folder_with_splits(tmp_path):
  _write_folder(tmp_path / 'train', {'dog': 4, 'cat': 3})
  _write_folder(tmp_path / 'val', {'dog': 2, 'cat': 2}, seed=9)
  (tmp_path / 'train' / '.hidden').mkdir()
  (tmp_path / 'train' / 'dog' / 'notes.txt').write_text('not an image')
  train = _load(f'folder:{tmp_path}')
  assert train.class_names == ('cat', 'dog')
  np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(train.images[3:], _noise((4, 5, 5, 3)))
  assert len(_load(f'folder:{tmp_path}', split='test').labels) == 4


def test_folder_of_classes_gives_a_fifth_to_test(tmp_path):
  _write_folder(tmp_path, {'dog': 10, 'cat': 5})
  train = _load(f'folder:{tmp_path}')
  test = _load(f'folder:{tmp_path}', split='test')
  np.testing.assert_array_equal(np.bincount(train.labels), [4, 8])
  np.testing.assert_array_equal(np.bincount(test.labels), [1, 2])
  assert not _rows(train.images) & _rows(test.images)


def test_folder_of_grey_images_and_of_other_modes(tmp_path):
  _write_folder(tmp_path / 'grey', {'a': 5, 'b': 5}, shape=(5, 5, 1))
  assert _load(f'folder:{tmp_path}/grey').images.shape == (8, 5, 5, 1)
  _write_folder(tmp_path / 'mixed', {'a': 1, 'b': 1}, shape=(5, 5, 4))
  _write_folder(tmp_path / 'more', {'a': 2}, shape=(5, 5, 1))
  path = tmp_path / 'more' / 'a' / '000.png'
  path.rename(tmp_path / 'mixed' / 'a' / 'grey.png')
  Image.fromarray(_noise((5, 5, 3))).quantize(200).save(
    tmp_path / 'mixed' / 'b' / 'palette.png'
  )
  data = _load(f'folder:{tmp_path}/mixed')
  assert data.images.shape == (4, 5, 5, 3)
  grey = data.images[1]
  np.testing.assert_array_equal(grey, np.repeat(grey[..., :1], 3, axis=-1))


def test_folder_with_images_of_different_sizes(tmp_path):
  _write_folder(tmp_path, {'a': 2})
  _write_folder(tmp_path, {'b': 2}, shape=(8, 16, 3))
  with pytest.raises(ValueError, match=r'\(5, 5\) and \(8, 16\).*image_size'):
    _load(f'folder:{tmp_path}')
  assert _load(f'folder:{tmp_path}', image_size=6).images.shape[1:3] == (6, 6)


@pytest.mark.parametrize('content', [b'', b'not a picture', b'truncated'])
def test_unreadable_image_is_named(tmp_path, content):
  _write_folder(tmp_path / 'train', {'a': 3, 'b': 1})
  path = tmp_path / 'train' / 'a' / '001.png'
  data = path.read_bytes()[:60] if content == b'truncated' else content
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'001\.png.*repair or remove'):
    _load(f'folder:{tmp_path}')


def test_image_of_16_bits_is_refused(tmp_path):
  (tmp_path / 'a').mkdir()
  deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
  deep.save(tmp_path / 'a' / 'deep.png')
  with pytest.raises(ValueError, match=r'deep\.png.*8 bits'):
    _load(f'folder:{tmp_path}')


def test_folder_errors(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no folder .*missing'):
    _load(f'folder:{tmp_path}/missing')
  with pytest.raises(ValueError, match='no class folders'):
    _load(f'folder:{tmp_path}')
  _write_folder(tmp_path / 'train', {'a': 2})
  with pytest.raises(FileNotFoundError, match='none of test, val'):
    _load(f'folder:{tmp_path}', split='test')
  _write_folder(tmp_path / 'test', {'a': 2, 'z': 1})
  with pytest.raises(ValueError, match="the class 'z'"):
    _load(f'folder:{tmp_path}', split='test')
  (tmp_path / 'train' / 'empty').mkdir()
  with pytest.raises(ValueError, match="Class 'empty' has no image"):
    _load(f'folder:{tmp_path}')


@pytest.mark.slow
def test_tensorflow_is_not_imported(tmp_path):
  folder = _write_tfds(tmp_path, 'bugs', {'train': _examples(6)})
  code = (
    'import sys\n'
    'from fsdd_jax.data import datasets\n'
    f'data = datasets.load({str(folder)!r}, progress=False)\n'
    'assert len(data.labels) == 6\n'
    "assert 'tensorflow' not in sys.modules\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


@pytest.mark.parametrize('name', sorted(_REAL_SETS))
def test_real_data(name):
  if not os.path.isdir(os.path.join(_REAL, name)):
    pytest.skip(f'needs FSDD_DATA_DIR, a folder that holds {name}')
  classes, size, _, num_test = _REAL_SETS[name]
  assert sources.size(name, 'test') == (num_test, classes, (size, size, 3))
  data = _load(name, split='test', limit=400)
  assert data.images.shape == (400, size, size, 3)
  np.testing.assert_array_equal(
    np.bincount(data.labels), [400 // classes] * classes
  )
  source = tfds.builder(name, data_dir=_REAL).as_data_source(
    split='test' if name == 'cifar10' else 'validation'
  )
  assert len(source) == num_test
  # The first chosen image is one of the first few hundred examples.
  for example in map(source.__getitem__, range(500)):
    if np.abs(example['image'].astype(int) - data.images[0]).max() <= 4:
      assert (
        data.class_names[data.labels[0]]
        == (
          tfds.builder(name, data_dir=_REAL)
          .info.features['label']
          .names[example['label']]
        )
      )
      return
  pytest.fail('The first image is not in the source.')


@pytest.mark.parametrize(
  ('name', 'image_size'),
  [('digits', None), ('digits', 16), ('fractals:3', None), ('fractals:2', 8)],
)
@pytest.mark.parametrize('split', ['train', 'test'])
def test_sizes_are_those_of_what_is_loaded(name, image_size, split):
  data = _load(name, image_size=image_size, split=split)
  found = sources.size(name, split, image_size=image_size)
  assert found == (len(data.labels), data.num_classes, data.images.shape[1:])


def test_a_folder_of_links_has_the_content_of_what_they_lead_to(tmp_path):
  for value, name in enumerate(('cat', 'dog', 'cow', 'pig')):
    (tmp_path / name).mkdir()
    for i in range(4):
      image = Image.fromarray(np.full((4, 4), 10 + 60 * value, np.uint8))
      image.save(tmp_path / name / f'{i}.png')
  subset = tmp_path / 'subset'
  seen, prints = [], []
  for names in (('cat', 'dog'), ('cow', 'pig')):
    subset.mkdir()
    for link, name in zip(('a', 'b'), names, strict=True):
      (subset / link).symlink_to(tmp_path / name)
    data = _load(f'folder:{subset}')
    seen.append(sorted(np.unique(data.images)))
    prints.append(sources.fingerprint(f'folder:{subset}'))
    for link in ('a', 'b'):
      (subset / link).unlink()
    subset.rmdir()
  assert seen == [[10, 70], [130, 190]]
  assert prints[0] != prints[1]


def test_a_link_to_a_folder_above_it_ends(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'x.png').write_bytes(b'1')
  (tmp_path / 'a' / 'above').symlink_to(tmp_path)
  found = [path.name for path in undecoded._files_within(tmp_path)]
  assert found == ['x.png']
