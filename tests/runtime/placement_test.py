"""Functions `check_*` run in processes of their own, `test_*` in this one.

The number of devices and processes is fixed once JAX starts; hence one process
with 8 forced host devices serves all checks on them, and two more join to a
run.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import device_processes
import translator_updates as updates
from fsdd_jax.core import translator_step
from fsdd_jax.runtime import devices, processes
from fsdd_jax.runtime.devices import Devices


def normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def assert_close(x, y):
  np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


# On 8 devices.


def check_mesh_has_the_devices_asked_for():
  assert devices.data_mesh().size == 8
  assert devices.data_mesh().axis_names == ('data',)
  assert devices.data_mesh(3).devices.tolist() == jax.devices()[:3]
  for count in (0, 9):
    with pytest.raises(ValueError, match=f'{count} devices, but JAX sees 8'):
      devices.data_mesh(count)


def check_shard_splits_the_first_axis():
  mesh = devices.data_mesh(4)
  tree = {'x': normal(0, 8, 3), 'keys': jax.random.split(jax.random.key(0), 4)}
  placed = Devices(mesh).shard(tree)
  for i, part in enumerate(placed['x'].addressable_shards):
    assert part.device == jax.devices()[i]
    np.testing.assert_array_equal(part.data, tree['x'][2 * i : 2 * i + 2])
  np.testing.assert_array_equal(placed['x'], tree['x'])
  assert placed['keys'].sharding.spec == PartitionSpec('data')
  with pytest.raises(ValueError, match=r"\['x'\] of shape \(6, 2\).* of 4"):
    Devices(mesh).shard({'x': normal(0, 6, 2)})
  with pytest.raises(ValueError, match=r'shape \(\)'):
    Devices(mesh).shard(1.0)


def check_replicate_copies_to_all():
  placed = Devices(devices.data_mesh()).replicate(normal(0, 3))
  assert placed.sharding.is_fully_replicated
  assert len(placed.addressable_shards) == 8


def mean_loss(weights, x):
  return jnp.mean((x @ weights) ** 2)


def check_mean_of_gradients_is_the_gradient_of_the_mean():
  mesh, weights, x = devices.data_mesh(), normal(0, 3, 2), normal(1, 16, 3)
  fn = jax.value_and_grad(mean_loss)
  spread = jax.jit(Devices(mesh).mean(fn))
  found = spread(Devices(mesh).replicate(weights), Devices(mesh).shard(x))
  jax.tree.map(assert_close, found, fn(weights, x))
  assert all(y.sharding.is_fully_replicated for y in found)


def check_sum_of_statistics_is_that_of_all_rows():
  mesh, x = devices.data_mesh(), normal(1, 16, 3)

  def statistics(scale, rows):
    return {'gram': scale * rows.T @ rows, 'count': jnp.float32(len(rows))}

  summed = jax.jit(Devices(mesh).sum(statistics))(2.0, Devices(mesh).shard(x))
  assert_close(summed['gram'], 2 * x.T @ x)
  assert summed['count'] == 16


def check_gradient_through_the_wrapper():
  mesh, weights, x = devices.data_mesh(), normal(0, 3, 2), normal(1, 16, 3)
  spread = Devices(mesh).mean(mean_loss)
  found = jax.jit(jax.grad(spread, argnums=(0, 1)))(weights, x)
  expected = jax.grad(mean_loss, argnums=(0, 1))(weights, x)
  jax.tree.map(assert_close, found, expected)


def check_a_body_may_scan_from_constants_and_draw():
  mesh, keys = devices.data_mesh(), jax.random.split(jax.random.key(0), 8)

  def body(scale, keys):
    def add(total, key):
      return total + scale * jax.random.uniform(key), None

    return jax.lax.scan(add, jnp.float32(0), keys)[0]

  spread = Devices(mesh).sum(body)
  found = jax.jit(spread)(3.0, Devices(mesh).shard(keys))
  assert_close(found, 3.0 * jax.vmap(jax.random.uniform)(keys).sum())


def check_indivisible_batches_are_refused():
  spread = Devices(devices.data_mesh()).mean(mean_loss)
  with pytest.raises(ValueError, match=r'8 devices do not divide .*\(6, 3\)'):
    jax.jit(spread)(normal(0, 3, 2), normal(1, 6, 3))


def check_translator_step_equals_that_of_one_device():
  tx = optax.sgd(1.0)
  mesh = devices.data_mesh(updates.SIZE)
  step = translator_step.make_step(
    updates.TRANSLATOR,
    updates.ridge_loss,
    tx,
    spread=Devices(mesh).mean,
  )
  state = Devices(mesh).replicate(updates.make_state(tx))
  batch = Devices(mesh).shard(updates.make_batch())
  state, metrics = step(state, *batch)
  single, single_metrics = updates.sgd_step(1)(
    updates.make_state(tx), *updates.make_batch()
  )
  updates.assert_trees_close(state.params, single.params)
  jax.tree.map(assert_close, metrics, single_metrics)
  step(state, *batch)
  assert step._cache_size() == 1  # The new state is placed as the first was.


CHECKS = device_processes.checks(globals())


def test_on_eight_devices():
  # In one test, as workers that share the checks would each run all of them.
  call = 'placement_test.device_processes.run_checks(placement_test.CHECKS)'
  told = device_processes.finish(device_processes.start(call, 8))
  failed = [name for name in CHECKS if f'passed {name}\n' not in told]
  assert not failed, told


# On two processes of two devices each.


def join_two(address, process_id):
  processes.initialize(address, 2, process_id)
  processes.initialize()  # Once more does nothing.
  mesh = devices.data_mesh()
  assert mesh.size == 4
  with pytest.raises(ValueError, match='2 processes must use all 4 devices'):
    devices.data_mesh(2)
  weights, x = normal(0, 3, 2), normal(1, 8, 3)
  keys = jax.random.split(jax.random.key(0), 4)
  own = np.s_[4 * process_id : 4 * process_id + 4]
  own_keys = keys[2 * process_id : 2 * process_id + 2]
  split = Devices(mesh).shard((x[own], own_keys))
  assert split[0].shape == (8, 3)
  assert split[1].shape == (4,)

  def body(weights, part):
    rows, keys = part
    loss, gradient = jax.value_and_grad(mean_loss)(weights, rows)
    return loss, gradient, jnp.mean(jax.vmap(jax.random.uniform)(keys))

  found = jax.jit(Devices(mesh).mean(body))(
    Devices(mesh).replicate(weights), split
  )
  jax.tree.map(assert_close, found, body(weights, (x, keys)))
  values = [0.1, 0.7][process_id : process_id + 1]
  assert processes.join_places(values, 2) == [0.1, 0.7]
  assert processes.from_first_process(np.float32(process_id)) == 0
  assert processes.any_process(process_id == 1)
  assert not processes.any_process(False)
  print('passed')


def test_two_processes_compute_what_one_does():
  address = device_processes.free_address()
  calls = [f'placement_test.join_two({address!r}, {i})' for i in range(2)]
  started = [device_processes.start(call, 2) for call in calls]
  outputs = [device_processes.finish(process) for process in started]
  assert all('passed' in output for output in outputs), '\n'.join(outputs)


def lone_coordinator():
  os.environ['JAX_COORDINATOR_ADDRESS'] = 'localhost:1'
  with pytest.raises(ValueError, match='how many processes'):
    processes.initialize()
  del os.environ['JAX_COORDINATOR_ADDRESS']
  processes.initialize()
  assert jax.process_count() == 1
  print('passed')


def test_a_coordinator_without_number_of_processes_is_refused():
  call = 'placement_test.lone_coordinator()'
  output = device_processes.finish(device_processes.start(call, 1))
  assert 'passed' in output, output


# In this process, in which JAX is in use and alone.


@pytest.fixture
def used():
  for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
    assert os.environ.get(name, '1') == '1'
  assert jax.device_count() >= 1


@pytest.mark.usefixtures('used')
def test_one_process_needs_no_start():
  processes.initialize()
  processes.initialize(num_processes=1)
  processes.initialize('localhost:1', 1, 0)
  assert jax.process_count() == 1


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (('localhost:1',), 'num_processes, process_id missing'),
    (('localhost:1', 2), 'process_id missing'),
    ((None, 2, 0), 'coordinator_address missing'),
    (('localhost:1', 2, 2), r'process_id=2 must lie in \[0, 2\)'),
    (('localhost:1', 2, -1), 'process_id=-1 must lie'),
  ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, match):
  with pytest.raises(ValueError, match=match):
    processes.initialize(*arguments)


@pytest.mark.usefixtures('used')
def test_too_late_a_start_is_refused(monkeypatch):
  with pytest.raises(RuntimeError, match='Process 0 of 2 cannot join'):
    processes.initialize('localhost:1', 2, 0)
  monkeypatch.setenv('SLURM_NTASKS', '2')
  with pytest.raises(RuntimeError, match=r'the others \(SLURM_NTASKS=2\)'):
    processes.initialize()
