"""What would fail after the work, or be passed over, is refused before it."""

import subprocess

import pytest

import binaries
import toy
from fsdd_jax.evaluation import evaluate
from fsdd_jax.storage import distilled_set
from workbench import command, problems, tasks


def _assert_refused(result, message):
  assert result.returncode != 0
  assert message in result.stderr
  assert 'Traceback' not in result.stderr


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch):
  """Any score or task fails a test."""

  def forbidden(*_, **__):
    raise AssertionError('The work has begun.')

  monkeypatch.setattr(evaluate, 'evaluate', forbidden)
  monkeypatch.setattr(tasks, '_run', forbidden)


_TOY = '--dataset=digits'


@pytest.fixture
def distilled(tmp_path, monkeypatch):
  """A set of the toy problem, whose images any data set gives."""
  monkeypatch.setattr(problems, 'load_dataset', lambda *_: toy.problem()[1])
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, toy.distilled())
  return path


@pytest.mark.parametrize(
  'command_line',
  [
    ('distill.py', '--workdir={0}', 'ipc=10'),
    ('distill.py', '--workdir={0}', '--revisit', 'false'),
    ('cache.py', '--folder={0}', 'num_subsets=1'),
    ('table1.py', '--workdir={0}', 'rows=digits'),
    ('benchmarks/step.py', 'ipc=1'),
    ('evaluate.py', 'a', 'b'),
    ('export.py', '--output={0}'),
    ('relabel.py', '--output={0}'),
    ('strip.py', '--output={0}'),
    ('heldout.py', '--output={0}'),
  ],
)
def test_what_is_no_flag_is_not_passed_over(command_line, tmp_path):
  folder = tmp_path / 'new'
  binary, *arguments = (text.format(folder) for text in command_line)
  _assert_refused(binaries.run(binary, *arguments), 'two dashes')
  assert not folder.exists()


@pytest.mark.parametrize(
  'settings',
  [
    ('--method=networks', '--pool_size=2'),
    ('--method=frepo', '--real_batch=9', '--kernel=ntk'),
    ('--method=herding', '--networks_per_step=2'),
    ('--method=rfad', '--real_batch=9', '--revisit'),
    ('--method=herding', '--loss=platt'),
    ('--method=herding', '--short_classes=repeat'),
    ('--method=random_real', '--jitter=flip'),
  ],
)
def test_settings_of_another_method_are_not_passed_over(settings, tmp_path):
  result = binaries.run(
    'distill.py', '--dataset=digits', *settings, f'--workdir={tmp_path}/new'
  )
  _assert_refused(result, 'which would pass it over')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('method', ['random_real', 'herding', 'kip'])
def test_networks_of_a_method_without_any_are_not_asked_for(method, tmp_path):
  result = binaries.run(
    *('distill.py', '--dataset=digits', f'--method={method}'),
    *('--save_networks', f'--workdir={tmp_path}/new'),
  )
  _assert_refused(result, f'--method={method} distils in none')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('protocols', ['krr,krrr', ''])
def test_protocols_are_looked_at_before_the_first_scores(distilled, protocols):
  result = binaries.run(
    'evaluate.py', distilled, f'--protocols={protocols}', _TOY
  )
  message = "Unknown protocol 'krrr'" if protocols else '--protocols names none'
  _assert_refused(result, message)


def test_a_kernel_that_is_not_there_is_told_before_the_first_scores(distilled):
  result = binaries.run(
    'evaluate.py', distilled, '--protocols=krr,nngp', '--networks=vgg11',
    _TOY,
  )  # fmt: skip
  _assert_refused(result, 'has no kernel here')


def test_a_width_that_does_not_exist_is_told_before_the_first_scores(distilled):
  result = binaries.run(
    'evaluate.py', distilled, '--networks=convnet,resnet18', '--width=8', _TOY
  )
  _assert_refused(result, 'has no width')


def test_a_file_that_cannot_be_written_is_told_before_the_work(
  distilled, tmp_path
):
  (tmp_path / 'file').write_text('')
  result = binaries.run(
    'evaluate.py', distilled, f'--output={tmp_path}/file/x.json', _TOY
  )
  _assert_refused(result, 'Cannot write')
  result = binaries.run(
    'compare.py', '--dataset=digits', '--methods=random_real',
    f'--workdir={tmp_path}/file/x',
  )  # fmt: skip
  _assert_refused(result, 'Cannot write')
  result = binaries.run('quickstart.py', f'--workdir={tmp_path}/file/x')
  _assert_refused(result, 'Cannot write')
  assert result.stdout == ''


