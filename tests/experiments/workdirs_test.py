"""A work directory is that of one run, for every method."""

import pytest

from binaries import run
from fsdd_jax.runtime import files, metrics
from fsdd_jax.storage import distilled_set

_DATA = (
  *('--dataset=fractals:3', '--limit=30', '--image_size=8', '--width=4'),
  '--num_steps=1',
)


def _contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('method', ['random_real', 'herding'])
def test_chosen_images_of_other_settings_are_not_written_over(method, tmp_path):
  command = ('distill.py', *_DATA, f'--workdir={tmp_path}')
  first = run(*command, f'--method={method}', '--ipc=1')
  assert first.returncode == 0, first.stderr
  before = _contents(tmp_path)
  for other, message in (
    ((f'--method={method}', '--ipc=2'), 'ipc: 1 there, 2 now'),
    (('--method=k_centre', '--ipc=1'), "'k-centre' now"),
    (('--ipc=1',), 'method: '),
  ):
    result = run(*command, *other)
    assert result.returncode == 1
    assert message in result.stderr
  assert _contents(tmp_path) == before
  with files.lock(tmp_path):
    result = run(*command, f'--method={method}', '--ipc=1')
  assert 'Another program works in this folder' in result.stderr


def test_a_finished_command_leaves_the_scores_of_its_set(tmp_path):
  command = (
    *('distill.py', *_DATA, '--method=random_real', '--ipc=1'),
    f'--workdir={tmp_path}',
  )
  path = tmp_path / 'distilled.safetensors'
  assert run(*command).returncode == 0
  score = {
    **{'protocol': 'krr', 'network': 'ConvNet', 'split': 'test'},
    **{'accuracies': [50.0], 'mean': 50.0, 'std': None, 'n': 1},
  }
  distilled_set.add_scores(path, [score])
  before = path.read_bytes()
  assert run(*command).returncode == 0
  assert path.read_bytes() == before
  # A damaged or another set is written anew.
  path.write_bytes(before[:-1])
  assert run(*command).returncode == 0
  assert distilled_set.read_distilled(path).metadata.scores == ()


def test_short_classes_start_from_what_the_flag_says(tmp_path):
  command = ('distill.py', *_DATA, '--method=random_real', '--ipc=12')
  result = run(*command, f'--workdir={tmp_path}/a')
  assert 'set short_classes to repeat or noise' in result.stderr
  result = run(*command, '--short_classes=repeat', f'--workdir={tmp_path}/b')
  assert result.returncode == 0, result.stderr
  path = tmp_path / 'b' / 'distilled.safetensors'
  assert distilled_set.read_distilled(path).images.shape[0] == 36


@pytest.mark.slow
def test_another_translator_takes_no_seconds_and_files_of_the_first(tmp_path):
  command = (
    *('adapt.py', *_DATA, '--translator=none', '--translator_width=2'),
    *('--translator_blocks=0', '--adapt_ipcs=1', f'--workdir={tmp_path}'),
  )
  still = '--num_adaptation_steps=0'
  first = run(*command, still)
  assert first.returncode == 0, first.stderr
  before = _contents(tmp_path)
  for other, message in (
    ((still, '--head_scale=1'), 'translator_sha256'),
    (('--num_adaptation_steps=1',), 'num_adaptation_steps: 0 there, 1 now'),
  ):
    result = run(*command, *other)
    assert result.returncode == 1
    assert message in result.stderr
  assert _contents(tmp_path) == before
  further = run(*command, still, '--ipcs=2')
  assert further.returncode == 0, further.stderr
  assert (tmp_path / 'distilled_ipc2.safetensors').exists()
  (once, twice) = metrics.read_seconds(tmp_path / 'seconds.jsonl')
  assert 'distillation, IPC 2' not in once
  assert twice['distillation, IPC 2'] > 0
