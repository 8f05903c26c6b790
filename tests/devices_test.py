"""Stages on 8 devices give what they give on one.

Functions `check_*` run in one process with 8 forced host devices.
"""

import contextlib
import fcntl
import functools
import os
import pathlib
import subprocess
import tempfile
import threading
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import compilation
import device_processes
import toy
from fsdd_jax.algorithms import (
  adaptation,
  caching,
  pretraining,
  pretraining_state,
)
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.algorithms.peers.peer_configs import FrepoConfig, RcigConfig
from fsdd_jax.core import krr, krr_errors, losses, translator_step
from fsdd_jax.data import passes, target
from fsdd_jax.evaluation import evaluate
from fsdd_jax.runtime import devices
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import labeled_set
from measures import programs, scaling
from workbench import methods

# Sums in another order, over at most a hundred images.
_SUMS = {'rtol': 1e-4, 'atol': 1e-5}
# A few steps of Adam, which magnifies what is small.
_STEPS = {'rtol': 1e-2, 'atol': 1e-4}


def assert_trees_close(found, expected, tolerance):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, expected
  )


@contextlib.contextmanager
def one_device():
  """Makes stages believe that there is one device."""

  def alone(batch_size=None):
    return devices.ALONE

  with (
    mock.patch.object(target, 'devices_for', alone),
    mock.patch.object(adaptation, 'devices_for', alone),
    mock.patch.object(pretraining, 'devices_for', alone),
    mock.patch.object(jax, 'local_devices', return_value=jax.devices()[:1]),
  ):
    yield


def synthetic():
  found = toy.distilled()
  return labeled_set(jnp.asarray(found.images), jnp.asarray(found.labels))


def check_devices_that_divide_a_batch():
  assert devices.devices_for().count == 8
  assert devices.devices_for(12).count == 4
  assert devices.devices_for(7) == devices.ALONE


def check_statistics_of_shards_are_those_of_all_images():
  network, dataset, transform = toy.problem()
  labels = np.eye(3, dtype=np.float32)[dataset.labels]
  features_of = losses.feature_fn(network)
  arguments = features_of, toy.theta(0), dataset.images, labels, transform
  counted = []
  # Two batches; of the second, some devices see padding alone.
  found = passes.target_statistics(
    *arguments,
    batch_size=2,
    on_batch=counted.append,
    devices=devices.devices_for(),
  )
  expected = passes.target_statistics(*arguments)
  assert counted == [16, 8]
  assert_trees_close(found, expected, _SUMS)
  assert jax.tree.leaves(found)[0].devices() == {jax.devices()[0]}
  features = features_of(toy.theta(0), jnp.zeros((1, 8, 8, 3)))
  weights = krr.solve(features, jnp.ones((1, 3)), ridge=1e-3)
  assert np.isfinite(
    krr_errors.mean_squared_error_from_statistics(weights, found)
  )


def check_a_cache_has_the_bytes_of_one_device():
  files = []
  for surroundings in (contextlib.nullcontext, one_device):
    with tempfile.TemporaryDirectory() as folder, surroundings():
      caching.build_cache(
        toy.problem()[0], toy.target(), config=toy.CACHING, folder=folder
      )
      found = sorted(pathlib.Path(folder).iterdir())
      files.append({path.name: path.read_bytes() for path in found})
  assert len(files[0]) == 3
  assert files[0] == files[1]


def check_an_error_of_a_device_ends_the_others():
  seen, many = [], 10**4

  def fn(item):
    seen.append(item)
    if item == 3:
      raise ValueError(f'item {item}')
    return jnp.zeros(()).devices()

  with pytest.raises(ValueError, match='item 3'):
    list(devices.map_devices(fn, range(many)))
  assert len(seen) < many


def check_items_go_to_several_devices():
  two = threading.Barrier(2, timeout=60)  # However late a thread starts.

  def fn(item):
    two.wait()
    return jnp.zeros(()).devices()

  places = set().union(*devices.map_devices(fn, range(16)))
  assert len(places) > 1


def check_evaluation_gives_the_scores_of_one_device():
  network, dataset, transform = toy.problem()
  score = functools.partial(
    evaluate.evaluate,
    jax.random.key(3),
    synthetic(),
    dataset,
    transform,
    network,
    repeats=3,
  )
  found = score().accuracies
  with one_device():
    assert found == score().accuracies


def check_adaptation_follows_that_of_one_device():
  for fields in ({'network_pool': 3}, {'real_batch': 6}, {}):
    config = AdaptationConfig(
      adapt_ipcs=(1,),
      num_steps=2,
      num_adaptation_steps=2,
      batch_size=2,
      **fields,
    )
    adapt = functools.partial(
      adaptation.adapt,
      toy.problem()[0],
      toy.translator(),
      toy.target(),
      config=config,
    )
    found = adapt()
    with one_device():
      expected = adapt()
    assert_trees_close(
      found.translator.variables, expected.translator.variables, _STEPS
    )
    assert_trees_close(
      found.distilled_in_theta, expected.distilled_in_theta, _STEPS
    )


def check_distillation_by_batches_follows_that_of_one_device():
  config = DistillationConfig(
    ipc=2, num_steps=3, num_networks=3, real_batch=16, learning_rate=0.01
  )
  rcig = RcigConfig(pool_size=2, most_online_steps=2, solver='cg', softplus=0.0)
  for method, own in (
    ('networks', None),
    ('frepo', FrepoConfig(pool_size=2)),
    ('rcig', rcig),
  ):
    run = functools.partial(
      methods.METHODS[method].run,
      toy.problem()[0],
      toy.target(),
      config=config,
      own=own,
      options=LoopOptions(),
      start=None,
    )
    assert target.devices_for_batch(16).count == 8
    found = run().synthetic
    with one_device():
      expected = run().synthetic
    assert_trees_close(found, expected, _STEPS)
    assert found.images.devices() == {jax.devices()[0]}


