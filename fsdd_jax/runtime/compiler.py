"""What XLA's compiler is told before it first reads its flags."""

import importlib.metadata
import os
from collections.abc import MutableMapping

# jaxlib 0.10 gives a convolution that stands alone to a library of the CPU that
# computes it on one core, half as fast as XLA itself on two.
_FUSIONS = '--xla_cpu_experimental_ynn_fusion_type'
_VERSION = '0.10.'


def spread_convolutions(
  environment: MutableMapping[str, str] = os.environ,
) -> None:
  """Lets single convolutions use all cores of a CPU; no other device is asked.

  On one core nothing changes, as the library is faster there, nor does it where
  the user's own `XLA_FLAGS` name the flag.

  Args:
    environment: the variables of this process, before JAX has compiled.
  """
  known = environment.get('XLA_FLAGS', '')
  if is_needed() and _FUSIONS not in known:
    flag = f'{_FUSIONS}=-individual_convolution'
    environment['XLA_FLAGS'] = f'{known} {flag}'.strip()


def is_needed() -> bool:
  """Whether this process has several cores, and a version that uses one."""
  version = importlib.metadata.version('jaxlib')
  return version.startswith(_VERSION) and usable_cores() > 1


def usable_cores() -> int:
  """Cores that this process may use; all, where the system does not tell."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
