"""neural-tangents on the JAX of today.

Its last release, 0.6.5 of 2023, imports names that JAX has since moved or
removed. They are put back while it is imported, and taken away again: JAX is
left as it was. Only names that are missing are added.

Of it only `stax` is used here, the kernels in closed form. Its empirical
kernels look further names up when they run, and are not repaired.

Its convolution of covariances, one channel of a 3 x 3 window, becomes a sum of
shifted copies on the CPU: there XLA's own is 7 times slower, and in float64 on
jax 0.10 ends the process by a segmentation fault.
"""

import contextlib
import importlib
import importlib.util
import operator
import sys
import types
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from typing import Any

import jax.core
import jax.extend.core
import jax.interpreters.ad
import jax.numpy as jnp
from jax import lax
from jax._src import util as jax_util


def _attributes() -> Iterator[tuple[Any, str, Any]]:
  """Names that JAX lacks, with their owner and value."""
  for name in ('Jaxpr', 'JaxprEqn', 'Literal', 'Primitive', 'Var'):
    yield jax.core, name, getattr(jax.extend.core, name)
  # Rules for empirical kernels are kept by this primitive, which JAX no longer
  # has: any other does as well.
  primitive = jax.extend.core.Primitive('zeros_like')
  yield jax.interpreters.ad, 'zeros_like_p', primitive


def _modules() -> Iterator[types.ModuleType]:
  """Modules that an import shall find."""
  if importlib.util.find_spec('jax.util') is None:
    util = types.ModuleType('jax.util')
    vars(util).update(safe_map=jax_util.safe_map, safe_zip=jax_util.safe_zip)
    yield util
  # Imports TensorFlow, for seconds and hundreds of megabytes.
  yield types.ModuleType('neural_tangents.experimental')


@contextlib.contextmanager
def _patched() -> Iterator[None]:
  """Lends names and modules for the time of an import."""
  missing = [
    entry for entry in _attributes() if not hasattr(entry[0], entry[1])
  ]
  modules = {module.__name__: module for module in _modules()}
  for owner, name, value in missing:
    setattr(owner, name, value)
  sys.modules.update(modules)
  try:
    yield
  finally:
    for owner, name, _ in missing:
      delattr(owner, name)
    for name in modules:
      del sys.modules[name]


def _sum_of_shifts(
  maps: jax.Array, windows: jax.Array, *, padding: Sequence[tuple[int, int]]
) -> jax.Array:
  """Correlates `[n, c, h, w]` with `[c, 1, kh, kw]`, channel by channel."""
  padded = jnp.pad(maps, ((0, 0), (0, 0), *padding))
  rows, columns = windows.shape[2:]
  height = padded.shape[2] - rows + 1
  width = padded.shape[3] - columns + 1
  return reduce(
    operator.add,
    (
      windows[:, 0, i, j][:, None, None]
      * padded[:, :, i : i + height, j : j + width]
      for i in range(rows)
      for j in range(columns)
    ),
  )


def _convolve(
  lhs: jax.Array,
  rhs: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """jax.lax.conv_general_dilated, another way where it is slow or fails."""

  def convolve(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(lhs, rhs, strides, padding, **options)

  depthwise = {
    'dimension_numbers': ('NCHW', 'OIHW', 'NCHW'),
    'feature_group_count': len(rhs),
  }
  if options != depthwise or rhs.shape[1] != 1 or set(strides) != {1}:
    return convolve(lhs, rhs)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[2:], rhs.shape[2:], strides, padding
    )
  return lax.platform_dependent(
    lhs, rhs, cpu=partial(_sum_of_shifts, padding=padding), default=convolve
  )


class _Lax:
  """The module jax.lax but for its convolution."""

  conv_general_dilated = staticmethod(_convolve)

  def __getattr__(self, name: str) -> Any:
    return getattr(lax, name)


def import_stax() -> types.ModuleType:
  """The module `neural_tangents.stax`.

  Raises:
    ImportError: where neural-tangents is not installed; it says what to do.
  """
  if importlib.util.find_spec('neural_tangents') is None:
    raise ImportError(
      'Kernels of infinitely wide networks need neural-tangents, which is not '
      "installed: pip install 'fsdd-jax[kernels]'."
    )
  with _patched():
    stax = importlib.import_module('neural_tangents.stax')
  linear = importlib.import_module('neural_tangents._src.stax.linear')
  vars(linear)['lax'] = _Lax()
  return stax
