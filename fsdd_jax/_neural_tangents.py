"""neural-tangents on the JAX of today.

Its last release, 0.6.5 of 2023, imports names that JAX has since moved or
removed. They are put back while it is imported, and taken away again: JAX is
left as it was. Only names that are missing are added.

Of it only `stax` is used here, the kernels in closed form. Its empirical
kernels look further names up when they run, and are not repaired.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax.core
import jax.extend.core
import jax.interpreters.ad
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


def import_stax() -> types.ModuleType:
  """The module `neural_tangents.stax`.

  Raises:
    ImportError: where neural-tangents is not installed; it says what to do.

  Example:
    >>> import_stax().__name__  # doctest: +SKIP
    'neural_tangents.stax'
  """
  if importlib.util.find_spec('neural_tangents') is None:
    raise ImportError(
      'Kernels of infinitely wide networks need neural-tangents, which is not '
      "installed: pip install 'fsdd-jax[kernels]'."
    )
  with _patched():
    return importlib.import_module('neural_tangents.stax')
