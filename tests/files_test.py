import errno
import os

import pytest

from fsdd_jax import files


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
