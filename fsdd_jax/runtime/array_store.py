"""Large arrays on disk that are filled piece by piece and mapped into memory.

A folder holds one `.npy` file an array and `pieces.json`, which says what the
arrays were made of and the SHA-256 of each piece that is done. A killed program
goes on with the first missing piece, and a damaged piece is made again.
"""

import errno
import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fsdd_jax.runtime import files

_INDEX = 'pieces.json'
_CACHE_VARIABLE = 'FSDD_CACHE_DIR'

# What file systems answer that cannot set space aside.
_UNKNOWN_THERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

Arrays = dict[str, np.ndarray]
Specification = Mapping[str, tuple[tuple[int, ...], Any]]


def default_root() -> pathlib.Path:
  """Root of what can be made again: FSDD_CACHE_DIR or ~/.cache/fsdd_jax.

  Raises:
    ValueError: if FSDD_CACHE_DIR names no local folder.
  """
  named = os.environ.get(_CACHE_VARIABLE) or '~/.cache/fsdd_jax'
  return files.resolve(named).absolute()


def folder_for(root: pathlib.Path, facts: Mapping[str, Any]) -> pathlib.Path:
  """The folder of the arrays that were made of `facts`, JSON values."""
  return root / hashlib.sha256(_canonical(facts).encode()).hexdigest()[:20]


def pieces_of(total: int, size: int) -> list[slice]:
  """Slices of at most `size` rows that together are all rows."""
  return [
    slice(start, min(start + size, total)) for start in range(0, total, size)
  ]


def fill(
  folder: pathlib.Path,
  facts: Mapping[str, Any],
  specification: Specification,
  pieces: Sequence[slice],
  make: Callable[[int], Mapping[str, np.ndarray]],
  on_piece: Callable[[int], None] | None = None,
) -> Arrays:
  """Opens arrays, after making the pieces that are missing or damaged.

  Of several programs that want the same arrays, one makes them, and the others
  wait for it.

  Args:
    folder: of these arrays alone; made where it is missing.
    facts: what the arrays are made of, JSON values.
    specification: shape and dtype of each array, by name.
    pieces: slices of the first axis that all arrays share; together all of it.
    make: returns the pieces with a number, by name.
    on_piece: called with the number of each piece that is there.

  Returns:
    Read-only memory maps, by name.

  Raises:
    ValueError: if the folder holds arrays that were made of something else.
    FloatingPointError: if a piece has a value that is not finite.
    OSError: if the folder cannot be written.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    warnings.warn(
      f'{folder} cannot be made ({error.strerror}), so what is computed here '
      f'is not kept for the next time. Set {_CACHE_VARIABLE} to a folder that '
      'is writable.',
      stacklevel=2,
    )
    return _in_memory(specification, pieces, make, on_piece)
  with files.lock_in_turn(folder):
    hashes = _read_hashes(folder, facts)
    try:
      arrays = _open(folder, specification, 'r+' if hashes else 'w+')
    except ValueError as error:
      warnings.warn(f'{error} All of {folder} is made again.', stacklevel=2)
      hashes, arrays = [], _open(folder, specification, 'w+')
    for number, piece in enumerate(pieces):
      own = {name: array[piece] for name, array in arrays.items()}
      if number >= len(hashes) or hashes[number] != _hash(own):
        if number < len(hashes):
          warnings.warn(
            f'{folder}: piece {number} is damaged and is made again.',
            stacklevel=2,
          )
        for name, values in make(number).items():
          _check_finite(values, name)
          own[name][:] = values
        hashes[number : number + 1] = [_hash(own)]
        _write_hashes(folder, facts, hashes)
      if on_piece is not None:
        on_piece(number)
  return _open(folder, specification, 'r')


def _in_memory(
  specification: Specification,
  pieces: Sequence[slice],
  make: Callable[[int], Mapping[str, np.ndarray]],
  on_piece: Callable[[int], None] | None,
) -> Arrays:
  arrays: Arrays = {
    name: np.empty(shape, dtype)
    for name, (shape, dtype) in specification.items()
  }
  for number, piece in enumerate(pieces):
    for name, values in make(number).items():
      _check_finite(values, name)
      arrays[name][piece] = values
    if on_piece is not None:
      on_piece(number)
  return arrays


def remove(folder: pathlib.Path) -> None:
  """Deletes a folder of arrays, if it is there."""
  if folder.exists():
    with files.lock_in_turn(folder):
      shutil.rmtree(folder)


def _canonical(facts: Mapping[str, Any]) -> str:
  return json.dumps(json.loads(json.dumps(facts)), sort_keys=True)


def _read_hashes(folder: pathlib.Path, facts: Mapping[str, Any]) -> list[str]:
  """Hashes of the pieces that are done; none in a new folder."""
  path = folder / _INDEX
  if not path.exists():
    return []
  try:
    index = files.read_json(path)
    found, hashes = index['facts'], index['sha256']
    if not isinstance(hashes, list):
      raise ValueError(f'its hashes are {hashes!r}')
  except (ValueError, KeyError) as error:
    raise ValueError(
      f'{path}: not an index of arrays: {error!r}. Delete the folder; it is '
      'made again.'
    ) from error
  if _canonical(found) != _canonical(facts):
    raise ValueError(
      f'{folder} holds arrays that were made of {found}, not of {facts}. '
      'Delete it, or give another folder.'
    )
  return hashes


def _write_hashes(
  folder: pathlib.Path, facts: Mapping[str, Any], hashes: Sequence[str]
) -> None:
  text = json.dumps({'facts': facts, 'sha256': hashes}, indent=1)
  files.write_bytes_atomic(folder / _INDEX, text.encode() + b'\n')


def _open(
  folder: pathlib.Path, specification: Specification, mode: str
) -> Arrays:
  arrays: Arrays = {}
  for name, (shape, dtype) in specification.items():
    path = folder / f'{name}.npy'
    if mode == 'w+':
      array = _create(path, shape, dtype)
    else:
      try:
        array = np.lib.format.open_memmap(path, mode)
      except (FileNotFoundError, ValueError) as error:
        raise ValueError(f'{path} is missing or damaged ({error}).') from error
    if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
      raise ValueError(
        f'{path} holds {array.dtype} {array.shape}, not {dtype} {shape}.'
      )
    arrays[name] = array
  return arrays


def _create(
  path: pathlib.Path, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
  """A new array on disk, whose space is taken at once.

  Writing to a memory map on a full disk would end the process by a signal, and
  so would cutting a file that another program has mapped.
  """
  with files.named(path):
    path.unlink(missing_ok=True)
    array = np.lib.format.open_memmap(path, 'w+', dtype, shape)
  if hasattr(os, 'posix_fallocate'):
    try:
      with path.open('r+b') as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
      if error.errno in _UNKNOWN_THERE:
        return array
      path.unlink()
      raise OSError(
        error.errno,
        f'Cannot keep {array.nbytes} bytes ({error.strerror}). Free some '
        f'space, or set {_CACHE_VARIABLE} to another folder',
        str(path),
      ) from error
  return array


def _hash(own: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in sorted(own):
    digest.update(np.ascontiguousarray(own[name]).data)
  return digest.hexdigest()


def _check_finite(values: np.ndarray, name: str) -> None:
  if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
    raise FloatingPointError(
      f'{name} to be kept on disk have values that are not finite, or too '
      'large for float16. Take another network or normalisation.'
    )
