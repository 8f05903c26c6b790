"""SHA-256 of arrays, of trees of arrays, and of programs."""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
  """SHA-256 over names, types, shapes and values, in the order of names."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name} {array.dtype.str} {array.shape}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def hash_tree(tree: Any) -> str:
  """`hash_arrays` of the leaves of any pytree, named by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return hash_arrays(
    {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
  )


def hash_code(paths: Iterable[pathlib.Path]) -> str:
  """SHA-256 of programs, to which comments and docstrings do not count.

  Args:
    paths: of Python files, in an order that stays; missing ones count as empty.
  """
  digest = hashlib.sha256()
  for path in paths:
    tree = ast.parse(path.read_bytes() if path.exists() else b'')
    for node in ast.walk(tree):
      body = getattr(node, 'body', None)
      if isinstance(body, list) and body and _is_text(body[0]):
        del body[0]
    digest.update(f'{path.name} {ast.dump(tree)}\n'.encode())
  return digest.hexdigest()


@functools.cache
def package_code(*patterns: str) -> str:
  """`hash_code` of files of this package, for what is kept on disk.

  Args:
    *patterns: paths in it, such as `networks/*.py`.
  """
  package = pathlib.Path(__file__).parents[1]
  found = {path for pattern in patterns for path in package.glob(pattern)}
  return hash_code(sorted(found))


def _is_text(node: ast.AST) -> bool:
  return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
