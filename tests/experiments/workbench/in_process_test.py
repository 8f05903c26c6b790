"""Programs that run in this process, as if each had its own."""

import os
import signal
import sys
import tempfile

import jax
import pytest
from absl import flags

from fsdd_jax.runtime import preemption
from workbench import in_process, recipes, tasks

_PROGRAM = """
import os, signal, sys, tempfile
import jax
from absl import app, flags
from fsdd_jax.runtime import preemption
{defined}
def main(arguments):
  preemption.install()
  jax.config.update('jax_debug_nans', True)
  tempfile.tempdir = 'elsewhere'
  print(arguments[1:], flags.FLAGS.flag_values_dict().get('some'))
  {body}
app.run(main)
"""


@pytest.fixture
def program(tmp_path):
  """Writes a program with a body; returns the command that runs it."""

  def write(body='pass', defined="flags.DEFINE_integer('some', 1, '')"):
    path = tmp_path / 'program.py'
    path.write_text(_PROGRAM.format(body=body, defined=defined))
    return [sys.executable, str(path)]

  return write


def test_each_run_has_flags_and_arguments_of_its_own(program, capsys):
  command = program()
  before = sys.argv, set(flags.FLAGS)
  for given in (['--some=2', 'x'], ['y']):
    assert in_process.run([*command, *given]) == 0
  assert capsys.readouterr().out == "['x'] 2\n['y'] 1\n"
  assert (sys.argv, 'some' in flags.FLAGS) == (before[0], False)
  assert before[1] <= set(flags.FLAGS)


def test_a_program_does_not_see_the_flags_of_ours(program, capsys):
  command = program(defined='')
  values = flags.FLAGS  # As a table defines it.
  flags.DEFINE_integer('some', 7, '', module_name=recipes.__name__)
  try:
    assert in_process.run(command) == 0
    assert capsys.readouterr().out == '[] None\n'
    assert values['some'].default == 7
  finally:
    delattr(values, 'some')


def test_what_a_program_changes_is_put_back(program):
  kinds = signal.SIGTERM, signal.SIGINT
  before = [signal.getsignal(kind) for kind in kinds]
  folder, settings = tempfile.gettempdir(), dict(jax.config.values)
  assert in_process.run(program()) == 0
  assert [signal.getsignal(kind) for kind in kinds] == before
  assert tempfile.gettempdir() == folder
  assert dict(jax.config.values) == settings


@pytest.mark.parametrize(
  ('body', 'status', 'message'),
  [
    ('sys.exit(3)', 3, ''),
    ("sys.exit('It failed.')", 1, 'It failed.'),
    ("raise KeyError('this')", 1, "KeyError: 'this'"),
  ],
)
def test_it_ends_with_the_status_of_a_process(
  program, capsys, body, status, message
):
  assert in_process.run(program(body)) == status
  assert message in capsys.readouterr().err


@pytest.mark.parametrize('outer', [None, '7'])
def test_sigterm_ends_a_table_with_its_task(program, monkeypatch, outer):
  monkeypatch.delenv(preemption.STATUS_VARIABLE, raising=False)
  if outer:
    monkeypatch.setenv(preemption.STATUS_VARIABLE, outer)
  command = program('os.kill(os.getpid(), signal.SIGTERM)')
  with pytest.raises(SystemExit) as ended:
    tasks.run_here(command)
  assert ended.value.code == int(outer or 0)
  assert os.environ.get(preemption.STATUS_VARIABLE) == outer


def test_a_task_may_run_here(program, tmp_path):
  path = tmp_path / 'made'
  command = program(f'open({str(path)!r}, "a").write("x")')
  task = tasks.Task('one', command[1], ('{out}',))
  assert tasks.run([task], tmp_path / 'root', tasks.run_here) == [task]
  assert tasks.run([task], tmp_path / 'root', tasks.run_here) == []
  assert path.read_text() == 'x'
  bad = tasks.Task('bad', program('sys.exit(3)')[1], ('{out}',))
  with pytest.raises(ChildProcessError, match='bad ended with status 3'):
    tasks.run([bad], tmp_path / 'root', tasks.run_here)
