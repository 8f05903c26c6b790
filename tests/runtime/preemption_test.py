"""SIGTERM ends a program with a word, after the step under way."""

import signal
import subprocess
import sys
import textwrap

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from fsdd_jax.runtime import preemption
from fsdd_jax.runtime.loop import Loop, LoopOptions
from workbench import tasks


@pytest.fixture(autouse=True)
def _installed():
  kinds = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
  before = [signal.getsignal(kind) for kind in kinds]
  signal.signal(signal.SIGHUP, signal.SIG_DFL)  # As the tests may have nohup.
  preemption.install()
  yield
  list(map(signal.signal, kinds, before))


@flax.struct.dataclass
class _State:
  step: jax.Array


def _count(num_steps, workdir, on_log=None):
  """Counts in a stage; returns the steps that it did."""
  options = LoopOptions(
    workdir, checkpoint_every=100, log_every=1, progress_fn=on_log
  )
  done = []
  start = _State(jnp.zeros((), jnp.int32))
  with Loop('count', start, num_steps=num_steps, options=options) as loop:
    for step in loop:
      done.append(step + 1)
      loop.state = _State(jnp.int32(step + 1))
      loop.metrics = {'loss': jnp.ones(())}
  return done


def test_outside_of_a_stage_it_ends_at_once(capsys):
  with pytest.raises(SystemExit) as error:
    signal.raise_signal(signal.SIGTERM)
  assert error.value.code == 0
  assert 'Stopped by SIGTERM. What was saved' in capsys.readouterr().err


def test_a_second_signal_while_it_ends_changes_nothing(capsys):
  with pytest.raises(SystemExit):
    signal.raise_signal(signal.SIGINT)
  signal.raise_signal(signal.SIGINT)
  signal.raise_signal(signal.SIGTERM)
  assert capsys.readouterr().err.count('Stopped by Ctrl-C.') == 1


def test_ctrl_c_twice_within_a_step_saves_that_step(tmp_path, capsys):
  def on_log(done, values):
    if done == 2:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(SystemExit) as error:
    _count(4, tmp_path, on_log)
  assert error.value.code == 0
  assert capsys.readouterr().err.count('Stopped by Ctrl-C. Step 3') == 1
  preemption.install()
  assert _count(4, tmp_path) == [4]


def test_a_terminal_that_closes_saves_the_step(tmp_path, capsys):
  def on_log(done, values):
    if done == 2:
      signal.raise_signal(signal.SIGHUP)

  with pytest.raises(SystemExit) as error:
    _count(4, tmp_path, on_log)
  assert error.value.code == 0
  assert 'Stopped by SIGHUP. Step 3' in capsys.readouterr().err
  assert _count(4, tmp_path) == [4]


def test_a_program_under_nohup_goes_on():
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  preemption.install()
  signal.raise_signal(signal.SIGHUP)
  assert not preemption.requested()


def test_who_started_the_program_may_ask_for_another_status(monkeypatch):
  monkeypatch.setenv(preemption.STATUS_VARIABLE, '75')
  with pytest.raises(SystemExit, match='75'):
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize('signalled', [2, 4])
def test_a_stage_saves_the_step_and_goes_on_from_it(
  tmp_path, capsys, signalled
):
  def on_log(done, values):
    if done == signalled:
      signal.raise_signal(signal.SIGTERM)

  with pytest.raises(SystemExit) as error:
    _count(4, tmp_path, on_log)
  assert error.value.code == 0
  told = capsys.readouterr().err
  # Noted within step 2, it is obeyed after step 3; after the last, at the end.
  assert 'saved; give the same command' in told
  assert _count(4, tmp_path) == ([4] if signalled == 2 else [])
  assert not preemption.requested()


def test_without_a_workdir_it_says_that_nothing_is_saved(capsys):
  with pytest.raises(SystemExit):
    _count(4, None, lambda done, values: signal.raise_signal(signal.SIGTERM))
  assert 'Step 2 of "count" is not saved' in capsys.readouterr().err


@pytest.mark.slow
def test_a_list_of_tasks_tells_the_running_one(tmp_path):
  binary = tmp_path / 'binary.py'
  binary.write_text(
    'import os, pathlib, signal, sys, time\n'
    'from fsdd_jax.runtime import preemption\n'
    'preemption.install()\n'
    'runs = pathlib.Path(sys.argv[1]) / "runs"\n'
    'runs.open("a").write("run" + chr(10))\n'
    'if len(runs.read_text().splitlines()) == 1:\n'
    '  os.kill(os.getppid(), signal.SIGTERM)\n'
    '  time.sleep(60)\n'
  )
  driver = textwrap.dedent(f"""
    from workbench import tasks
    from fsdd_jax.runtime import preemption
    preemption.install()
    task = tasks.Task('waits', {str(binary)!r}, ('{{out}}',))
    print(len(tasks.run([task], {str(tmp_path)!r})), 'done')
  """)
  first = subprocess.run(
    [sys.executable, '-c', driver], capture_output=True, text=True, timeout=50
  )
  assert first.returncode == 0, first.stderr
  assert first.stderr.count('Stopped by SIGTERM') == 2  # Both say so.
  assert 'done' not in first.stdout
  task = tasks.Task('waits', str(binary), ('{out}',))
  assert len(tasks.run([task], tmp_path)) == 1
