import errno
import os
import runpy
import sys

import pytest

from fsdd_jax.runtime import files


def _fail_with_full_disk(*args: object) -> None:
  raise OSError(errno.ENOSPC, 'No space left on device')


def test_writes_bytes_and_makes_missing_folders(tmp_path):
  path = tmp_path / 'a' / 'b' / 'x.bin'
  files.write_bytes_atomic(path, b'\x00\xff')
  assert path.read_bytes() == b'\x00\xff'
  assert os.listdir(path.parent) == ['x.bin']


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step):
  path = tmp_path / 'x.bin'
  files.write_bytes_atomic(path, b'old')
  monkeypatch.setattr(os, step, _fail_with_full_disk)
  with pytest.raises(OSError, match=r'x\.bin') as caught:
    files.write_bytes_atomic(path, b'new')
  assert 'No space left' in str(caught.value)
  assert caught.value.errno == errno.ENOSPC
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['x.bin']


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path):
  path = tmp_path / 'new' / 'x.json'
  files.check_writable(path)
  assert os.listdir(path.parent) == []
  path.write_text('old')
  files.check_writable(path)
  assert path.read_text() == 'old'
  for place in (tmp_path / 'new', path / 'x.json'):
    with pytest.raises(OSError, match='Cannot write') as caught:
      files.check_writable(place)
    assert str(place) in str(caught.value)
  assert os.listdir(tmp_path) == ['new']


def test_interrupt_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
  path = tmp_path / 'x.bin'
  path.write_bytes(b'old')

  def interrupt(*args: object) -> None:
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'fsync', interrupt)
  with pytest.raises(KeyboardInterrupt):
    files.write_bytes_atomic(path, b'new')
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['x.bin']


def test_folder_that_is_a_file_is_one_clear_error(tmp_path):
  (tmp_path / 'plain').write_bytes(b'')
  with pytest.raises(OSError, match='Choose a folder that is writable'):
    files.write_bytes_atomic(tmp_path / 'plain' / 'x.bin', b'data')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_unwritable_folder_is_one_clear_error(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(PermissionError, match='Choose a folder'):
    files.write_bytes_atomic(tmp_path / 'x.bin', b'data')


def test_link_stays_a_link(tmp_path):
  target, link = tmp_path / 'target', tmp_path / 'link'
  target.write_bytes(b'old')
  link.symlink_to(target)
  files.write_bytes_atomic(link, b'new')
  assert link.is_symlink()
  assert target.read_bytes() == b'new'


def test_file_is_readable_as_the_umask_says(tmp_path):
  before = os.umask(0o022)
  try:
    files.write_bytes_atomic(tmp_path / 'x.bin', b'data')
  finally:
    os.umask(before)
  assert (tmp_path / 'x.bin').stat().st_mode & 0o777 == 0o644


def test_two_programs_in_a_folder_are_refused_and_the_lock_is_freed(tmp_path):
  with (
    files.lock(tmp_path),
    pytest.raises(BlockingIOError, match='Another program works'),
    files.lock(tmp_path),
  ):
    pass
  with files.lock(tmp_path):
    pass


def test_a_lock_of_a_part_is_removed_but_not_by_who_was_refused(tmp_path):
  with files.lock(tmp_path, '.part.lock'):
    with pytest.raises(BlockingIOError), files.lock(tmp_path, '.part.lock'):
      pass
    assert (tmp_path / '.part.lock').exists()
    with files.lock(tmp_path, '.other.lock'):
      pass
  assert os.listdir(tmp_path) == []


def test_a_lock_made_anew_is_not_held_by_who_has_the_former(tmp_path):
  path = tmp_path / '.part.lock'
  with path.open('a') as former:
    path.unlink()
    with pytest.raises(BlockingIOError):  # Nobody made it anew yet.
      files._take(former, path)
    with (
      files.lock(tmp_path, '.part.lock'),
      pytest.raises(BlockingIOError),
    ):
      files._take(former, path)


@pytest.mark.parametrize('has_links', [True, False])
def test_one_of_several_programs_writes_once(tmp_path, monkeypatch, has_links):
  if not has_links:
    monkeypatch.setattr(os, 'link', _fail_with_full_disk)
  path = tmp_path / 'x.bin'
  assert files.write_bytes_once(path, b'first')
  assert not files.write_bytes_once(path, b'second')
  assert path.read_bytes() == b'first'
  assert os.listdir(tmp_path) == ['x.bin']


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, None])
def test_where_there_are_no_locks_it_warns_and_goes_on(
  tmp_path, monkeypatch, number
):
  def flock(*args):
    raise OSError(number, os.strerror(number))

  if number is None:
    monkeypatch.setattr(files, 'fcntl', None)
  else:
    monkeypatch.setattr(files.fcntl, 'flock', flock)
  with (
    pytest.warns(RuntimeWarning, match='cannot be locked') as warned,
    files.lock(tmp_path),
  ):
    pass
  assert str(tmp_path) in str(warned[0].message)


def test_it_imports_where_there_is_no_fcntl(monkeypatch):
  monkeypatch.setitem(sys.modules, 'fcntl', None)
  assert runpy.run_path(files.__file__)['fcntl'] is None


@pytest.mark.parametrize(
  'path', ['gs://b/run', 's3://b/x', 'gs:/b', 'file:///tmp/x', '', 'a\0b']
)
def test_what_is_no_local_path_is_refused(path):
  with pytest.raises(ValueError, match=r'no local path|no path'):
    files.resolve(path)


def test_paths_of_homes(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  files.write_bytes_atomic('~/x/note', b'x')
  assert (tmp_path / 'x' / 'note').read_bytes() == b'x'
  assert files.read_json_lines(_written(tmp_path / 'a', b'{}\n{"b')) == [{}]
  with pytest.raises(ValueError, match='no_such_user'):
    files.resolve('~no_such_user/x')


def _written(path, data):
  path.write_bytes(data)
  return path


@pytest.mark.parametrize(
  'data', [b'', b'{', b'[]', b'\xff', b'[' * 100_000, b'NaN x']
)
def test_json_that_is_none_is_named(tmp_path, data):
  path = _written(tmp_path / 'a.json', data)
  with pytest.raises(ValueError, match=r'a\.json is not JSON'):
    files.read_json(path)
  lines = _written(tmp_path / 'a.jsonl', data + b'\n{}\n')
  with pytest.raises(ValueError, match=r'Line 1 of .*a\.jsonl'):
    files.read_json_lines(lines)


def test_fingerprints_see_both_ends_and_the_size(tmp_path):
  whole = bytearray(3 * 2**20)
  path = _written(tmp_path / 'a', whole)
  before = files.fingerprint([path])
  assert files.fingerprint([path]) == before
  for place in (0, len(whole) - 1):
    changed = bytearray(whole)
    changed[place] = 1
    assert files.fingerprint([_written(path, changed)]) != before
  assert files.fingerprint([_written(path, whole + b'0')]) != before
