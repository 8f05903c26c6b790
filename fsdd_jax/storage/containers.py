"""Named arrays and JSON metadata in one checked `.safetensors` file.

A file opens with safetensors and NumPy alone. Its `__metadata__` holds one
entry, `fsdd_jax`: a JSON object with `format` (what the file is), `version`,
`sha256` (of the tensors and of the metadata) and `metadata`. It is one entry
because safetensors writes several in random order, and the same content must
give the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fsdd_jax.runtime import files
from fsdd_jax.runtime.hashes import hash_arrays

VERSION = 1


def write_container(
  path: str | os.PathLike[str],
  kind: str,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, Any],
) -> None:
  """Writes arrays and metadata, whole or not at all.

  Args:
    path: the file; an earlier one is replaced.
    kind: what the file is, e.g. 'distilled_set'.
    arrays: the tensors by name.
    metadata: JSON values; scalars of NumPy and JAX are taken as well.

  Raises:
    ValueError: if an array holds NaN or infinity, or the metadata is not
      JSON. Nothing is written then.
    OSError: if the file cannot be written.
  """
  _check_finite(path, arrays)
  try:
    # Read back, as keys that are numbers sort otherwise once they are text.
    plain = json.loads(_to_json(metadata))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: metadata must hold JSON values only (text, whole and finite '
      f'numbers, bool, None, lists, dicts): {error}. Convert or drop the value.'
    ) from error
  entry = {
    'format': kind,
    'version': VERSION,
    'sha256': {'tensors': hash_arrays(arrays), 'metadata': _hash_json(plain)},
    'metadata': plain,
  }
  data = safetensors.numpy.save(
    # safetensors would write the memory of a strided array as it lies.
    {name: np.ascontiguousarray(array) for name, array in arrays.items()},
    metadata={'fsdd_jax': _to_json(entry)},
  )
  files.write_bytes_atomic(path, data)


def read_container(
  path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads what `write_container` wrote, after checking it.

  Args:
    path: the file.
    kind: what the file has to be.

  Returns:
    The arrays by name, and the metadata.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, of another kind or of a newer version, or if
      an array holds NaN or infinity.
  """
  file_path = files.resolve(path)
  if not file_path.is_file():
    raise FileNotFoundError(
      f'{path}: no such file. Give the path of a file that fsdd_jax wrote '
      f'({kind}).'
    )
  try:
    with safetensors.safe_open(file_path, framework='numpy') as file:
      entry = _parse_entry(path, kind, file.metadata())
      # `file` is no mapping: it offers keys() but no iteration.
      arrays = {name: file.get_tensor(name) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path}: not a whole safetensors file ({error}). Copy it again or write '
      'it anew.'
    ) from error
  found = {
    'tensors': hash_arrays(arrays),
    'metadata': _hash_json(entry['metadata']),
  }
  for part, digest in found.items():
    if digest != entry['sha256'].get(part):
      raise ValueError(
        f'{path}: its {part} were damaged or edited (SHA-256 is {digest}, '
        f'recorded is {entry["sha256"].get(part)}). Copy the file again or '
        'write it anew.'
      )
  _check_finite(path, arrays)
  return arrays, entry['metadata']


def _check_finite(
  path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> None:
  for name, array in arrays.items():
    if bad := int(np.size(array) - np.isfinite(array).sum()):
      raise ValueError(
        f'{path}: {bad} of {array.size} values of {name!r} are NaN or '
        'infinite. Go back to an earlier checkpoint, and lower the learning '
        'rate or raise the ridge.'
      )


def _parse_entry(
  path: str | os.PathLike[str], kind: str, header: Mapping[str, str] | None
) -> dict[str, Any]:
  """The header's `fsdd_jax` entry, once its format and version are right."""
  try:
    entry = files.parse_json((header or {})['fsdd_jax'], path)
    found, version = str(entry['format']), int(entry['version'])
    dict(entry['sha256'])
    dict(entry['metadata'])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: a safetensors file, but not of fsdd_jax (no whole entry '
      f'"fsdd_jax" in its metadata). Give a file that fsdd_jax wrote ({kind}).'
    ) from error
  # The version first: a newer one may name its formats otherwise.
  if version > VERSION:
    raise ValueError(
      f'{path}: format version {version}; this fsdd_jax reads up to {VERSION}. '
      'Install a newer fsdd_jax.'
    )
  if found != kind:
    raise ValueError(
      f'{path}: holds a {found}, not a {kind}. Give another file, or load it '
      'with the function for its kind.'
    )
  return entry


def _hash_json(value: Any) -> str:
  return hashlib.sha256(_to_json(value).encode()).hexdigest()


def _to_json(value: Any) -> str:
  return json.dumps(
    value,
    sort_keys=True,
    allow_nan=False,
    ensure_ascii=False,
    default=_plain_scalar,
  )


def _plain_scalar(value: Any) -> Any:
  """Scalars of NumPy and JAX as Python numbers; `json` calls it."""
  if getattr(value, 'ndim', None) == 0:
    return value.item()
  raise TypeError(f'{value!r} is a {type(value).__name__}')
