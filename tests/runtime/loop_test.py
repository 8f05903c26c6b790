"""Work directories, logs and the stop on NaN."""

import contextlib
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.core import distill_step
from fsdd_jax.runtime import checkpoints, metrics, preemption
from fsdd_jax.runtime.loop import Loop, LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.types import labeled_set


def test_a_workdir_keeps_its_settings(tmp_path):
  options = LoopOptions(tmp_path)
  claim_workdir(options, DistillationConfig(log_every=1), data='digits')
  claim_workdir(options, DistillationConfig(log_every=2), data='digits')
  with pytest.raises(ValueError, match=r'seed: 0 there, 1 now.*new workdir'):
    claim_workdir(options, DistillationConfig(seed=1), data='digits')


def test_a_damaged_settings_file_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config.json is not JSON'):
    claim_workdir(LoopOptions(tmp_path), DistillationConfig())


def test_after_an_error_at_the_start_the_remedy_can_be_tried(
  tmp_path, monkeypatch
):
  options = LoopOptions(tmp_path, checkpoint_every=1)
  _run(options, [1.0], 1)

  def damaged(self, state):
    raise ValueError('damaged')

  with monkeypatch.context() as patched:
    patched.setattr(checkpoints.Checkpointer, 'restore_or', damaged)
    with pytest.raises(ValueError, match='damaged') as kept:
      _run(options, [1.0], 1)
  # The error still holds the loop, as a notebook keeps the last one.
  assert int(_run(options, [1.0], 1).step) == 1
  assert kept.value.args == ('damaged',)
  assert not preemption._Signals.deferring


_TX = distill_step.make_optimizer('sgd', 0.1)


def _start():
  start = labeled_set(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1)))
  return distill_step.init_state(start, _TX)


def _run(options, losses, num_steps, diagnose=None):
  """Counts steps whose losses are given; returns the last state."""
  step = distill_step.make_step(lambda s, scale: scale * jnp.sum(s.images), _TX)
  loop = Loop(
    'count', _start(), num_steps=num_steps, options=options, diagnose=diagnose
  )
  with loop:
    for index in loop:
      loop.state, loop.metrics = step(loop.state, losses[index])
    return loop.state


def test_nan_stops_with_step_and_diagnosis_and_keeps_checkpoints(tmp_path):
  options = LoopOptions(tmp_path, checkpoint_every=2, log_every=2)
  losses = [1.0, 1.0, 1.0, np.nan, 1.0, 1.0]
  with pytest.raises(FloatingPointError) as caught:
    _run(options, losses, 6, lambda index, state: f'index {index}.')
  assert 'count stopped at step 4: ' in str(caught.value)
  assert 'loss = nan' in str(caught.value)
  assert 'index 3.' in str(caught.value)
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']


def test_resume_goes_on_and_its_log_has_each_step_once(tmp_path):
  options = LoopOptions(tmp_path, checkpoint_every=2, log_every=1)
  with pytest.raises(FloatingPointError):
    _run(options, [1.0, 1.0, 1.0, np.nan], 4)
  done = []
  options = LoopOptions(tmp_path, 2, 1, lambda step, values: done.append(step))
  resumed = _run(options, [1.0] * 4, 4)
  straight = _run(LoopOptions(), [1.0] * 4, 4)
  assert done == [3, 4]
  np.testing.assert_array_equal(
    resumed.synthetic.images, straight.synthetic.images
  )
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 3, 4]


def test_a_finished_run_does_nothing_more(tmp_path):
  options = LoopOptions(tmp_path, 2, 1)
  first = _run(options, [1.0] * 3, 3)
  again = _run(options, [np.nan] * 3, 3)
  np.testing.assert_array_equal(first.synthetic.images, again.synthetic.images)


def test_two_programs_in_one_workdir_are_refused(tmp_path):
  options = LoopOptions(tmp_path)
  with (
    Loop('first', _start(), num_steps=1, options=options),
    pytest.raises(BlockingIOError, match='Another program works') as error,
  ):
    Loop('second', _start(), num_steps=1, options=options)
  assert str(tmp_path) in str(error.value)
  # It is free again.
  with Loop('third', _start(), num_steps=1, options=options):
    pass


