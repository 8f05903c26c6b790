"""Arrays on disk: resume, damage, foreign facts, values that are refused."""

import errno
import json
import os

import numpy as np
import pytest

from fsdd_jax.runtime import array_store

_FACTS = {'what': 'numbers'}
_PIECES = [slice(0, 2), slice(2, 4), slice(4, 5)]


class _Maker:
  """Makes pieces and remembers which; stops before piece `stop`."""

  def __init__(self, stop=None):
    self.stop, self.made = stop, []

  def __call__(self, number):
    if number == self.stop:
      raise KeyboardInterrupt
    self.made.append(number)
    return {'x': np.arange(5)[_PIECES[number]] + 10}


def _fill(folder, make, facts=_FACTS):
  specification = {'x': ((5,), 'float32')}
  return array_store.fill(folder, facts, specification, _PIECES, make)['x']


def test_a_killed_program_goes_on_with_the_first_missing_piece(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    _fill(tmp_path, _Maker(stop=1))
  second, third = _Maker(), _Maker()
  np.testing.assert_array_equal(_fill(tmp_path, second), np.arange(5) + 10)
  assert second.made == [1, 2]
  _fill(tmp_path, third)
  assert third.made == []


def test_a_damaged_piece_is_made_again(tmp_path):
  _fill(tmp_path, _Maker())
  path = tmp_path / 'x.npy'
  content = bytearray(path.read_bytes())
  content[-4 * 3 + 1] ^= 1  # The value at place 2.
  path.write_bytes(content)
  again = _Maker()
  with pytest.warns(UserWarning, match='piece 1 is damaged'):
    found = _fill(tmp_path, again)
  assert again.made == [1]
  np.testing.assert_array_equal(found, np.arange(5) + 10)


def test_arrays_of_something_else_are_refused(tmp_path):
  _fill(tmp_path, _Maker())
  with pytest.raises(ValueError, match=r'made of .*numbers.*Delete it'):
    _fill(tmp_path, _Maker(), {'what': 'letters'})
  wrong = {'facts': _FACTS, 'sha256': 5}
  for text in ('[]', '{', json.dumps({'facts': _FACTS}), json.dumps(wrong)):
    (tmp_path / 'pieces.json').write_text(text)
    with pytest.raises(ValueError, match=r'pieces.json: not an index'):
      _fill(tmp_path, _Maker())


def test_values_that_are_not_finite_are_refused(tmp_path):
  with pytest.raises(FloatingPointError, match='x to be kept on disk'):
    _fill(tmp_path, lambda number: {'x': np.full(2, np.inf)})


def test_without_a_folder_all_stays_in_memory_and_a_warning_says_so(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.warns(UserWarning, match=r'not kept.*FSDD_CACHE_DIR'):
    found = _fill(tmp_path / 'file' / 'inside', _Maker())
  np.testing.assert_array_equal(found, np.arange(5) + 10)


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'posix_fallocate', full)
  make = _Maker()
  with pytest.raises(OSError, match=r'Cannot keep 20 bytes.*FSDD_CACHE_DIR'):
    _fill(tmp_path, make)
  assert not make.made


@pytest.mark.parametrize('number', [errno.EOPNOTSUPP, errno.EINVAL])
def test_it_does_without_space_set_aside(tmp_path, monkeypatch, number):
  def unknown(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, 'posix_fallocate', unknown)
  np.testing.assert_array_equal(_fill(tmp_path, _Maker()), np.arange(5) + 10)


@pytest.mark.parametrize('damage', ['missing', 'cut', 'zeros', 'shape'])
def test_a_damaged_file_is_made_again(tmp_path, damage):
  _fill(tmp_path, _Maker())
  path = tmp_path / 'x.npy'
  if damage == 'shape':
    np.save(path, np.zeros(4, np.float32))
  else:
    whole = path.read_bytes()
    path.unlink()
    if damage != 'missing':
      path.write_bytes(whole[:40] if damage == 'cut' else bytes(len(whole)))
  again = _Maker()
  with pytest.warns(UserWarning, match=r'x\.npy .*made again'):
    found = _fill(tmp_path, again)
  assert again.made == [0, 1, 2]
  np.testing.assert_array_equal(found, np.arange(5) + 10)


def test_the_folder_of_what_can_be_made_again(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('FSDD_CACHE_DIR', '~/kept')
  assert array_store.default_root() == tmp_path / 'kept'
  monkeypatch.setenv('FSDD_CACHE_DIR', 'gs://bucket/kept')
  with pytest.raises(ValueError, match='no local path'):
    array_store.default_root()


def test_a_disk_that_is_full_at_once_is_named(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(np.lib.format, 'open_memmap', full)
  with pytest.raises(OSError, match=r'No space left.*x\.npy'):
    _fill(tmp_path, _Maker())


def test_facts_name_the_folder_whatever_their_order(tmp_path):
  folders = {
    array_store.folder_for(tmp_path, facts)
    for facts in ({'a': 1, 'b': 2}, {'b': 2, 'a': 1}, {'a': 1, 'b': 3})
  }
  assert len(folders) == 2
