"""Tests of choosing, splitting, scaling and checking images."""

import numpy as np
import pytest
from PIL import Image

from fsdd_jax.data import datasets, decoding


def _load(name, **kwargs):
  return datasets.load(name, progress=False, **kwargs)


def _rows(images):
  """Images as a set of bytes, to compare splits."""
  return {image.tobytes() for image in images}


def _noise(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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
  both = np.concatenate([train.images, test.images])
  originals = np.round(data.images * 255 / 16).astype(np.uint8)
  assert _rows(both) == _rows(originals)


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


def test_non_square_images_are_cut_to_their_centre(tmp_path):
  pixels = np.zeros((8, 24, 3), np.uint8)
  pixels[:, 8:16] = 200  # The middle third is bright.
  for name, turned in (('wide', pixels), ('tall', pixels.swapaxes(0, 1))):
    (tmp_path / name).mkdir()
    Image.fromarray(turned).save(tmp_path / name / 'a.png')
  images = _load(f'folder:{tmp_path}', image_size=8).images
  np.testing.assert_array_equal(images, np.full_like(images, 200))
  # Scaling lets a little of the dark sides in.
  images = _load(f'folder:{tmp_path}', image_size=4).images
  np.testing.assert_allclose(images, 200, atol=25)


def test_scaling_is_antialiased(tmp_path):
  board = np.indices((32, 32)).sum(0) % 2 * 255
  for name in 'ab':
    (tmp_path / name).mkdir()
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / name / 'board.png')
  images = _load(f'folder:{tmp_path}', image_size=8).images[:, 1:-1, 1:-1]
  np.testing.assert_allclose(images, 127.5, atol=3)


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


def test_many_pictures_are_decoded_once_and_again_when_a_file_changes(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(decoding, '_WORTH_KEEPING', 4)
  monkeypatch.setenv('FSDD_CACHE_DIR', str(tmp_path / 'kept'))
  for label in ('a', 'b'):
    (tmp_path / 'data' / label).mkdir(parents=True)
    for i in range(3):
      pixels = np.full((4, 4, 3), 10 * i, np.uint8)
      path = tmp_path / 'data' / label / f'{i}.png'
      Image.fromarray(pixels).save(path)
  decoded = []
  pixels_of = decoding._pixels

  def counting(*args):
    decoded.append(args)
    return pixels_of(*args)

  monkeypatch.setattr(decoding, '_pixels', counting)

  def load():
    decoded.clear()
    name = f'folder:{tmp_path / "data"}'
    return datasets.load(name, progress=False)

  first = load()
  assert len(decoded) == len(first.images) + 1  # One tells the shape.
  again = load()
  assert len(decoded) == 1
  np.testing.assert_array_equal(again.images, first.images)
  assert again.fingerprint() == first.fingerprint()
  with monkeypatch.context() as changed_code:
    changed_code.setattr(decoding.hashes, 'package_code', lambda *_: 'other')
    assert len(load().images) == len(decoded) - 1
  for i in range(3):
    changed = tmp_path / 'data' / 'a' / f'{i}.png'
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(changed)
  assert load().images.max() == 200


@pytest.mark.parametrize(
  ('images', 'labels', 'match'),
  [
    (_GOOD, _LABELS[:, None], r'\[4\] integers'),  # As Keras has them.
    (_GOOD / 255.0, _LABELS, 'uint8'),
    (_GOOD[..., 0], _LABELS, 'uint8'),
  ],
)
def test_a_data_set_is_checked_however_it_is_made(images, labels, match):
  with pytest.raises(ValueError, match=match):
    datasets.Dataset(images, labels, ('a', 'b'))
