"""Binaries keep what they worked for: pipes, terminals, signals, full disks."""

import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest

import binaries
import toy
from binaries import EXPERIMENTS, command, run
from fsdd_jax.runtime import files, metrics
from fsdd_jax.storage import distilled_set
from fsdd_jax.storage.cache import shards
from workbench import problems, tasks

_DISTILL = ('distill.py', '--dataset=digits', '--limit=50', '--ipc=1')
_SMALL = ('--width=4', '--checkpoint_every=10', '--log_every=1')


@pytest.fixture(scope='module')
def distilled(tmp_path_factory):
  """The folder of a distilled set of digits."""
  folder = tmp_path_factory.mktemp('digits')
  result = run(*_DISTILL, *_SMALL, '--num_steps=2', f'--workdir={folder}')
  assert result.returncode == 0, result.stderr
  return folder


def _scores(path):
  return json.loads(pathlib.Path(f'{path}.scores.json').read_text())['scores']


_QUICK = ('--repeats=2', '--norandom_real')


@pytest.mark.slow
def test_scores_are_kept_when_nobody_reads_them(distilled, tmp_path):
  path = tmp_path / 'set.safetensors'
  shutil.copy(distilled / 'distilled.safetensors', path)
  text = ' '.join(command('evaluate.py', path, *_QUICK))
  result = subprocess.run(
    f'set -o pipefail; {text} 2>{tmp_path}/err | true',
    shell=True,
    executable='/bin/bash',
    env=os.environ | {'PYTHONUNBUFFERED': '1'},
  )
  assert result.returncode == 0, (tmp_path / 'err').read_text()
  assert _scores(path)['1 Net'][0]['n'] == 2
  assert 'Error' not in (tmp_path / 'err').read_text()


@pytest.mark.slow
def test_scores_are_kept_and_shown_on_a_terminal_of_ascii(distilled, tmp_path):
  path = tmp_path / 'set.safetensors'
  shutil.copy(distilled / 'distilled.safetensors', path)
  result = binaries.run_alone(
    'evaluate.py', path, *_QUICK, PYTHONIOENCODING='ascii'
  )
  assert result.returncode == 0, result.stderr
  assert ' ? ' in result.stdout  # The sign of the deviation.
  assert _scores(path)['1 Net'][0]['n'] == 2


def test_paths_of_a_home_and_of_a_bucket(tmp_path, monkeypatch):
  flags = (*_DISTILL, *_SMALL, '--num_steps=1')
  home = tmp_path / 'home'
  monkeypatch.setenv('HOME', str(home))
  monkeypatch.chdir(tmp_path)
  result = run(*flags, '--workdir=~/runs')
  assert result.returncode == 0, result.stderr
  assert (home / 'runs' / 'distilled.safetensors').exists()
  remote = run(*flags, '--workdir=gs://bucket/run')
  assert remote.returncode == 1
  assert "error: 'gs://bucket/run' is no local path" in remote.stderr
  assert 'Traceback' not in remote.stderr
  assert [p.name for p in tmp_path.iterdir()] == ['home']


def test_a_set_whose_folder_moved_is_scored_where_it_is_now(tmp_path):
  from PIL import Image

  for split in ('train', 'test'):
    for name, level in (('dark', 30), ('light', 220)):
      folder = tmp_path / 'first' / split / name
      folder.mkdir(parents=True)
      for number in range(4):
        image = Image.new('L', (8, 8), level + 5 * number)
        image.putpixel((number, 3), 255 - level)
        image.save(folder / f'{number}.png')
  result = run(
    'distill.py', f'--dataset=folder:{tmp_path}/first', '--ipc=1',
    '--width=4', '--norm=none', '--num_steps=1',
    f'--workdir={tmp_path}/run',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  (tmp_path / 'first').rename(tmp_path / 'second')
  path = tmp_path / 'run' / 'distilled.safetensors'
  lost = run('evaluate.py', path, *_QUICK)
  assert lost.returncode == 1
  assert 'There is no folder' in lost.stderr
  assert 'give --dataset' in lost.stderr
  moved = run(
    'evaluate.py', path, *_QUICK, f'--dataset=folder:{tmp_path}/second'
  )
  assert moved.returncode == 0, moved.stderr
  assert _scores(path)['1 Net'][0]['mean'] == 100.0
  (tmp_path / 'second/train/dark').rename(tmp_path / 'second/train/black')
  (tmp_path / 'second/test/dark').rename(tmp_path / 'second/test/black')
  other = run(
    'evaluate.py', path, *_QUICK, f'--dataset=folder:{tmp_path}/second'
  )
  assert other.returncode == 1
  assert "has the classes ('black', 'light'), the set" in other.stderr


def test_a_set_written_from_python_asks_for_its_data(tmp_path, monkeypatch):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, toy.distilled())
  result = run('evaluate.py', path, *_QUICK)
  assert result.returncode == 1
  assert 'does not say how its data were loaded' in result.stderr
  assert 'Give --dataset' in result.stderr
  # Its network is described as Python does, by the fields of the module.
  monkeypatch.setattr(problems, 'load_dataset', lambda *_: toy.problem()[1])
  result = run('evaluate.py', path, *_QUICK, '--dataset=toy')
  assert result.returncode == 0, result.stderr
  assert 'width=4' in _scores(path)['first image'][0]['network']


