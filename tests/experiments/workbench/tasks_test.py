"""Tasks run once, in order, and again only if what shapes them changed."""

import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from PIL import Image

from workbench import tasks
from workbench.columns import Recipe
from workbench.tasks import Task

_BINARY = """
import pathlib, sys
out, *rest = sys.argv[1:]
with open(pathlib.Path(out) / 'runs', 'a') as f:
  f.write(' '.join(rest) + chr(10))
if 'fail' in rest:
  sys.exit('It failed.')
"""


@pytest.fixture
def binary(tmp_path):
  """Notes each of its runs in its folder."""
  path = tmp_path / 'note.py'
  path.write_text(_BINARY)
  return str(path)


def _runs(task, root):
  return (task.folder(root) / 'runs').read_text().splitlines()


def test_a_chain_runs_in_order_and_once(binary, tmp_path):
  first = Task('first', binary, ('{out}', 'a'))
  second = Task('second', binary, ('{out}', '{one}'), {'one': first})
  third = Task('third', binary, ('{out}', '{one}'), {'one': first})
  ran = tasks.run([second, third], tmp_path / 'root')
  assert [task.name for task in ran] == ['first', 'second', 'third']
  assert tasks.run([third, second, first], tmp_path / 'root') == []
  assert _runs(first, tmp_path / 'root') == ['a']
  assert _runs(second, tmp_path / 'root') == [
    str(first.folder(tmp_path / 'root'))
  ]


def test_an_imported_module_is_part_of_a_task(binary, tmp_path, monkeypatch):
  module = tmp_path / 'own_network.py'
  module.write_text('x = 1\n')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(
    sys.modules, 'own_network', importlib.import_module('own_network')
  )
  recipe = Recipe(
    '.', '.', 'tiny', (1,), common_flags=('--import=own_network',)
  )
  task = dataclasses.replace(recipe.task('one', 'note.py', 'a'), binary=binary)
  assert task.command(tmp_path)[2:] == ['a', '--import=own_network']
  before = task.digest
  module.write_text('x = 1  # A comment.\n')
  assert task.digest == before
  module.write_text('x = 2\n')
  assert task.digest != before


def test_a_change_redoes_what_needs_it_alone(binary, tmp_path):
  flagfile = tmp_path / 'some.flags'
  flagfile.write_text('# A comment.\n--rate=1\n')
  one = Task('one', binary, ('{out}', f'--flagfile={flagfile}'))
  needs_one = Task('needs one', binary, ('{out}', '{one}'), {'one': one})
  other = Task('other', binary, ('{out}', 'x'))
  wanted = [needs_one, other]
  tasks.run(wanted, tmp_path / 'root')
  flagfile.write_text('# Another comment.\n\n--rate=1\n')
  assert tasks.run(wanted, tmp_path / 'root') == []
  flagfile.write_text('--rate=2\n')
  ran = tasks.run(wanted, tmp_path / 'root')
  assert [task.name for task in ran] == ['one', 'needs one']


def test_flagfiles_within_flagfiles_count(binary, tmp_path):
  inner, outer = tmp_path / 'inner.flags', tmp_path / 'outer.flags'
  inner.write_text('--rate=1\n')
  outer.write_text(f'--flagfile={inner}\n')
  task = Task('one', binary, (f'--flagfile={outer}',))
  before = task.digest
  inner.write_text('--rate=2\n')
  assert task.digest != before


def test_a_failure_names_the_command_and_is_tried_again(binary, tmp_path):
  good = Task('good', binary, ('{out}',))
  bad = Task('bad', binary, ('{out}', 'fail', '{good}'), {'good': good})
  with pytest.raises(
    ChildProcessError, match=r'bad ended with status 1.*note\.py'
  ):
    tasks.run([bad], tmp_path)
  assert good.is_done(tmp_path)
  assert not bad.is_done(tmp_path)
  with pytest.raises(ChildProcessError, match='bad ended'):
    tasks.run([bad], tmp_path)
  assert len(_runs(good, tmp_path)) == 1
  assert len(_runs(bad, tmp_path)) == 2


@pytest.mark.slow
def test_a_kill_loses_the_task_in_flight_alone(tmp_path):
  slow = tmp_path / 'slow.py'
  slow.write_text(
    'import os, pathlib, signal, sys\n'
    'path = pathlib.Path(sys.argv[1]) / "runs"\n'
    'first = not path.exists()\n'
    'path.open("a").write("run" + chr(10))\n'
    'if first and "die" in sys.argv:\n'
    '  os.kill(os.getppid(), signal.SIGKILL)\n'
  )
  driver = textwrap.dedent(f"""
    from workbench import tasks
    good = tasks.Task('good', {str(slow)!r}, ('{{out}}',))
    dies = tasks.Task('dies', {str(slow)!r}, ('{{out}}', 'die'))
    tasks.run([good, dies], {str(tmp_path)!r})
  """)
  command = [sys.executable, '-c', driver]
  assert subprocess.run(command).returncode == -signal.SIGKILL
  good = Task('good', str(slow), ('{out}',))
  dies = dataclasses.replace(good, name='dies', arguments=('{out}', 'die'))
  assert len(tasks.run([good, dies], tmp_path)) == 1
  assert _runs(good, tmp_path) == ['run']
  assert _runs(dies, tmp_path) == ['run', 'run']
  assert os.path.exists(dies.folder(tmp_path) / 'done.json')


