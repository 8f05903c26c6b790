"""The devices that share a stage's work.

A stage takes `devices_for` a batch and need not know whether it is alone: with
one device, nothing is placed or wrapped. Arrays are whole on each device, or
split along their first axis over the one mesh axis, `'data'`; a function runs
on each device with its part. (Left to automatic sharding, each device would
loop over the networks of the entire batch.) Work without a common result, such
as subsets of a cache, goes to the devices as a whole, by `map_devices`.
"""

import concurrent.futures
import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = 'data'
_SPLIT = PartitionSpec(AXIS)

Item = TypeVar('Item')
Result = TypeVar('Result')
Tree = TypeVar('Tree')
Function = Callable[[Any, Any], Tree]  # Of `(whole, part)`.


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices that share the batches of a stage.

  Attributes:
    mesh: over all of them; None stands for one, on which arrays stay where
      they are and functions run as they are.
  """

  mesh: Mesh | None = None

  @property
  def count(self) -> int:
    """How many there are."""
    return 1 if self.mesh is None else self.mesh.size

  def shard(self, tree: Tree) -> Tree:
    """Splits the first axis of all arrays over the devices.

    Args:
      tree: arrays `[b, ...]`. With several processes, each passes its own
        part, all of one size; the results are the parts joined in order.

    Raises:
      ValueError: if the number of (this process's) devices does not divide b.
    """
    if self.mesh is None:
      return tree
    _check_divisible(tree, self.mesh.local_mesh.size)
    return _place(tree, split_sharding(self.mesh))

  def replicate(self, tree: Tree) -> Tree:
    """Places arrays, the same in all processes, whole on each device."""
    return (
      tree if self.mesh is None else _place(tree, whole_sharding(self.mesh))
    )

  def scatter(self, tree: Tree) -> Tree:
    """As `shard`, of arrays that each process holds whole."""
    index, count = jax.process_index(), jax.process_count()

    def own(x: Any) -> Any:
      size = len(x) // count
      return x[index * size : (index + 1) * size]

    return tree if self.mesh is None else self.shard(jax.tree.map(own, tree))

  def mean(self, fn: Function) -> Function:
    """As `each`, but averages the results over devices."""
    return self._reduced(fn, jax.lax.pmean)

  def sum(self, fn: Function) -> Function:
    """As `each`, but sums the results over devices."""
    return self._reduced(fn, jax.lax.psum)

  def each(self, fn: Function) -> Function:
    """Runs a function on each device's part; results stay apart.

    What is summed over many calls then crosses devices once, at the end.

    Args:
      fn: maps `(whole, part)` to arrays. `whole` is the same on each device,
        `part` the device's own rows of the arrays given. Sees one device only:
        gradients in it are of its part alone.

    Returns:
      A function of `(whole, split)`, for `jax.jit`, on arrays placed by
      `replicate` and `shard`; its results have a new first axis. It raises a
      ValueError if the number of devices does not divide the first axis of
      `split`.
    """

    def body(whole: Any, part: Any) -> Any:
      return jax.tree.map(lambda x: x[None], fn(whole, part))

    return body if self.mesh is None else _map(body, self.mesh, _SPLIT)

  def split(self, tree: Tree) -> Tree:
    """Within `jax.jit`, lays results out as those of `each` are."""
    if self.mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, split_sharding(self.mesh))

  def sum_of_each(self, tree: Tree) -> Tree:
    """The sum of results of `each` over devices, whole on each of them."""

    def own(_: Any, part: Tree) -> Tree:
      return jax.tree.map(lambda x: x[0], part)

    return self.sum(own)((), tree)

  def _reduced(
    self, fn: Function, reduction: Callable[[Any, str], Any]
  ) -> Function:
    if self.mesh is None:
      return fn

    def body(whole: Any, part: Any) -> Any:
      return reduction(fn(whole, part), AXIS)

    return _map(body, self.mesh, PartitionSpec())


ALONE = Devices()


def devices_for(batch_size: int | None = None) -> Devices:
  """The devices that can share batches of a size.

  Args:
    batch_size: samples a batch, over all processes; None: of any size.

  Returns:
    All devices; if there is one process, as many as divide the batch.

  Raises:
    ValueError: if devices of several processes do not divide the batch.
  """
  count = jax.device_count()
  if batch_size is not None:
    if jax.process_count() > 1 and batch_size % count:
      raise ValueError(
        f'A batch of {batch_size} samples cannot be shared by {count} devices '
        f'of {jax.process_count()} processes; choose a batch size that is a '
        f'multiple of {count}.'
      )
    count = math.gcd(batch_size, count)
  return ALONE if count == 1 else Devices(data_mesh(count))


def data_mesh(num_devices: int | None = None) -> Mesh:
  """A one-dimensional mesh over the axis `'data'`.

  Args:
    num_devices: how many devices to take; None takes those of all processes.

  Raises:
    ValueError: if there are fewer, or some of other processes are left out.
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


def split_sharding(mesh: Mesh) -> NamedSharding:
  """Of arrays whose first axis is split over the devices of a mesh."""
  return NamedSharding(mesh, _SPLIT)


def whole_sharding(mesh: Mesh) -> NamedSharding:
  """Of arrays that are whole on each device of a mesh."""
  return NamedSharding(mesh, PartitionSpec())


def local(tree: Tree) -> Tree:
  """Arrays that are whole on each device, as the process's first has them."""
  return jax.tree.map(
    lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree
  )


def map_devices(
  fn: Callable[[Item], Result],
  items: Iterable[Item],
  *,
  stopping: threading.Event | None = None,
) -> Iterator[Result]:
  """Calls a function on items, each as a whole on a device of this process.

  A thread a device; within it, the device is JAX's default. As no call knows
  of the others, results are the bytes of one device, whatever their number.

  Args:
    fn: safe to be called in several threads.
    items: its arguments.
    stopping: set when an error or the caller ends the iteration, for calls
      under way to look at.

  Yields:
    Its results, in the order of items; the error of a call ends them.
  """
  devices = jax.local_devices()
  if len(devices) == 1:
    yield from map(fn, items)
    return
  free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
  for device in devices:
    free.put(device)

  def call(item: Item) -> Result:
    device = free.get()
    try:
      with jax.default_device(device):
        return fn(item)
    finally:
      free.put(device)

  pool = concurrent.futures.ThreadPoolExecutor(len(devices))
  try:
    yield from pool.map(call, items)
  finally:
    if stopping is not None:
      stopping.set()
    pool.shutdown(cancel_futures=True)


def default_device() -> jax.Device | None:
  """The device of the `map_devices` call under way; None if there is none."""
  return jax.config.jax_default_device  # type: ignore[attr-defined]


def _place(tree: Tree, sharding: NamedSharding) -> Tree:
  """Places arrays, each process the parts of its own devices."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def place(x: Any) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = place(jax.random.key_data(x))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    # Not by `jax.device_put`, which asks other processes for their devices.
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree.map(place, tree)


def _map(body: Function, mesh: Mesh, results: PartitionSpec) -> Function:
  # Without the check of what varies over devices (vma), for with it jax.grad by
  # `whole` would sum over devices by itself, before the reduction; and fn could
  # not start a scan from constants.
  mapped = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(PartitionSpec(), _SPLIT),
    out_specs=results,
    check_vma=False,
  )

  def run(whole: Any, split: Any) -> Any:
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