def test_an_unwritable_workdir_is_one_clear_error(tmp_path):
  (tmp_path / 'file').write_text('no folder')
  options = LoopOptions(tmp_path / 'file' / 'workdir')
  with pytest.raises(OSError, match='workdir'):
    Loop('count', _start(), num_steps=1, options=options)


@contextlib.contextmanager
def _largest_file(size):
  """Files cannot grow beyond a size, as on a disk that is full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_clear_error_and_the_last_state_stays(tmp_path):
  def save(step, size):
    rng = np.random.default_rng(step)
    state = {'x': jnp.asarray(rng.normal(size=size))}
    with checkpoints.Checkpointer(tmp_path) as checkpointer:
      checkpointer.save(step, state)
    return state

  saved = save(1, 1000)
  with (
    _largest_file(100_000),
    pytest.raises(OSError, match=r'cannot be written .* Free some space'),
  ):
    save(2, 100_000)
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    found = checkpointer.restore_or(jax.tree.map(jnp.zeros_like, saved))
  np.testing.assert_array_equal(found['x'], saved['x'])


@pytest.mark.parametrize('text', ['[]', '3', 'null', '"x"', '{', '\xff'])
def test_settings_of_another_shape_are_named(tmp_path, text):
  (tmp_path / 'config.json').write_text(text, encoding='latin-1')
  with pytest.raises(ValueError, match=r'config\.json is not JSON'):
    claim_workdir(LoopOptions(tmp_path), DistillationConfig())


def test_a_setting_that_is_newer_than_the_workdir_was_at_its_default(tmp_path):
  options = LoopOptions(tmp_path)
  claim_workdir(options, DistillationConfig())
  path = tmp_path / 'config.json'
  settings = json.loads(path.read_text())
  del settings['short_classes']
  path.write_text(json.dumps(settings))
  claim_workdir(options, DistillationConfig())
  with pytest.raises(ValueError, match=r'short_classes: .error. there'):
    claim_workdir(options, DistillationConfig(short_classes='noise'))


def test_a_workdir_of_other_versions_is_told(tmp_path, recwarn):
  options = LoopOptions(tmp_path)
  claim_workdir(options, DistillationConfig())
  claim_workdir(options, DistillationConfig())
  assert not recwarn
  path = tmp_path / 'config.json'
  settings = json.loads(path.read_text())
  settings['versions']['jax'] = '0.0.1'
  path.write_text(json.dumps(settings))
  with pytest.warns(UserWarning, match=r"jax: '0\.0\.1' there"):
    claim_workdir(options, DistillationConfig())
  # Written before versions were noted.
  del settings['versions']
  path.write_text(json.dumps(settings))
  recwarn.clear()
  claim_workdir(options, DistillationConfig())
  assert not recwarn


def test_a_resumed_stage_adds_its_seconds_to_those_before(tmp_path):
  def run(losses):
    options, clock = with_clock(LoopOptions(tmp_path, 2, 1))
    with clock.part('count'):
      time.sleep(0.3)
      _run(options, losses, 4)
    return clock

  with pytest.raises(FloatingPointError):
    run([1.0, 1.0, 1.0, np.nan])
  # What the run had spent at its last checkpoint.
  _, clock = with_clock(LoopOptions(tmp_path))
  before = clock.seconds()['count']
  assert before >= 0.3
  assert run([1.0] * 4).seconds()['count'] >= before + 0.3
  runs = metrics.read_seconds(tmp_path / 'seconds.jsonl')
  assert [run['count'] > 0 for run in runs] == [True, True]


def test_a_home_folder_and_no_remote_one(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert LoopOptions('~/runs').workdir == tmp_path / 'runs'
  with pytest.raises(ValueError, match='no local path'):
    LoopOptions('gs://bucket/runs')
