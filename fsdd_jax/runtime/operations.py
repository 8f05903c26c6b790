"""Counts the operations of a program, without running or compiling it."""

from collections.abc import Callable
from typing import Any

import jax


def count(function: Callable[..., Any], *arguments: Any) -> float:
  """Floating-point operations of a function, as accelerators would do them.

  They are those before the compiler. JAX counts on a CPU alone, so the program
  is lowered there, in its version for accelerators: on a CPU, gradients of
  kernels are loops, of which one turn is counted.

  Args:
    function: for `jax.jit`.
    *arguments: arrays, or their shapes (`jax.ShapeDtypeStruct`).

  Returns:
    Their number; NaN if JAX may not use the CPU (`JAX_PLATFORMS=cuda`).

  Example:
    >>> import jax.numpy as jnp
    >>> count(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48.0
  """
  try:
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return float('nan')
  with jax.default_device(cpu):
    traced = jax.jit(function).trace(*jax.eval_shape(lambda *x: x, *arguments))
    found: Any = traced.lower(lowering_platforms=('tpu',)).cost_analysis()
  return found['flops']
