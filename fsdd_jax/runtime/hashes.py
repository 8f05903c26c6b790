"""SHA-256 of arrays and of trees of arrays."""

import hashlib
from collections.abc import Mapping
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
