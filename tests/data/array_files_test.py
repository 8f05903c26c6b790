"""Tests of arrays in `.npz` files as sources of data sets."""

import io
import zipfile

import numpy as np
import pytest

import binaries
from fsdd_jax.data import datasets, sources
from fsdd_jax.runtime import array_store

_NAMES = ['ant', 'bee']


def _load(path, **kwargs):
  return datasets.load(f'npz:{path}', progress=False, **kwargs)


def _images(n=10, shape=(4, 4, 3), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def _split(n=10, prefix='', **kwargs):
  return {
    f'{prefix}images': _images(n, **kwargs),
    f'{prefix}labels': np.arange(n) % 2,
  }


def _arrays():
  """The arrays of one file with both splits."""
  return {
    **_split(10, 'train_'),
    **_split(6, 'test_', seed=1),
    'class_names': np.array(_NAMES),
  }


@pytest.fixture
def path(tmp_path):
  """A good file."""
  np.savez(tmp_path / 'own.npz', **_arrays())
  return tmp_path / 'own.npz'


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_file_with_both_splits(tmp_path, save):
  save(tmp_path / 'own.npz', **_arrays())
  for split in ('train', 'test'):
    data = _load(tmp_path / 'own.npz', split=split)
    np.testing.assert_array_equal(data.images, _arrays()[f'{split}_images'])
    np.testing.assert_array_equal(data.labels, _arrays()[f'{split}_labels'])
    assert data.class_names == tuple(_NAMES)


def test_what_holds_for_all_sources_holds(path):
  data = _load(path)
  some = _load(path, classes=['bee', 'ant'], limit=4)
  assert some.class_names == ('bee', 'ant')
  for image, label in zip(some.images, some.labels, strict=True):
    (row,) = np.flatnonzero((data.images == image).all(axis=(1, 2, 3)))
    assert data.class_names[data.labels[row]] == some.class_names[label]
  assert _load(path, image_size=2).images.shape == (10, 2, 2, 3)
  kept, held = (_load(path, holdout=0.2, split=s) for s in ('train', 'holdout'))
  assert (len(kept.labels), len(held.labels)) == (8, 2)
  assert sources.size(f'npz:{path}', 'test') == (6, 2, (4, 4, 3))
  assert sources.has_test_split(f'npz:{path}')


def test_a_folder_of_two_files(tmp_path):
  """What a script leaves that unpacks one split to one file."""
  names = {'class_names': np.array(_NAMES)}
  np.savez(tmp_path / 'train.npz', **_split(10), **names)
  assert not sources.has_test_split(f'npz:{tmp_path}')
  with pytest.raises(ValueError, match=r'has no test images; add .*test\.npz'):
    _load(tmp_path, split='test')
  np.savez(tmp_path / 'test.npz', **_split(6, seed=1), **names)
  np.testing.assert_array_equal(_load(tmp_path).images, _images(10))
  np.testing.assert_array_equal(
    _load(tmp_path, split='test').images, _images(6, seed=1)
  )


def test_a_file_of_one_split_gives_a_fifth_to_test(tmp_path):
  path = tmp_path / 'all.npz'
  np.savez(path, **_split(20), class_names=_NAMES)
  train, test = (_load(path, split=split) for split in ('train', 'test'))
  np.testing.assert_array_equal(np.bincount(train.labels), [8, 8])
  np.testing.assert_array_equal(np.bincount(test.labels), [2, 2])
  both = np.concatenate([train.images, test.images])
  assert len({image.tobytes() for image in both}) == 20


@pytest.mark.parametrize('shape', [(4, 5), (4, 5, 1)])
def test_grey_images_keep_one_channel(tmp_path, shape):
  np.savez(tmp_path / 'own.npz', **_split(shape=shape), class_names=_NAMES)
  assert _load(tmp_path / 'own.npz').images.shape == (8, 4, 5, 1)


@pytest.mark.parametrize(
  'change',
  [
    lambda x: np.asfortranarray(x),
    lambda x: x.astype('>i4') if x.dtype != np.uint8 else x,
    lambda x: x.astype(np.uint64) if x.dtype != np.uint8 else x,
  ],
)
def test_how_numbers_lie_plays_no_part(tmp_path, change):
  own = _split()
  np.savez(
    tmp_path / 'own.npz',
    **{k: change(x) for k, x in own.items()},
    class_names=_NAMES,
  )
  parts = [_load(tmp_path / 'own.npz', split=s) for s in ('train', 'test')]
  found = {
    image.tobytes(): label
    for part in parts
    for image, label in zip(part.images, part.labels, strict=True)
  }
  expected = zip(own['images'], own['labels'], strict=True)
  assert found == {image.tobytes(): label for image, label in expected}


def test_many_images_are_decoded_once_and_mapped(tmp_path, monkeypatch):
  monkeypatch.setattr(array_store, 'default_root', lambda: tmp_path / 'kept')
  arrays = _split(5000, shape=(2, 2, 3))
  np.savez(tmp_path / 'train.npz', **arrays, class_names=_NAMES)
  first, second = _load(tmp_path), _load(tmp_path)
  np.testing.assert_array_equal(second.images, arrays['images'])
  assert isinstance(second.images, np.memmap)
  assert first.fingerprint() == second.fingerprint()


def test_another_content_has_another_fingerprint(path):
  def fingerprint():
    return sources.fingerprint(f'npz:{path}')

  before = fingerprint()
  arrays = _arrays()
  arrays['train_images'][0, 0, 0, 0] ^= 1
  np.savez(path, **arrays)
  assert fingerprint() != before
  np.savez(path, **_arrays())
  assert fingerprint() == before


_TEXT = np.array(['a', None], object)
_FAULTS = {
  'no images': ({'train_images': None}, 'neither the array train_images nor'),
  'no labels': ({'train_labels': None}, 'no array train_labels, only'),
  'no names': ({'class_names': None}, 'no array class_names, only'),
  'floats': (
    {'train_images': np.zeros((10, 4, 4, 3))},
    r'train_images of .* are float64, not uint8 .*np\.round\(255',
  ),
  'channels first': (
    {'train_images': np.zeros((10, 3, 4, 4), np.uint8)},
    r'shape \(10, 3, 4, 4\).*np\.moveaxis',
  ),
  'one image': (
    {'train_images': np.zeros((4, 4), np.uint8)},
    r'shape \(4, 4\), but must be',
  ),
  'no image at all': (
    {'train_images': np.zeros((0, 4, 4, 3), np.uint8)},
    'hold nothing; save some images',
  ),
  'objects': (
    {'train_images': np.array([np.zeros((2, 2)), np.zeros((3, 3))], object)},
    'pickled Python objects, which are never loaded; save',
  ),
  'names as objects': ({'class_names': _TEXT}, 'np.array'),
  'names as numbers': (
    {'class_names': np.arange(2)},
    r'class_names of .* are int64 .*a name a class',
  ),
  'equal names': (
    {'class_names': np.array(['a', 'a'])},
    r'the same name .*rename one',
  ),
  'few names': (
    {'class_names': np.array(['ant'])},
    r'Label 1 of row 1 of .*own\.npz is not in \[0, 1\)',
  ),
  'a missing label': (
    {'train_labels': np.array([-1, *[1, 0] * 4, 1])},
    'Label -1 of row 0',
  ),
  'labels that are not whole': (
    {'train_labels': np.arange(10) / 2},
    r'are float64 of shape \(10,\).*save the number of the class',
  ),
  'labels as vectors': (
    {'train_labels': np.eye(10, dtype=int)},
    r'of shape \(10, 10\)',
  ),
  'fewer labels': (
    {'train_labels': np.arange(9) % 2},
    'holds 9 train_labels for 10 train_images; give one label an image',
  ),
  'a class without an image': (
    {'class_names': np.array(['ant', 'bee', 'cow'])},
    r"Class 'cow' has no image in 'train' of 'npz:",
  ),
}


@pytest.mark.parametrize('fault', list(_FAULTS))
def test_faults_are_named_with_a_remedy(path, fault):
  changes, message = _FAULTS[fault]
  arrays = {k: x for k, x in (_arrays() | changes).items() if x is not None}
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match=message) as caught:
    _load(path)
  assert path.name in str(caught.value)