@pytest.mark.parametrize(
  ('command_line', 'message'),
  [
    (('table1.py', '--repeats=0'), '--repeats=0'),
    (('table1.py', '--protocols=krrr'), '--protocols=krrr must list'),
    (('table1.py', '--columns='), '--rows and --columns must'),
    (('table1.py', '--ipcs=1,0'), '--ipcs=1,0 must list'),
    (('table1.py', '--ipcs='), '--ipcs= must list'),
    (('table1.py', '--rows=cifar10:0'), "'cifar10:0'; write the IPCs"),
    (('figure2.py', '--seen='), '--seen= must list'),
    (('figure3.py', '--ipcs=1'), 'ipcs'),
    (
      (
        *('few_networks.py', '--translator=tiny_imagenet_32'),
        *('--networks=2,2', '--steps=2,3', '--updates=2,3'),
      ),
      'names a number twice',
    ),
    (
      (
        *('few_networks.py', '--translator=tiny_imagenet_32'),
        *('--networks=1,2', '--steps=2,3'),
      ),
      '--steps 2 and --updates 4; give one of each',
    ),
    (
      (
        *('few_networks.py', '--translator=tiny_imagenet_32'),
        *('--networks=1,4', '--steps=2,2', '--updates=2,2'),
      ),
      '--steps=2,2 has 2 for 4 networks; give at least',
    ),
    (
      (
        *('few_networks.py', '--translator=tiny_imagenet_32'),
        *('--networks=1', '--steps=2', '--updates=0'),
      ),
      '--updates=0 must list',
    ),
    (('figure2.py', '--translator=x'), 'no shipped translator'),
    (('compare.py', '--dataset=digits', '--points=0'), '--points=0'),
    (('compare.py', '--dataset=digits', '--methods='), '--methods names none'),
    (
      ('compare.py', '--dataset=digits', '--end_protocols=krrr'),
      "Unknown protocol 'krrr'",
    ),
    (('quickstart.py', '--repeats=0'), '--repeats=0'),
  ],
)
def test_settings_that_would_fail_in_the_end_are_refused(
  command_line, message, tmp_path
):
  result = binaries.run(*command_line, f'--workdir={tmp_path}/new')
  _assert_refused(result, message)


@pytest.mark.slow
def test_help_that_nobody_reads_ends_quietly():
  for words in (
    binaries.command('distill.py', '--help'),
    [*binaries.command(command.__file__)],
  ):
    result = subprocess.run(
      f'set -o pipefail; {" ".join(words)} | true',
      shell=True,
      executable='/bin/bash',
      capture_output=True,
      text=True,
      env=binaries.os.environ | {'PYTHONUNBUFFERED': '1'},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''


@pytest.mark.parametrize(
  ('flag', 'text', 'is_refused'),
  [
    ('--num_steps=10', '--num_steps=30', True),
    ('--revisit', '--norevisit', True),
    ('--norevisit', '--revisit', True),
    ('--ipc=10', '--num_steps=30', False),
  ],
)
def test_a_flag_before_a_flagfile_that_sets_it(
  flag, text, is_refused, tmp_path, monkeypatch
):
  (tmp_path / 'own.flags').write_text(f'# Some steps.\n{text}\n')
  (tmp_path / 'outer.flags').write_text(
    f'--flagfile={tmp_path / "own.flags"}\n'
  )
  flagfile = f'--flagfile={tmp_path / "outer.flags"}'
  ends = f'--workdir={tmp_path / "new"}', '--ipc=0'  # Is refused, too.
  before = binaries.run('distill.py', flag, flagfile, *ends)
  spaced = binaries.run('distill.py', flag, *flagfile.split('='), *ends)
  assert spaced.stderr == before.stderr
  after = binaries.run('distill.py', flagfile, flag, *ends)
  _assert_refused(before, 'stands before' if is_refused else 'ipc = 0')
  _assert_refused(after, 'ipc = 0')
