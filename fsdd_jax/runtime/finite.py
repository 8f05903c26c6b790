"""NaN and infinity end a stage or a score; they never pass for a result."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def bad_leaves(tree: Any) -> list[str]:
  """Names of the leaves of a pytree that hold NaN or infinity."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [
    jax.tree_util.keystr(path)
    for path, leaf in leaves
    if _is_float(leaf) and not bool(_all_finite(leaf))
  ]


def check(tree: Any, what: str, remedy: str) -> None:
  """Raises a FloatingPointError if a pytree holds NaN or infinity.

  Args:
    tree: arrays of any kind; only floats are looked at.
    what: whose values they are, the beginning of the message.
    remedy: its end.

  Raises:
    FloatingPointError: naming the leaves that are not finite.
  """
  if bad := bad_leaves(tree):
    names = ', '.join(bad[:5]).strip()
    where = f' of {names}' if names else ''
    raise FloatingPointError(
      f'{what}: values{where} are NaN or infinite. {remedy}'
    )


def _is_float(leaf: Any) -> bool:
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None:
    return isinstance(leaf, float)
  return jnp.issubdtype(dtype, jnp.inexact)


def _all_finite(leaf: Any) -> Any:
  if isinstance(leaf, jax.Array):
    return _reduced(leaf)
  return np.isfinite(np.asarray(leaf, np.float64)).all()


@jax.jit
def _reduced(leaf: jax.Array) -> jax.Array:
  return jnp.isfinite(leaf).all()