def _started(folder, *further):
  """A long run that has begun its steps."""
  process = subprocess.Popen(
    command(*_DISTILL, *_SMALL, '--num_steps=100000', *further,
            f'--workdir={folder}'),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip
  log = folder / 'metrics.jsonl'
  for _ in range(6000):
    if log.exists() and len(log.read_bytes().splitlines()) > 20:
      return process
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.05)
  raise AssertionError('It did not begin.')


@pytest.mark.slow
def test_ctrl_c_twice_saves_as_sigterm_does(tmp_path):
  process = _started(tmp_path)
  process.send_signal(signal.SIGINT)
  time.sleep(0.05)
  process.send_signal(signal.SIGINT)
  _, told = process.communicate(timeout=120)
  assert process.returncode == 0, told
  words = [line for line in told.splitlines() if 'Ctrl-C' in line]
  assert len(words) == 1
  assert 'is saved; give the same command to go on' in words[0]
  assert 'Traceback' not in told
  # The step, and the seconds of all that was done.
  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert max(steps) == rows[-1]['step']
  (seconds,) = metrics.read_seconds(tmp_path / 'seconds.jsonl')
  assert seconds['distillation'] > 0


@pytest.mark.slow
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

  result = subprocess.run(
    command(*_DISTILL, *_SMALL, '--num_steps=400', f'--workdir={tmp_path}'),
    capture_output=True,
    text=True,
    preexec_fn=limit,
    env=os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},
  )
  assert result.returncode == 1
  lines = re.split(r'[\r\n]+', result.stderr)
  lines = [x for x in lines if '%|' not in x and len(x.strip()) > 9]
  assert len(lines) == 1, result.stderr
  assert lines[0].startswith('error: ')
  assert str(tmp_path) in lines[0]


def test_scores_that_cannot_be_written_are_shown(tmp_path, monkeypatch):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, toy.distilled())
  monkeypatch.setattr(problems, 'load_dataset', lambda *_: toy.problem()[1])

  def full(place, data):
    raise OSError(28, 'No space left on device', str(place))

  monkeypatch.setattr(files, 'write_bytes_atomic', full)
  result = run('evaluate.py', path, *_QUICK, '--dataset=toy')
  assert result.returncode == 1
  assert 'No space left' in result.stderr
  assert '| first image | krr' in result.stdout


def test_two_programs_that_make_one_shard_are_told_of_each_other(tmp_path):
  made = toy.build_cache(tmp_path / 'made')
  entries = [made[number] for number in made.manifest.shard_range(0)]
  first = shards.CacheWriter(tmp_path / 'cache', made.manifest)
  second = shards.CacheWriter(tmp_path / 'cache', made.manifest)

  def slowly():
    with pytest.raises(BlockingIOError, match='Another program works'):
      second.write_shard(0, entries)
    second.write_shard(1, [made[n] for n in made.manifest.shard_range(1)])
    yield from entries

  first.write_shard(0, slowly())
  assert first.missing_shards() == []
  names = sorted(p.name for p in (tmp_path / 'cache').iterdir())
  assert names == sorted(p.name for p in (tmp_path / 'made').iterdir())
  shards.open_cache(tmp_path / 'cache').verify()


_LARGE = (
  *('--dataset=fractals:3', '--limit=60', '--image_size=8', '--width=4'),
  *('--min_classes=2', '--max_classes=3', '--max_images=12'),
  *('--max_synthetic=6', '--num_steps=1'),
)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('binary', 'flags', 'part'),
  [
    ('bilevel.py', (*_LARGE, '--num_updates=1'), 'bi-level'),
    (
      'pretrain.py',
      (*_LARGE[:4], '--num_steps=1', '--batch_size=1', '--translator_width=2'),
      'pre-training',
    ),
  ],
)
def test_stages_print_the_seconds_of_all_their_runs(
  tmp_path, binary, flags, part
):
  if binary == 'pretrain.py':
    cache = tmp_path / 'cache'
    made = run(
      'cache.py', *_LARGE, '--num_subsets=2', '--augmentation=none',
      f'--folder={cache}',
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    flags = (*flags, f'--cache={cache}')
  path = tmp_path / 'run' / 'seconds.jsonl'
  files.write_bytes_atomic(path, json.dumps({part: 7000.0}).encode() + b'\n')
  result = run(binary, *flags, f'--workdir={path.parent}')
  assert result.returncode == 0, result.stderr
  assert re.search(r' in 7[01]\d\d\.\d s with compilation', result.stdout)
  assert len(metrics.read_seconds(path)) == 2


def test_a_table_keeps_the_seconds_of_a_run_that_was_stopped(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(tasks, '_run', binaries.run_task)
  out = tmp_path / 'tasks'
  task = tasks.Task(
    'one',
    str(EXPERIMENTS / 'distill.py'),
    (*_DISTILL[1:], *_SMALL, '--num_steps=60', '--workdir={out}'),
  )
  folder = task.folder(out)
  folder.mkdir(parents=True)
  earlier = {'distillation': 1000.0, 'compilation': 2.0}
  files.write_bytes_atomic(
    folder / 'seconds.jsonl', json.dumps(earlier).encode() + b'\n'
  )
  tasks.run([task], out)
  total = sum(
    run['distillation']
    for run in metrics.read_seconds(folder / 'seconds.jsonl')
  )
  assert 1000 < total < 1100
