"""Compares files that runs of two commits wrote, but for what no two share.

Files whose bytes differ are read as facts, pairs of a name and a value: tensors
by name, JSON by key, text by line and tables by cell. `LEFT_OUT` lists all that
is not compared.
"""

import csv
import fnmatch
import hashlib
import html
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors

Fact = tuple[str, Any]


class LeftOut(NamedTuple):
  """Files, or values in them, that are not compared.

  Attributes:
    files: pattern of their names.
    key: pattern of the keys of values; they must still be there. Empty for
      whole files.
    reason: why.
  """

  files: str
  key: str
  reason: str


LEFT_OUT = (
  LeftOut('*/stderr.txt', '', 'progress bars show rates'),
  LeftOut(
    '*/tensorboard/*',
    '',
    'has the time of each event; metrics.jsonl has the same numbers',
  ),
  LeftOut(
    'compare/compare_ipc*.png', '', 'draws over seconds what the JSON file has'
  ),
  LeftOut('*/seconds.jsonl', '*', 'seconds of each part'),
  LeftOut('*', '*.seconds', 'measured'),
  LeftOut('*.json', '*.seconds.*', 'measured, by part'),
  LeftOut('*/done.json', '.seconds_of_last_run', 'measured'),
  LeftOut(
    '*/done.json', '.outputs.*', 'hashes of files that are compared themselves'
  ),
  LeftOut(
    '*.safetensors',
    '*.sha256.metadata',
    'hashes seconds and digests of code with the rest, which is compared',
  ),
)
# Further, in text and names: digits before ` s`, columns and rows of tables
# with these titles, and digests of code that tasks of tables have.
_TIMED = {'seconds', 'compilation, s', 'times faster', "to Baseline's"}
_SECONDS = re.compile(r'\d[\d.]* s\b')
_DIGEST = re.compile(r'(tasks/[^/\s"]+)-[0-9a-f]{12}\b')
# Lines between a table's head and body, which do not end it.
_WITHIN = {'<tbody>', '\\midrule'}


def named(
  root: pathlib.Path, paths: Iterable[pathlib.Path]
) -> dict[str, pathlib.Path]:
  """What to compare, by name: files, and checkpoints as folders.

  Args:
    root: names are relative to it.
    paths: files.

  Raises:
    ValueError: if two get one name, without digests of code.
  """
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    parts = path.relative_to(root).parts
    if 'checkpoints' in parts[:-2]:
      parts = parts[: parts.index('checkpoints') + 2]
    whole = root.joinpath(*parts)
    name = _DIGEST.sub(r'\1', '/'.join(parts))
    if found.setdefault(name, whole) != whole:
      raise ValueError(f'{found[name]} and {whole} are both {name}.')
  return found


def difference(
  name: str, before: pathlib.Path | None, after: pathlib.Path | None
) -> str:
  """The first difference of two files; empty if there is none."""
  if before is None or after is None:
    return f'not written {"BEFORE" if before is None else "AFTER"}'
  if is_left_out(name) or _same_bytes(before, after):
    return ''
  pairs = itertools.zip_longest(facts(name, before), facts(name, after))
  for one, other in pairs:
    if one != other:
      key = (one or other)[0]
      return f'{key}: {_shown(one, key)} BEFORE, {_shown(other, key)} AFTER'
  return ''


def is_left_out(name: str) -> bool:
  """Whether a file is not compared at all."""
  return any(
    fnmatch.fnmatch(name, each.files) for each in LEFT_OUT if not each.key
  )


def facts(name: str, path: pathlib.Path) -> list[Fact]:
  """What a file says, but for values that are left out."""
  read = _checkpoint if path.is_dir() else _READERS.get(path.suffix, _plain)
  keys = [
    each.key
    for each in LEFT_OUT
    if each.key and fnmatch.fnmatch(name, each.files)
  ]
  return [
    (key, '_' if any(fnmatch.fnmatch(key, k) for k in keys) else value)
    for key, value in read(path)
  ]


def _same_bytes(before: pathlib.Path, after: pathlib.Path) -> bool:
  both = before.is_file() and after.is_file()
  return both and before.read_bytes() == after.read_bytes()


