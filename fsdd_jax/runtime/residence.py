"""What suits the memory and the compiler of the device at hand.

A CPU reads a memory map in place and compiles in a moment, but computes padding
slowly. An accelerator has memory of its own and compiles for long, but hardly
notices some padding.
"""

from collections.abc import Sequence

import jax

from fsdd_jax.runtime.devices import default_device


def is_cpu() -> bool:
  """Whether what is compiled now runs on a CPU."""
  return _device().platform == 'cpu'


def fits(num_bytes: int) -> bool:
  """Whether arrays may stay in the device's own memory.

  Args:
    num_bytes: of all of them.

  Returns:
    False on a CPU, which has no memory of its own; else whether they take at
    most half of what is free, as far as the device says.
  """
  if is_cpu():
    return False
  stats = _device().memory_stats() or {}
  free = stats.get('bytes_limit', 0) - stats.get('bytes_in_use', 0)
  return 2 * num_bytes <= free


def padded_sizes(sizes: Sequence[int]) -> list[int]:
  """The sizes that sets are padded to, each of which is compiled.

  Args:
    sizes: that suit the sets; some of them may be equal.

  Returns:
    All of them in rising order on a CPU, elsewhere the largest alone.
  """
  every = sorted(set(sizes))
  return every if is_cpu() else every[-1:]


def _device() -> jax.Device:
  found = default_device()
  # JAX also takes the name of a platform for it.
  return found if hasattr(found, 'platform') else jax.local_devices()[0]
