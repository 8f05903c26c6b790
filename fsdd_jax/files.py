"""Files that are written whole or not at all, and folders of one program."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes `data` to `path` so that no reader ever sees half of it.

  The bytes go to a temporary name in the same folder, reach the disk, and
  then take the place of an earlier file in one step. Missing folders are
  made. A symbolic link stays a link; the file it points to is replaced.

  Args:
    path: where the file shall be.
    data: its whole content.

  Raises:
    OSError: if the file cannot be written; an earlier file is then as before.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> write_bytes_atomic(folder / 'new' / 'note.txt', b'whole')
    >>> (folder / 'new' / 'note.txt').read_bytes()
    b'whole'
  """
  target = pathlib.Path(os.path.realpath(path))
  temporary = target.parent / f'.{secrets.token_hex(8)}.tmp'
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, 'xb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, target)
    except BaseException:  # An interrupt must not leave the temporary behind.
      temporary.unlink(missing_ok=True)
      raise
  except OSError as error:
    # With its number, OSError picks the fitting subclass by itself.
    raise OSError(
      error.errno,
      f'Cannot write ({error.strerror}); a file that was there is unchanged. '
      f'Choose a folder that is writable and has {len(data)} bytes free',
      str(path),
    ) from error


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps a folder for this program; the end of it, however sudden, frees it.

  Args:
    folder: made where it is missing.

  Raises:
    OSError: if another program keeps it, or it cannot be made.

  Example:
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with lock(folder), lock(folder):  # doctest: +IGNORE_EXCEPTION_DETAIL
    ...   pass
    Traceback (most recent call last):
    BlockingIOError: ...
  """
  path = pathlib.Path(folder) / '.lock'
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise BlockingIOError(
        errno.EAGAIN,
        'Another program works in this folder. Wait for it, end it, or choose '
        'another workdir',
        str(folder),
      ) from error
    yield
