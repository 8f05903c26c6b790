"""The devices that share a stage's work.

A stage takes `devices_for` a batch and need not know whether it is alone: with
one device, nothing is placed or wrapped. Between its steps, arrays lie on the
first device of each process. Work without a common result, such as one subset
of a cache, goes to the devices as a whole, by `map_devices`.
"""

import concurrent.futures
import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from fsdd_jax.runtime import parallel

Item = TypeVar('Item')
Result = TypeVar('Result')
Tree = TypeVar('Tree')


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
    """As the function `shard`."""
    return tree if self.mesh is None else parallel.shard(self.mesh, tree)

  def replicate(self, tree: Tree) -> Tree:
    """As the function `replicate`."""
    return tree if self.mesh is None else parallel.replicate(self.mesh, tree)

  def scatter(self, tree: Tree) -> Tree:
    """As `shard`, of arrays that each process holds whole."""
    index, count = jax.process_index(), jax.process_count()

    def own(x: Any) -> Any:
      size = len(x) // count
      return x[index * size : (index + 1) * size]

    return tree if self.mesh is None else self.shard(jax.tree.map(own, tree))

  def mean(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
    """As the function `per_device`, which averages over devices."""
    return fn if self.mesh is None else parallel.per_device(fn, self.mesh)

  def each(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
    """As the function `per_device_apart`."""
    if self.mesh is not None:
      return parallel.per_device_apart(fn, self.mesh)
    return lambda whole, part: jax.tree.map(lambda x: x[None], fn(whole, part))

  def split(self, tree: Tree) -> Tree:
    """Within `jax.jit`, lays results out as those of `each` are."""
    if self.mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(
      tree, parallel.split_sharding(self.mesh)
    )

  def sum_of_each(self, tree: Tree) -> Tree:
    """The sum of results of `each` over devices, whole on each of them."""

    def own(_: Any, part: Tree) -> Tree:
      return jax.tree.map(lambda x: x[0], part)

    if self.mesh is None:
      return own(None, tree)
    return parallel.per_device(own, self.mesh, reduction=jax.lax.psum)((), tree)


ALONE = Devices()


def devices_for(batch_size: int | None = None) -> Devices:
  """The devices that can share batches of a size.

  Args:
    batch_size: samples a batch, over all processes; None: of any size.

  Returns:
    All devices of all processes; if there is one process, as many as divide
    the batch.

  Raises:
    ValueError: if several processes run and their devices do not divide the
      batch.
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
  return Devices(None if count == 1 else parallel.data_mesh(count))


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
    Its results, in the order of items; an error of a call is raised in place
    of its result, and no further call is begun.
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