@pytest.mark.parametrize('labels', [[-1, 1, 0], [0, 1, 2]])
def test_labels_of_one_split_are_checked_before_it_is_parted(path, labels):
  np.savez(path, images=_images(3), labels=labels, class_names=_NAMES)
  with pytest.raises(ValueError, match=r'own\.npz lie in .* number the class'):
    _load(path)


@pytest.mark.parametrize(
  'changes',
  [
    {'test_images': np.zeros((6, 4, 4), np.uint8)},
    {'test_images': np.zeros((6, 4, 4, 1), np.uint8)},
  ],
)
def test_channels_of_both_splits_agree(path, changes):
  np.savez(path, **_arrays() | changes)
  with pytest.raises(ValueError, match=r'own\.npz have other channels'):
    _load(path, split='test')


def test_class_names_of_both_files_agree(tmp_path):
  np.savez(tmp_path / 'train.npz', **_split(), class_names=_NAMES)
  np.savez(tmp_path / 'test.npz', **_split(), class_names=_NAMES[::-1])
  with pytest.raises(ValueError, match=r'test\.npz have other .* class_names'):
    _load(tmp_path, split='test')


def test_a_missing_test_split_is_said(path):
  arrays = {k: x for k, x in _arrays().items() if not k.startswith('test')}
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match=r'own\.npz has no test images; add'):
    _load(path, split='test')
  assert len(_load(path).labels) == 10


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no file .*own\.npz; write it'):
    _load(tmp_path / 'own.npz')
  with pytest.raises(FileNotFoundError, match=r'no file .*train\.npz'):
    _load(tmp_path)


