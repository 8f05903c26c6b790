"""Seconds of calls that return arrays, for which the clock waits."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Call = Callable[[], Any]


def seconds(call: Call) -> float:
  """Seconds of one call."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def in_turn(
  calls: Mapping[str, Call], *, repeats: int
) -> dict[str, list[float]]:
  """Times calls one after the other, round by round.

  What slows the machine for a while then slows all of them. Two rounds before
  compile and warm up.

  Args:
    calls: by name; each returns arrays.
    repeats: rounds that count.

  Returns:
    The seconds of each call in each round.
  """
  found: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(repeats + 2):
    for name, call in calls.items():
      found[name].append(seconds(call))
  return {name: each[2:] for name, each in found.items()}


def quartiles(values: Sequence[float] | np.ndarray) -> str:
  """The median and the quartiles, for tables."""
  low, middle, high = np.percentile(values, [25, 50, 75])
  return f'{middle:.3g} [{low:.3g}-{high:.3g}]'


def conditions() -> str:
  """Versions and device, for the captions of tables."""
  return (
    f'jax {jax.__version__}, {jax.devices()[0].device_kind}, Python '
    f'{platform.python_version()}.'
  )