def _shown(fact: Fact | None, key: str) -> str:
  """A value to print, or the key where another one is expected."""
  if fact is None:
    return 'nothing'
  text = repr(fact[1]) if fact[0] == key else f'{fact[0]} in its place'
  return text if len(text) <= 120 else f'{text[:117]}...'


def _hash(data: bytes) -> str:
  return f'SHA-256 {hashlib.sha256(data).hexdigest()[:16]}'


def _plain(path: pathlib.Path) -> Iterator[Fact]:
  data = path.read_bytes()
  yield 'content', f'{len(data)} bytes, {_hash(data)}'


def _array(array: Any) -> str:
  values = np.asarray(array)
  return f'{values.dtype} {values.shape}, {_hash(values.tobytes())}'


def _checkpoint(path: pathlib.Path) -> Iterator[Fact]:
  """A checkpoint's arrays; Orbax's own files hold times and random names."""
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(path.absolute() / 'default')
  for key, leaf in jax.tree_util.tree_leaves_with_path(state):
    yield jax.tree_util.keystr(key), _array(leaf)


def _tensors(path: pathlib.Path) -> Iterator[Fact]:
  with safetensors.safe_open(path, 'np') as file:
    for name, text in (file.metadata() or {}).items():
      yield from _flat(json.loads(text), f'.{name}')
    for name in file.keys():
      yield name, _array(file.get_tensor(name))


def _arrays(path: pathlib.Path) -> Iterator[Fact]:
  with np.load(path) as file:
    for name in file.files:
      yield name, _array(file[name])


def _json(path: pathlib.Path) -> Iterator[Fact]:
  yield from _flat(json.loads(path.read_text()), '')


def _json_lines(path: pathlib.Path) -> Iterator[Fact]:
  for number, line in enumerate(path.read_text().splitlines(), 1):
    yield from _flat(json.loads(line), f'line {number}')


def _flat(value: Any, key: str) -> Iterator[Fact]:
  """Leaves of JSON values, in their order."""
  if isinstance(value, dict) and value:
    for name, each in value.items():
      yield from _flat(each, f'{key}.{name}')
  elif isinstance(value, list) and value:
    for number, each in enumerate(value):
      yield from _flat(each, f'{key}[{number}]')
  else:
    yield key, _DIGEST.sub(r'\1', value) if isinstance(value, str) else value


def _text(path: pathlib.Path) -> Iterator[Fact]:
  """Lines, those of tables as their cells."""
  timed: set[int] | None = None  # Columns of seconds in the table under way.
  for number, line in enumerate(path.read_text().splitlines(), 1):
    key, cells = f'line {number}', _cells(line, path.suffix)
    if cells is None:
      timed = timed if line in _WITHIN else None
      yield key, _SECONDS.sub('_ s', _DIGEST.sub(r'\1', line))
      continue
    own = [i for i, cell in enumerate(cells) if cell in _TIMED]
    if timed is None:
      timed = set(own)
    elif own:  # A row of seconds.
      cells = [*cells[: own[0] + 1], *map(_unmeasured, cells[own[0] + 1 :])]
    yield (
      key,
      [_unmeasured(c) if i in timed else c for i, c in enumerate(cells)],
    )


def _unmeasured(cell: str) -> str:
  return '_' if cell[:1].isdigit() else cell


def _cells(line: str, suffix: str) -> list[str] | None:
  """Cells of a line that is a row of a table."""
  if suffix == '.csv':
    return next(csv.reader([line]), [])
  if suffix == '.html':
    found = re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', line)
    return list(map(html.unescape, found)) or None
  if suffix == '.tex':
    row = line.endswith(r'\\')
    return line.removesuffix(r' \\').split(' & ') if row else None
  if not line.startswith('|'):
    return None
  # A rule is as long as the widest cell.
  return [re.sub('--+', '-', cell.strip()) for cell in line.split('|')[1:-1]]


_READERS: dict[str, Callable[[pathlib.Path], Iterator[Fact]]] = {
  '.safetensors': _tensors,
  '.npz': _arrays,
  '.json': _json,
  '.jsonl': _json_lines,
  '.csv': _text,
  '.html': _text,
  '.md': _text,
  '.tex': _text,
  '.txt': _text,
}