@pytest.mark.parametrize('content', [b'', b'no zip', 'half', 'npy'])
def test_what_is_no_whole_npz_file_is_refused(path, content):
  if content == 'half':
    content = path.read_bytes()[: path.stat().st_size // 2]
  elif content == 'npy':
    file = io.BytesIO()
    np.save(file, _images())
    content = file.getvalue()
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'Cannot read .*own\.npz .*np\.savez'):
    _load(path)


def test_a_header_that_says_another_shape_is_refused(path):
  """Its bytes are right by their checksum, but fewer or more than it says."""
  file = io.BytesIO()
  np.save(file, np.arange(10) % 2)
  whole = file.getvalue()
  for content in (whole[:-8], whole + bytes(8), whole.replace(b'10,', b'9,')):
    np.savez(path, **{k: x for k, x in _arrays().items() if 'n_l' not in k})
    with zipfile.ZipFile(path, 'a') as archive:
      archive.writestr('train_labels.npy', content)
    with pytest.raises(ValueError, match=r'Cannot read .*own\.npz'):
      _load(path)


def test_a_set_distilled_from_arrays_is_scored_on_them(path, tmp_path):
  def run(binary, *arguments):
    result = binaries.run(binary, *arguments)
    assert result.returncode == 0, result.stderr
    return result

  network = '--width=4', '--depth=1'
  run(
    *('distill.py', f'--dataset=npz:{path}', *network, '--ipc=1'),
    *('--num_steps=2', f'--workdir={tmp_path}'),
  )
  distilled = tmp_path / 'distilled.safetensors'
  result = run('evaluate.py', distilled, '--repeats=2')
  assert 'on 6 images of npz:' in result.stdout
  moved = path.rename(tmp_path / 'moved.npz')
  result = binaries.run('evaluate.py', distilled)
  assert f'There is no file {path}' in result.stderr
  run('evaluate.py', distilled, f'--dataset=npz:{moved}', '--repeats=2')
  arrays = {k: x for k, x in _arrays().items() if not k.startswith('test')}
  np.savez(path, **arrays)
  result = binaries.run('evaluate.py', distilled)
  assert result.returncode == 1
  assert 'has no test images; add' in result.stderr


@pytest.mark.parametrize('prefix', ['test_', 'train_'])
def test_images_of_a_split_beside_images_of_none_are_refused(tmp_path, prefix):
  path = tmp_path / 'both.npz'
  np.savez(path, **_split(), **_split(prefix=prefix), class_names=_NAMES)
  with pytest.raises(ValueError, match=f'{prefix}images'):
    _load(path)