def test_other_data_in_the_same_place_or_elsewhere_redo_it(
  binary, tmp_path, monkeypatch
):
  def write(folder, level):
    for name in 'ab':
      (folder / name).mkdir(parents=True, exist_ok=True)
      image = Image.new('L', (4, 4), level)
      image.save(folder / name / '0.bmp')

  data = tmp_path / 'data'
  write(data, 1)
  task = Task('one', binary, ('{out}', f'--dataset=folder:{data}'))
  other = Task('other', binary, ('{out}', '--dataset=digits'))
  root = tmp_path / 'root'
  tasks.run([task, other], root)
  assert tasks.run([task, other], root) == []
  write(data, 2)
  tasks._fingerprint.cache_clear()  # As in the next program.
  assert tasks.run([task, other], root) == [task]


def test_the_place_of_tfds_data_counts_by_its_files(
  binary, tmp_path, monkeypatch
):
  seen = []

  def fingerprint(name, data_dir):
    seen.append((name, data_dir, os.environ['FSDD_DATA_DIR']))
    return str(seen[-1])

  monkeypatch.setattr(tasks.sources, 'fingerprint', fingerprint)
  flagfile = tmp_path / 'row.flags'
  flagfile.write_text('--dataset=cifar10\n--width=3\n')
  task = Task('one', binary, ('{out}', f'--flagfile={flagfile}'))
  digests = set()
  for folder in ('/one', '/two', '/one'):
    monkeypatch.setenv('FSDD_DATA_DIR', folder)
    digests.add(task.digest)
  assert len(digests) == 2
  assert seen == [('cifar10', None, '/one'), ('cifar10', None, '/two')]


def test_another_content_of_a_file_that_a_flag_names_redoes_it(
  binary, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  given, start = tmp_path / 'given.safetensors', tmp_path / 'start.safetensors'
  flagfile = tmp_path / 'some.flags'
  flagfile.write_text(f'--start={start}\n')
  task = Task(
    'one', binary, ('{out}', '--translator=~/given.safetensors',
                    '--flagfile=~/some.flags'),
  )  # fmt: skip
  root = tmp_path / 'root'
  for path in (given, start):
    path.write_bytes(b'1')
  assert tasks.run([task], root) == [task]
  for path in (given, start):
    assert tasks.run([task], root) == []
    path.write_bytes(b'2')
    assert tasks.run([task], root) == [task]


def test_a_shipped_translator_counts_by_its_content(tmp_path, monkeypatch):
  task = Task('one', 'a.py', ('--translator=tiny_imagenet_32',))
  other = Task('two', 'a.py', ('--dataset=digits',))
  before, same = task.digest, other.digest
  (tmp_path / 'other').write_bytes(b'other weights')
  monkeypatch.setattr(tasks.zoo, 'path_of', lambda name: tmp_path / 'other')
  assert task.digest != before
  assert other.digest == same


def test_a_deleted_or_changed_output_redoes_it(binary, tmp_path):
  one = Task('one', binary, ('{out}',))
  two = Task('two', binary, ('{out}', '{one}'), {'one': one})
  tasks.run([two], tmp_path)
  (one.folder(tmp_path) / 'runs').unlink()
  assert tasks.run([two], tmp_path) == [one]
  with (one.folder(tmp_path) / 'runs').open('a') as file:
    file.write('by hand')
  assert tasks.run([two], tmp_path) == [one]
  # What a task keeps for itself may change, and a damaged note is none.
  (one.folder(tmp_path) / 'checkpoints').mkdir()
  (one.folder(tmp_path) / 'checkpoints' / 'x').write_text('x')
  assert tasks.run([two], tmp_path) == []
  (one.folder(tmp_path) / 'done.json').write_text('[]')
  assert tasks.run([two], tmp_path) == [one]


def test_another_code_redoes_it_but_no_comment(binary, tmp_path, monkeypatch):
  task = Task('one', binary, ('{out}',))
  tasks.run([task], tmp_path)
  path = tmp_path / 'note.py'
  path.write_text('"""A docstring."""\n# A comment.' + _BINARY)
  assert tasks.run([task], tmp_path) == []
  path.write_text(_BINARY + 'x = 1\n')
  assert tasks.run([task], tmp_path) == [task]
  monkeypatch.setattr(tasks, '_package', lambda: ['another jax'])
  assert tasks.run([task], tmp_path) == [task]
