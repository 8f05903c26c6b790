"""Tests of loading, splitting and decoding data sets."""

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

from fsdd_jax import datasets

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


def test_digits_keep_their_values_and_split_class_by_class():
  from sklearn.datasets import load_digits

  train, test = _load('digits'), _load('digits', split='test')
  assert train.images.shape == (1438, 8, 8, 1)
  assert train.images.dtype == np.uint8
  assert train.labels.dtype == np.int32
  assert train.class_names == tuple('0123456789')
  assert train.num_classes == 10
  assert (train.images.min(), train.images.max()) == (0, 255)
  data = load_digits()
  share = np.bincount(test.labels) / np.bincount(data.target)
  np.testing.assert_allclose(share, 0.2, atol=0.005)
  both = np.concatenate([train.images, test.images])[..., 0]
  pairs = set(zip(both.reshape(-1, 64).sum(1), map(bytes, both), strict=True))
  originals = np.round(data.images * 255 / 16).astype(np.uint8)
  assert {b for _, b in pairs} == {bytes(x) for x in originals}


def test_same_call_same_fingerprint():
  first, again = (_load('digits', limit=50) for _ in range(2))
  assert first.fingerprint() == again.fingerprint()
  assert len(first.fingerprint()) == 64
  other = datasets.Dataset(
    first.images, first.labels[::-1].copy(), first.class_names
  )
  renamed = datasets.Dataset(first.images, first.labels, tuple('abcdefghij'))
  prints = {d.fingerprint() for d in (first, other, renamed)}
  assert len(prints) == 3


def test_train_and_holdout_part_the_training_split():
  whole = _load('digits')
  train = _load('digits', holdout=0.1)
  held = _load('digits', split='holdout', holdout=0.1)
  assert len(train.labels) + len(held.labels) == len(whole.labels)
  assert not _rows(train.images) & _rows(held.images)
  expected = np.round(0.1 * np.bincount(whole.labels))
  np.testing.assert_array_equal(np.bincount(held.labels), expected)
  test = _load('digits', split='test', holdout=0.1)
  assert test.fingerprint() == _load('digits', split='test').fingerprint()


def test_holdout_depends_on_neither_limit_nor_classes():
  held = _rows(_load('digits', split='holdout', holdout=0.2).images)
  few = _load('digits', holdout=0.2, limit=100)
  assert not _rows(few.images) & held
  sub = _load('digits', split='holdout', holdout=0.2, classes=['7', 2])
  assert _rows(sub.images) <= held


@pytest.mark.parametrize('limit', [10, 57, 1000])
def test_limit_is_class_balanced_and_nested(limit):
  some = _load('digits', limit=limit)
  counts = np.bincount(some.labels, minlength=10)
  assert counts.sum() == limit
  assert counts.max() - counts.min() <= 1
  assert _rows(some.images) <= _rows(_load('digits', limit=1200).images)


def test_limit_is_balanced_after_an_uneven_holdout():
  labels = _load('digits', limit=100, holdout=0.15).labels
  np.testing.assert_array_equal(np.bincount(labels), [10] * 10)


def test_a_limit_above_the_size_keeps_all():
  assert len(_load('digits', limit=10**6).labels) == 1438


def test_classes_are_numbered_in_the_order_given():
  whole = _load('digits')
  some = _load('digits', classes=['7', 2])
  assert some.class_names == ('7', '2')
  for new, old in enumerate((7, 2)):
    np.testing.assert_array_equal(
      some.images[some.labels == new], whole.images[whole.labels == old]
    )


@pytest.mark.parametrize(
  ('kwargs', 'match'),
  [
    ({'split': 'val'}, "'train', 'holdout' or 'test'; got 'val'"),
    ({'split': 'holdout'}, 'Try holdout=0.1'),
    ({'holdout': 1.0}, 'holdout=1.0'),
    ({'limit': 9}, 'limit=9.*at least 10'),
    ({'image_size': 0}, 'image_size'),
    ({'classes': ['10']}, "Unknown class '10'; close names: .*1"),
    ({'classes': [10]}, 'Unknown class 10'),
    ({'classes': [-1]}, 'Unknown class -1'),
    ({'classes': [3, '3']}, 'none twice'),
    ({'classes': []}, 'at least one'),
  ],
)
def test_load_refuses_bad_arguments(kwargs, match):
  with pytest.raises(ValueError, match=match):
    _load('digits', **kwargs)


def test_image_size_scales_all():
  images = _load('digits', image_size=12, limit=20).images
  assert images.shape == (20, 12, 12, 1)
  small = _load('digits', limit=20).images
  np.testing.assert_allclose(
    images.mean((1, 2, 3)), small.mean((1, 2, 3)), atol=8
  )


def test_fractals_splits_show_the_same_classes():
  train = _load('fractals:3', image_size=8)
  test = _load('fractals:3', image_size=8, split='test')
  assert train.images.shape == (300, 8, 8, 3)
  assert test.images.shape == (60, 8, 8, 3)
  assert not _rows(train.images) & _rows(test.images)
  assert train.class_names == ('fractal_0', 'fractal_1', 'fractal_2')
  two = _load('fractals:2', image_size=8)
  np.testing.assert_array_equal(two.images, train.images[:200])


@pytest.mark.parametrize('name', ['fractals:', 'fractals:x', 'fractals:0'])
def test_fractals_need_a_number(name):
  with pytest.raises(ValueError, match="'fractals:100'"):
    _load(name)


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


