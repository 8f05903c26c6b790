"""The processes of a run: how they find each other, and what they agree on."""

import os
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

_MPI_SIZE = 'OMPI_COMM_WORLD_SIZE'

Tree = TypeVar('Tree')


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  heartbeat_seconds: int = 100,
) -> None:
  """Joins this process to the others of a run, before any other use of JAX.

  Does nothing for one process, or if it was called before. Without arguments,
  JAX asks the environment (Slurm, Open MPI, Cloud TPU, Kubernetes, or the
  variable JAX_COORDINATOR_ADDRESS); where there is none of these, the process
  is alone.

  Args:
    coordinator_address: `host:port` of process 0.
    num_processes: number of processes in the run.
    process_id: number of this process, in [0, num_processes).
    heartbeat_seconds: silence after which a process counts as lost.

  Raises:
    ValueError: if only some arguments are given, or they are out of range.
    RuntimeError: if JAX has already been used, or the others cannot be reached.

  Example:
    >>> initialize()  # Alone: does nothing. In a job of Slurm or TPU: joins it.
  """
  if jax.distributed.is_initialized():
    return
  given = {
    'coordinator_address': coordinator_address,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    _initialize_from_environment(heartbeat_seconds)
    return
  if num_processes == 1:
    return
  if missing:
    raise ValueError(
      f'{", ".join(missing)} missing: give coordinator_address (host:port), '
      'num_processes and process_id together, or none of them.'
    )
  if not 0 <= process_id < num_processes:  # type: ignore[operator]
    raise ValueError(
      f'process_id={process_id} must lie in [0, {num_processes}), the number '
      'of processes; number them from 0.'
    )
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except RuntimeError as error:
    raise RuntimeError(
      f'Process {process_id} of {num_processes} cannot join the run at '
      f'{coordinator_address}: {error} Call initialize() before anything else '
      'uses JAX, and make sure that process 0 runs and its port is open.'
    ) from error


def _initialize_from_environment(heartbeat_seconds: int) -> None:
  announced = [
    f'{name}={os.environ[name]}'
    for name in ('JAX_COORDINATOR_ADDRESS', 'SLURM_NTASKS', _MPI_SIZE)
    if os.environ.get(name, '1') != '1'
  ]
  try:
    jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
  except ValueError as error:
    # JAX knows no coordinator, hence the process is alone, unless the
    # coordinator alone was given.
    if 'JAX_COORDINATOR_ADDRESS' in os.environ:
      raise ValueError(
        f'{announced[0]} is set, but the environment does not say how many '
        'processes there are. Pass coordinator_address, num_processes and '
        'process_id to initialize().'
      ) from error
  except RuntimeError as error:
    # Too late to join others, but no others were announced: as in a notebook.
    if 'must be called before' in str(error) and not announced:
      return
    raise RuntimeError(
      f'This process cannot join the others ({", ".join(announced)}): {error} '
      'Call initialize() before anything else uses JAX, and make sure that all '
      'processes run.'
    ) from error


def is_first_process() -> bool:
  """Whether this process writes the files that all processes share.

  Example:
    >>> is_first_process()
    True
  """
  return jax.process_index() == 0


def from_first_process(tree: Tree) -> Tree:
  """The arrays of process 0, in all processes.

  Example:
    >>> from_first_process(3)
    3
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def any_process(flag: bool) -> bool:
  """Whether a flag is set in any process; all processes call it together.

  Example:
    >>> any_process(False)
    False
  """
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def own_places(batch_size: int) -> range:
  """Places in a batch of the samples that this process prepares.

  Example:
    >>> own_places(3)
    range(0, 3)
  """
  return range(jax.process_index(), batch_size, jax.process_count())


def join_places(values: Sequence[float], size: int) -> list[float]:
  """The numbers of all `own_places`, from all processes, in their order.

  Args:
    values: of this process's places; as many in each process as it has places.
    size: how many places there are.

  Returns:
    `size` numbers, to the bit.

  Example:
    >>> join_places([0.1, 0.2], 2)
    [0.1, 0.2]
  """
  if jax.process_count() == 1:
    return list(values)
  own = np.zeros(size)
  own[list(own_places(size))] = values
  # As bytes, for JAX would round the numbers to float32.
  gathered = multihost_utils.process_allgather(own.view(np.uint8))
  return np.asarray(gathered).view(np.float64).sum(axis=0).tolist()
