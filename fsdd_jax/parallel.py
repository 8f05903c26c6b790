"""Many devices and processes: mesh, placement, and the per-device wrapper.

Data parallelism only: arrays are either whole on each device, or split along
their first axis over the one mesh axis, `'data'`. A function runs on each
device with its part, and results are summed or averaged. (Left to automatic
sharding, each device would loop over the networks of the entire batch.)
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = 'data'
_MPI_SIZE = 'OMPI_COMM_WORLD_SIZE'

Tree = TypeVar('Tree')
Reduction = Callable[[Any, str], Any]


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
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
    _initialize_from_environment()
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
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except RuntimeError as error:
    raise RuntimeError(
      f'Process {process_id} of {num_processes} cannot join the run at '
      f'{coordinator_address}: {error} Call initialize() before anything else '
      'uses JAX, and make sure that process 0 runs and its port is open.'
    ) from error


def _initialize_from_environment() -> None:
  announced = [
    f'{name}={os.environ[name]}'
    for name in ('JAX_COORDINATOR_ADDRESS', 'SLURM_NTASKS', _MPI_SIZE)
    if os.environ.get(name, '1') != '1'
  ]
  try:
    jax.distributed.initialize()
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
    # Too late to join others, but nothing tells of others: as in a notebook.
    if 'must be called before' in str(error) and not announced:
      return
    raise RuntimeError(
      f'This process cannot join the others ({", ".join(announced)}): {error} '
      'Call initialize() before anything else uses JAX, and make sure that all '
      'processes run.'
    ) from error


def data_mesh(num_devices: int | None = None) -> Mesh:
  """A one-dimensional mesh over the axis `'data'`.

  Args:
    num_devices: how many devices to take; None takes those of all processes.

  Returns:
    The mesh.

  Raises:
    ValueError: if there are fewer devices, or if several processes run and
      some of their devices would be left out.

  Example:
    >>> mesh = data_mesh(1)
    >>> mesh.axis_names, mesh.size
    (('data',), 1)
  """
  devices = jax.devices()
  count = len(devices) if num_devices is None else num_devices
  if not 1 <= count <= len(devices):
    raise ValueError(
      f'Asked for {count} devices, but JAX sees {len(devices)} '
      f'({devices[0].platform}). Ask for 1 to {len(devices)}, or None for all.'
    )
  if jax.process_count() > 1 and count < len(devices):
    raise ValueError(
      f'{jax.process_count()} processes must use all {len(devices)} devices, '
      f'not {count}; leave num_devices out, or start fewer processes.'
    )
  return jax.make_mesh(
    (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count]
  )


def shard(mesh: Mesh, tree: Tree) -> Tree:
  """Splits the first axis of all arrays over the devices of a mesh.

  Args:
    mesh: from `data_mesh`.
    tree: arrays `[b, ...]`. With several processes, each passes its own part,
      all of one size, and the results are the parts joined in the order of
      processes.

  Returns:
    The same arrays, placed.

  Raises:
    ValueError: if the number of (this process's) devices does not divide b.

  Example:
    >>> import jax.numpy as jnp
    >>> shard(data_mesh(1), {'x': jnp.zeros((4, 2))})['x'].shape
    (4, 2)
  """
  _check_divisible(tree, mesh.local_mesh.size)
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))

  def place(x: Any) -> jax.Array:
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = place(jax.random.key_data(x))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree.map(place, tree)


def replicate(mesh: Mesh, tree: Tree) -> Tree:
  """Places all arrays whole on each device of a mesh.

  Args:
    mesh: from `data_mesh`.
    tree: arrays of any shape, the same in all processes.

  Returns:
    The same arrays, placed.

  Example:
    >>> import jax.numpy as jnp
    >>> replicate(data_mesh(1), jnp.zeros(3)).sharding.is_fully_replicated
    True
  """
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def per_device(
  fn: Callable[[Any, Any], Tree],
  mesh: Mesh,
  *,
  reduction: Reduction = jax.lax.pmean,
) -> Callable[[Any, Any], Tree]:
  """Runs a function on each device's part, and reduces the results.

  Args:
    fn: maps `(whole, part)` to arrays. `whole` is the same on each device,
      `part` the device's own rows of the arrays given. Sees one device only:
      gradients in it are of its part alone.
    mesh: from `data_mesh`.
    reduction: joins results over devices: `jax.lax.pmean` (losses and
      gradients of means over equal parts) or `jax.lax.psum` (statistics,
      counts).

  Returns:
    A function of `(whole, split)`, where the first axis of all arrays of
    `split` is divided over the devices. Its results are whole on each device.
    Call it within `jax.jit`, on arrays placed by `replicate` and `shard`. It
    raises a ValueError if the number of devices does not divide that axis.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> scaled_sum = lambda scale, part: scale * part.sum()
    >>> run = per_device(scaled_sum, data_mesh(1), reduction=jax.lax.psum)
    >>> jax.jit(run)(2.0, jnp.arange(4.0)).item()
    12.0
  """

  def body(whole: Any, part: Any) -> Tree:
    return reduction(fn(whole, part), AXIS)

  # Without the check of what varies over devices (vma), for with it jax.grad by
  # `whole` would sum over devices by itself, before the reduction; and fn could
  # not start a scan from constants.
  mapped = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
    out_specs=PartitionSpec(),
    check_vma=False,
  )

  def run(whole: Any, split: Any) -> Tree:
    _check_divisible(split, mesh.size)
    return mapped(whole, split)

  return run


def _check_divisible(tree: Any, num_devices: int) -> None:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    shape = np.shape(leaf)
    if not shape or shape[0] % num_devices:
      raise ValueError(
        f'{num_devices} devices do not divide the first axis of array '
        f'{jax.tree_util.keystr(path) or "given"} of shape {shape}. Choose a '
        f'batch size that is a multiple of {num_devices}, or fewer devices '
        '(data_mesh(num_devices)).'
      )