def check_a_method_that_shares_batches_resumes():
  class KilledError(Exception):
    pass

  def kill(step, _):
    if step == 3:
      raise KilledError

  config = DistillationConfig(
    ipc=1, num_steps=4, real_batch=16, learning_rate=0.01
  )
  run = functools.partial(
    methods.METHODS['frepo'].run,
    toy.problem()[0],
    toy.target(),
    config=config,
    own=FrepoConfig(pool_size=2),
    start=None,
  )
  with tempfile.TemporaryDirectory() as folder:
    with pytest.raises(KilledError):
      run(options=LoopOptions(folder, 2, 1, kill))
    found = run(options=LoopOptions(folder, 2, 1)).synthetic
  expected = run(options=LoopOptions()).synthetic
  np.testing.assert_array_equal(found.images, expected.images)


def check_pretraining_follows_that_of_one_device():
  network = toy.problem()[0]
  with tempfile.TemporaryDirectory() as folder:
    pretrain = functools.partial(
      pretraining.pretrain,
      network,
      toy.translator().translator,
      toy.build_cache(folder),
      toy.target(),
      config=PretrainingConfig(num_steps=3, batch_size=8, eval_every=2),
    )
    found = pretrain()
    with one_device():
      expected = pretrain()
  assert_trees_close(found.variables, expected.variables, _STEPS)
  np.testing.assert_allclose(
    found.record['heldout_losses'], expected.record['heldout_losses'], 1e-3
  )


def check_networks_side_by_side_are_of_one_device():
  """Refused before anything is made, as the batch may be corrected."""
  network = toy.problem()[0]
  with tempfile.TemporaryDirectory() as folder:
    source = toy.build_cache(f'{folder}/cache')
    options = LoopOptions(f'{folder}/run')
    with pytest.raises(ValueError, match='does not divide the 1 network'):
      pretraining.pretrain(
        *(network, toy.translator().translator, source, toy.target()),
        config=PretrainingConfig(batch_size=8, networks_per_call=2),
        options=options,
      )
    config = AdaptationConfig(
      adapt_ipcs=(1,), num_steps=1, batch_size=8, networks_per_call=2
    )
    with pytest.raises(ValueError, match='does not divide the 1 network'):
      adaptation.adapt(
        *(network, toy.translator(), toy.target()),
        config=config,
        options=options,
      )
    assert not pathlib.Path(folder, 'run').exists()


def check_a_step_reduces_once_and_gathers_no_images():
  """Looks at the compiled program of a pre-training step."""
  network, _, _ = toy.problem()
  start, tx = toy.translator(), optax.adam(1e-3)
  features_of = losses.feature_fn(network)

  def loss_fn(variables, labeled, target):
    return losses.krr_loss(features_of, variables, labeled, target, ridge=1e-3)

  everything = devices.devices_for(8)
  step = translator_step.make_step(
    start.translator, loss_fn, tx, spread=everything.mean
  )
  state = pretraining_state.init_state(
    jax.random.key(0), start.translator, (8, 8, 3), tx, 1
  ).translator
  one = synthetic()
  networks = jax.vmap(lambda key: network.init(key, one.images))(
    jax.random.split(jax.random.key(1), 8)
  )
  sets = jax.tree.map(lambda x: jnp.stack([x] * 8), one)
  batch = everything.shard((networks, sets, sets))
  lowered = step.lower(everything.replicate(state), *batch)
  compiled = lowered.compile(compiler_options=compilation.OPTIONS_OF_USERS)
  text = compiled.as_text()
  lines = [line for line in text.splitlines() if ' = ' in line]
  reductions = [line for line in lines if 'all-reduce(' in line]
  assert len(reductions) == 1, '\n'.join(reductions)
  for other in ('all-gather', 'all-to-all', 'collective-permute'):
    assert other not in text


def check_a_device_of_eight_computes_an_eighth():
  network, _, _ = toy.problem()
  problem = programs.Problem(network, (8, 8, 3), 3, num_real=64)
  g = toy.translator()
  alone, shared = (
    scaling.steps(
      problem,
      g.translator,
      some,
      batch_size=8,
      num_distilled=3,
      cached=(6, 12),
    )
    for some in (devices.ALONE, devices.devices_for())
  )
  weights = sum(x.size for x in jax.tree.leaves(g.variables))
  found = shared['pre-training']
  assert 6 < alone['pre-training'].flops / found.flops < 9
  # The gradient and the loss; 64 features and 3 classes.
  assert found.communicated == 4 * (weights + 1)
  found = shared['statistics']
  assert 6 < alone['statistics'].flops / found.flops < 9
  assert found.communicated == 4 * (64 * 64 + 64 * 3 + 2)
  for name in ('caching', 'distillation'):
    assert shared[name] == alone[name]
    assert shared[name].collectives == 0


CHECKS = device_processes.checks(globals())


@pytest.fixture(scope='module')
def told(tmp_path_factory):
  """What the checks print; one process runs them all, for all workers."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # The workers of a session share it.
  path = folder / 'on_eight_devices.txt'
  call = 'devices_test.device_processes.run_checks(devices_test.CHECKS)'
  with open(folder / 'on_eight_devices.lock', 'w') as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)  # Closing the file gives it up.
    if not path.exists():
      try:
        output = device_processes.finish(device_processes.start(call, 8))
      except subprocess.TimeoutExpired as hung:  # Those before it count.
        output = (hung.output or b'').decode()
      path.write_text(output)
  return path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize('name', CHECKS)
def test_on_eight_devices(name, told):
  assert f'passed {name}\n' in told, told