def test_tfds_default_folder_serves_when_the_variable_does_not(
  tmp_path, monkeypatch
):
  _write_tfds(tmp_path / 'default', 'bugs', {'train': _examples(6)})
  (tmp_path / 'other').mkdir()
  monkeypatch.setenv('FSDD_DATA_DIR', str(tmp_path / 'other'))
  monkeypatch.setattr(
    tfds.core.constants, 'DATA_DIR', str(tmp_path / 'default')
  )
  monkeypatch.setattr(
    tfds.core.file_utils,
    'get_default_data_dir',
    lambda *_, **__: str(tmp_path / 'default'),
    raising=False,
  )
  assert len(_load('bugs').labels) == 6
  with pytest.raises(ValueError, match='Unknown data set'):
    _load('bugs', data_dir=tmp_path / 'other')


def test_tfds_grey_stays_grey(tmp_path):
  examples = _examples(6, (6, 4, 1))
  folder = _write_tfds(tmp_path, 'bugs', {'train': examples}, shape=(6, 4, 1))
  np.testing.assert_array_equal(
    _load(str(folder)).images, [x for x, _ in examples]
  )


def test_tfds_missing_split_and_label_and_class(tmp_path):
  examples = _examples(6)
  folder = _write_tfds(tmp_path, 'bugs', {'train': examples})
  with pytest.raises(ValueError, match="no split 'test' or 'validation'"):
    _load(str(folder), split='test')
  examples[4] = (examples[4][0], -1)
  folder = _write_tfds(tmp_path, 'unlabeled', {'train': examples})
  with pytest.raises(ValueError, match='Label -1 of row 4'):
    _load(str(folder))
  examples = [e for e in _examples(6) if e[1] != 1]
  folder = _write_tfds(tmp_path, 'beeless', {'train': examples})
  with pytest.raises(ValueError, match="Class 'bee' has no image"):
    _load(str(folder))
  assert len(_load(str(folder), classes=['cow', 'ant']).labels) == 4


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
  _write_folder(tmp_path / 'mixed' / '..' / 'more', {'a': 2}, shape=(5, 5, 1))
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


def test_non_square_images_are_cut_to_their_centre(tmp_path):
  pixels = np.zeros((8, 24, 3), np.uint8)
  pixels[:, 8:16] = 200  # The middle third is bright.
  (tmp_path / 'a').mkdir()
  Image.fromarray(pixels).save(tmp_path / 'a' / 'wide.png')
  Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / 'a' / 'tall.png')
  for size in (4, 8):
    images = _load(f'folder:{tmp_path}', image_size=size).images
    np.testing.assert_array_equal(images, np.full_like(images, 200))


def test_scaling_is_antialiased(tmp_path):
  board = np.indices((32, 32)).sum(0) % 2 * 255
  (tmp_path / 'a').mkdir()
  Image.fromarray(board.astype(np.uint8)).save(tmp_path / 'a' / 'board.png')
  images = _load(f'folder:{tmp_path}', image_size=8).images[:, 1:-1, 1:-1]
  np.testing.assert_allclose(images, 127.5, atol=3)


@pytest.mark.parametrize('content', [b'', b'not a picture', b'truncated'])
def test_unreadable_image_is_named(tmp_path, content):
  _write_folder(tmp_path, {'a': 3})
  path = tmp_path / 'a' / '001.png'
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
  with pytest.raises(FileNotFoundError, match='no folder .*missing'):
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


def test_from_arrays_keeps_pixels_and_names():
  images, labels = _noise((4, 5, 6)), np.asarray([0, 1, 1, 0])
  data = datasets.from_arrays(images, labels)
  np.testing.assert_array_equal(data.images, images[..., None])
  assert data.class_names == ('0', '1')
  assert data.labels.dtype == np.int32
  named = datasets.from_arrays(images, labels, ['a', 'b'])
  assert named.class_names == ('a', 'b')


_GOOD = _noise((4, 5, 6, 3))
_LABELS = np.asarray([0, 1, 1, 0])


@pytest.mark.parametrize(
  ('images', 'labels', 'names', 'match'),
  [
    (_GOOD / 255.0, _LABELS, None, r'np\.round\(255'),
    (np.full((4, 5, 6, 3), np.nan), _LABELS, None, 'NaN'),
    (_GOOD.astype(np.int64), _LABELS, None, 'uint8'),
    (_GOOD[..., :2], _LABELS, None, r'\(4, 5, 6, 2\)'),
    (_GOOD[:0], _LABELS[:0], None, r'\(0, 5, 6, 3\)'),
    (_GOOD[0, 0], _LABELS, None, 'shape'),
    (_GOOD, _LABELS[:3], None, r'\[4\] integers'),
    (_GOOD, _LABELS.astype(float), None, 'float64'),
    (_GOOD, _LABELS - 1, None, 'Label -1 of row 0'),
    (_GOOD, _LABELS, ['only'], 'Label 1 of row 1'),
    (_GOOD, _LABELS, ['a', 'b', 'c'], "'c' has no image"),
    (_GOOD, _LABELS * 2, None, "'1' has no image"),
  ],
)
def test_from_arrays_refuses(images, labels, names, match):
  with pytest.raises(ValueError, match=match):
    datasets.from_arrays(images, labels, names)


def test_tensorflow_is_not_imported(tmp_path):
  folder = _write_tfds(tmp_path, 'bugs', {'train': _examples(6)})
  code = (
    'import sys\n'
    'from fsdd_jax import datasets\n'
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
