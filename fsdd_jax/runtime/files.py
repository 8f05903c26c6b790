"""Paths, files written whole or not at all, checked JSON, and locked folders.

Whatever a flag, a variable or an argument says of a path goes through
`resolve`, and whatever is read as JSON through `parse_json`.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

try:
  import fcntl
except ImportError:  # Not on Windows.
  fcntl = None  # type: ignore[assignment]

# Read of each end of a file by `fingerprint`.
_SEEN_BYTES = 2**20


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
  """A local path, with `~` as the home folder.

  Shells leave the `~` of `--workdir=~/runs` and of a quoted variable as it is.

  Args:
    path: as a user gave it.

  Returns:
    The path, not made absolute.

  Raises:
    ValueError: for a remote address such as gs://bucket/runs, or an empty one.
  """
  text = os.fspath(path)
  # pathlib makes one slash of two.
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', text):
    raise ValueError(
      f'{text!r} is no local path. Give a folder of this machine, or one that '
      'is mounted here.'
    )
  if not text or '\0' in text:
    raise ValueError(f'{text!r} is no path; give a folder or a file.')
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError as error:  # No home folder, or no such user.
    raise ValueError(f'{text!r}: {error} Write the path in full.') from error


def parse_json(text: str | bytes, path: Any, kind: type = dict) -> Any:
  """Reads JSON text, and makes sure of the type of its value.

  Args:
    text: what stands in a file, or a line of it.
    path: of the file, for messages.
    kind: the type that the value must have.

  Returns:
    The value.

  Raises:
    ValueError: naming the file, if it is damaged or holds another type.
  """
  remedy = 'Restore it, delete it, or choose another folder.'
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON ({error}). {remedy}') from error
  if not isinstance(value, kind):
    raise ValueError(
      f'{path} is not JSON of this program: it holds a {type(value).__name__}, '
      f'not a {kind.__name__}. {remedy}'
    )
  return value


def read_json(path: str | os.PathLike[str], kind: type = dict) -> Any:
  """Reads a JSON file by `parse_json`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: see `parse_json`.
  """
  return parse_json(resolve(path).read_bytes(), path, kind)


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  r"""Reads a file of JSON objects, one a line.

  A last line that a kill cut short is left out.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file and the line that is not a JSON object.
  """
  rows = []
  data = resolve(path).read_bytes()
  lines = data.splitlines()
  for number, line in enumerate(lines, 1):
    try:
      rows.append(parse_json(line, f'Line {number} of {path}'))
    except ValueError:
      if number < len(lines) or data.endswith(b'\n'):
        raise
  return rows


def fingerprint(paths: Iterable[str | os.PathLike[str]]) -> str:
  """SHA-256 of names, sizes, and the first and last MiB of files.

  It takes a moment, however large files are. What changes amid one of more
  than two MiB, of the same size, is for its reader to notice.

  Args:
    paths: existing files.

  Returns:
    Hexadecimal digits.
  """
  digest = hashlib.sha256()
  for path in map(pathlib.Path, paths):
    size = path.stat().st_size
    digest.update(f'{path.name} {size}\n'.encode())
    with path.open('rb') as file:
      digest.update(file.read(_SEEN_BYTES))
      if size > _SEEN_BYTES:
        file.seek(max(_SEEN_BYTES, size - _SEEN_BYTES))
        digest.update(file.read(_SEEN_BYTES))
  return digest.hexdigest()


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
  """
  with _temporary(path, data) as (temporary, target):
    os.replace(temporary, target)


def write_bytes_once(path: str | os.PathLike[str], data: bytes) -> bool:
  """As `write_bytes_atomic`, unless the file is there; whether it wrote."""
  with _temporary(path, data) as (temporary, target):
    try:
      os.link(temporary, target)
    except FileExistsError:
      return False
    except OSError:  # As on file systems without links.
      if target.exists():
        return False
      os.replace(temporary, target)
    finally:
      temporary.unlink(missing_ok=True)
    return True


def check_writable(path: str | os.PathLike[str]) -> None:
  """Makes sure, before the work, that its file can be written after it.

  Args:
    path: as for `write_bytes_atomic`; a file that is there stays as it is.

  Raises:
    OSError: if the file could not be written.
  """
  with _temporary(path, b'') as (temporary, target):
    if target.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary.unlink()


@contextlib.contextmanager
def _temporary(
  path: str | os.PathLike[str], data: bytes
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """A file of `data` beside its place, and the place; errors name the path."""
  target = pathlib.Path(os.path.realpath(resolve(path)))
  temporary = target.parent / f'.{secrets.token_hex(8)}.tmp'
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, 'xb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      yield temporary, target
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
def named(path: str | os.PathLike[str]) -> Iterator[None]:
  """Lets an OSError that names no file name this one."""
  try:
    yield
  except OSError as error:
    if error.filename is not None or error.errno is None:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str], name: str = '.lock') -> Iterator[None]:
  """Keeps a folder for this program; the end of it, however sudden, frees it.

  Where the file system or the machine knows no locks, it warns and goes on.

  Args:
    folder: made where it is missing.
    name: of the file that is locked in it; another one keeps a part of the
      folder alone, and is removed in the end.

  Raises:
    OSError: if another program keeps it, or it cannot be made.
  """
  path = resolve(folder) / name
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    _take(file, path)
    try:
      yield
    finally:
      if name != '.lock':
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_in_turn(
  folder: str | os.PathLike[str], name: str = '.lock'
) -> Iterator[None]:
  """As `lock`, but waits until no other program keeps it."""
  with contextlib.ExitStack() as stack:
    while True:
      try:
        stack.enter_context(lock(folder, name))
        break
      except BlockingIOError:
        time.sleep(0.2)
    yield


def _is_at(file: Any, path: pathlib.Path) -> bool:
  """Whether an open file is that of a path, not one that was removed."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


# Not by filelock: without flock it falls back to a soft lock, which a kill
# leaves behind, and where flock fails otherwise it raises instead of warning.
def _take(file: Any, path: pathlib.Path) -> None:
  refused = BlockingIOError(
    errno.EAGAIN,
    'Another program works in this folder. Wait for it, end it, or choose '
    'another one',
    str(path.parent),
  )
  try:
    if fcntl is None:
      raise OSError(errno.ENOSYS, 'this machine knows no flock')
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not _is_at(file, path):
      raise refused
  except BlockingIOError as error:
    raise refused from error
  except OSError as error:  # As on some cluster file systems.
    warnings.warn(
      f'{path.parent} cannot be locked ({error.strerror}): let no other '
      'program work in it at the same time.',
      RuntimeWarning,
      stacklevel=4,
    )
