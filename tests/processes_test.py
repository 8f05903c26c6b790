"""Two processes share a run: end to end, stopped, killed, gone on alone."""

import pathlib
import re
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import binaries
import device_processes
import toy
from fsdd_jax.algorithms import adaptation, caching, pretraining
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate
from fsdd_jax.runtime import processes
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage.cache import shards

# Many quick steps, so that a signal falls among them.
_DISTILL = (
  *('--dataset=fractals:3', '--limit=60', '--image_size=8', '--width=4'),
  *('--ipc=1', '--num_networks=2', '--revisit', '--num_steps=100'),
  *('--log_every=1', '--checkpoint_every=10'),
)


def together(count):
  """Flags of processes that share a run; each has a number besides."""
  return (
    f'--coordinator_address={device_processes.free_address()}',
    f'--num_processes={count}',
    '--heartbeat_seconds=10',
  )


def run(binary, *arguments, count=2):
  """Starts a binary in some processes, which are returned."""
  shared = together(count)
  return [
    subprocess.Popen(
      [*binaries.command(binary, *arguments, *shared), f'--process_id={i}'],
      env=device_processes.environment(1),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(count)
  ]


def end(started):
  outputs = [device_processes.finish(process) for process in started]
  return [process.returncode for process in started], outputs


def assert_ends(started):
  statuses, outputs = end(started)
  assert not any(statuses), '\n'.join(outputs)


def wait_for(path, text, started):
  """Until a file holds a text, which processes write."""
  while not (path.exists() and text in path.read_text()):
    assert all(process.poll() is None for process in started), end(started)
    time.sleep(0.05)


def contents(folder, pattern):
  return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern))}


def assert_files_close(found, expected):
  ours, theirs = map(safetensors.numpy.load_file, (found, expected))
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-2, atol=2e-3)


def pipeline(folder):
  """All stages of a small problem; what each wrote or learned, as arrays."""
  folder = pathlib.Path(folder)
  network, dataset, transform = toy.problem()
  caching.build_cache(
    network,
    toy.target(),
    config=toy.CACHING,
    folder=folder / 'cache',
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  # All have written their files when all have come here.
  assert processes.any_process(True)
  start = pretraining.pretrain(
    network,
    toy.translator().translator,
    shards.open_cache(folder / 'cache'),
    toy.target(),
    config=PretrainingConfig(num_steps=3, batch_size=2, eval_every=2),
    options=LoopOptions(folder / 'pretrain'),
  )
  config = AdaptationConfig(
    adapt_ipcs=(1,),
    num_steps=2,
    num_adaptation_steps=2,
    network_pool=2,
    batch_size=2,
  )
  adapted = adaptation.adapt(
    network,
    start,
    TargetSet(dataset, transform),
    config=config,
    options=LoopOptions(folder / 'adapt'),
  )
  score = evaluate.evaluate(
    jax.random.key(0),
    adapted.distilled_in_theta[1],
    dataset,
    transform,
    network,
    repeats=3,
  )
  return {
    'omega_0': start.variables,
    'omega': adapted.translator.variables,
    'set': adapted.distilled_in_theta[1],
    'accuracies': np.asarray(score.accuracies),
  }


def write_pipeline(folder, *process):
  processes.initialize(*process)
  leaves = jax.tree.leaves(pipeline(folder))
  if processes.is_first_process():
    np.savez(f'{folder}/leaves.npz', *leaves)
  print('passed')


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
  address = device_processes.free_address()
  calls = [f'"two", {address!r}, 2, {i}' for i in range(2)] + ['"one"']
  started = [
    device_processes.start(
      f'processes_test.write_pipeline({str(tmp_path)!r} "/" {call})', 1
    )
    for call in calls
  ]
  outputs = [device_processes.finish(process) for process in started]
  assert all('passed' in output for output in outputs), '\n'.join(outputs)
  files = contents(tmp_path / 'two' / 'cache', '*')
  assert len(files) == 3
  assert contents(tmp_path / 'one' / 'cache', '*') == files
  with (
    np.load(tmp_path / 'two' / 'leaves.npz') as two,
    np.load(tmp_path / 'one' / 'leaves.npz') as one,
  ):
    for name in two.files:
      np.testing.assert_allclose(two[name], one[name], rtol=1e-2, atol=2e-3)
    assert len(two.files) == len(one.files) > 10


def distill(workdir):
  return run('distill.py', *_DISTILL, f'--workdir={workdir}')


@pytest.mark.slow
def test_stopped_killed_and_resumed_by_as_many_or_fewer(tmp_path):
  assert_ends(distill(tmp_path / 'straight'))
  workdir = tmp_path / 'stopped'
  log = workdir / 'metrics.jsonl'
  started = distill(workdir)
  wait_for(log, '"step": 15,', started)
  started[1].send_signal(signal.SIGTERM)  # One of them alone is told.
  statuses, outputs = end(started)
  assert statuses == [0, 0], outputs
  for output in outputs:
    assert re.search(r'Stopped by SIGTERM. Step \d+ .* is saved', output), (
      output
    )
  assert not (workdir / 'distilled.safetensors').exists()
  started = distill(workdir)
  wait_for(log, '"step": 45,', started)
  started[1].kill()
  before = time.monotonic()
  statuses, outputs = end(started)
  assert time.monotonic() - before < 30
  assert statuses[0] != 0
  assert 'lost' in outputs[0] or 'JAX distributed service' in outputs[0], (
    outputs[0]
  )
  shutil.copytree(workdir, tmp_path / 'alone')
  assert_ends(distill(workdir))
  files = [
    tmp_path / name / 'distilled.safetensors'
    for name in ('straight', 'stopped', 'alone')
  ]
  assert files[0].read_bytes() == files[1].read_bytes()
  alone = binaries.run(
    *('distill.py', *_DISTILL, f'--workdir={tmp_path / "alone"}'),
    *(*together(1), '--process_id=0'),
  )
  assert alone.returncode == 0, alone.stderr
  assert_files_close(files[2], files[0])


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 3}')  # Another run's.
  statuses, outputs = end(distill(tmp_path))
  assert 'error: process 0 of 2: The workdir' in outputs[0]
  assert 0 not in statuses, outputs
