"""Mesh, placement, and the per-device wrapper.

Data parallelism only: arrays are either whole on each device, or split along
their first axis over the one mesh axis, `'data'`. A function runs on each
device with its part, and results are summed or averaged. (Left to automatic
sharding, each device would loop over the networks of the entire batch.)
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = 'data'
_SPLIT = PartitionSpec(AXIS)

Tree = TypeVar('Tree')
Reduction = Callable[[Any, str], Any]


def data_mesh(num_devices: int | None = None) -> Mesh:
  """A one-dimensional mesh over the axis `'data'`.

  Args:
    num_devices: how many devices to take; None takes those of all processes.

  Returns:
    The mesh.

  Raises:
    ValueError: if there are fewer devices, or if several processes run and
      some of their devices would be left out.
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


def shard(mesh: Mesh, tree: Tree) -> Tree:
  """Splits the first axis of all arrays over the devices of a mesh.

  Args:
    mesh: from `data_mesh`.
    tree: arrays `[b, ...]`. With several processes, each passes its own part,
      all of one size, and the results are the parts joined in the order of
      the mesh's devices.

  Returns:
    The same arrays, placed.

  Raises:
    ValueError: if the number of (this process's) devices does not divide b.
  """
  count = mesh.local_mesh.size
  _check_divisible(tree, count)

  def parts(x: Any) -> list[Any]:
    size = len(x) // count
    return [x[i * size : (i + 1) * size] for i in range(count)]

  def shape(x: Any) -> tuple[int, ...]:
    return len(x) // count * mesh.size, *x.shape[1:]

  return _place(tree, split_sharding(mesh), shape, parts)


def replicate(mesh: Mesh, tree: Tree) -> Tree:
  """Places all arrays whole on each device of a mesh.

  Args:
    mesh: from `data_mesh`.
    tree: arrays of any shape, the same in all processes.

  Returns:
    The same arrays, placed.
  """

  def parts(x: Any) -> list[Any]:
    return [x] * mesh.local_mesh.size

  return _place(tree, whole_sharding(mesh), np.shape, parts)


def _place(
  tree: Tree,
  sharding: NamedSharding,
  shape: Callable[[Any], tuple[int, ...]],
  parts: Callable[[Any], list[Any]],
) -> Tree:
  """Places arrays, each process the parts of its own devices."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  mesh = sharding.mesh
  devices = [
    d for d in mesh.devices.flat if d.process_index == jax.process_index()
  ]

  def place(x: Any) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = place(jax.random.key_data(x))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    # Through the devices of this process alone: `jax.device_put` would ask
    # the others, which not all backends can.
    placed = list(map(jax.device_put, parts(x), devices))
    return jax.make_array_from_single_device_arrays(shape(x), sharding, placed)

  return jax.tree.map(place, tree)


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
  """

  def body(whole: Any, part: Any) -> Tree:
    return reduction(fn(whole, part), AXIS)

  return _map(body, mesh, PartitionSpec())


def per_device_apart(
  fn: Callable[[Any, Any], Tree], mesh: Mesh
) -> Callable[[Any, Any], Tree]:
  """As `per_device`, but results stay apart, along a new first axis.

  What is summed over many calls then crosses devices once, at the end.
  """

  def body(whole: Any, part: Any) -> Tree:
    return jax.tree.map(lambda x: x[None], fn(whole, part))

  return _map(body, mesh, _SPLIT)


def _map(
  body: Callable[[Any, Any], Tree], mesh: Mesh, results: PartitionSpec
) -> Callable[[Any, Any], Tree]:
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
