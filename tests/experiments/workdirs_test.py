"""A work directory is that of one run, for every method."""

import functools

import numpy as np
import pytest

import toy
from binaries import run
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.runtime import files, metrics
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage import distilled_set
from workbench.methods import METHODS

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
  command = (
    *('distill.py', *_DATA, '--method=random_real', '--ipc=12'),
    f'--workdir={tmp_path}/a',
  )
  result = run(*command)
  assert 'set short_classes to repeat or noise' in result.stderr
  result = run(*command, '--short_classes=repeat')
  assert result.returncode == 0, result.stderr
  path = tmp_path / 'a' / 'distilled.safetensors'
  assert distilled_set.read_distilled(path).images.shape[0] == 36


@pytest.mark.parametrize('name', ['random_real', 'herding', 'k_centre'])
def test_too_few_images_to_choose_from_leave_the_workdir_free(name, tmp_path):
  network, dataset, _ = toy.problem()
  assert dataset.images.shape[0] == 24  # 8 a class.
  select = functools.partial(
    METHODS[name].run,
    network,
    toy.target(),
    own=None,
    options=LoopOptions(tmp_path),
    start=None,
  )
  with pytest.raises(ValueError, match='has 8 images, fewer than ipc = 9'):
    select(config=DistillationConfig(ipc=9))
  found = select(config=DistillationConfig(ipc=8)).synthetic
  assert found.images.shape[0] == 24


@pytest.mark.slow
def test_what_adapt_refuses_leaves_its_workdir_free(tmp_path):
  command = (
    *('adapt.py', *_DATA, '--translator=none', '--translator_width=2'),
    *('--translator_blocks=0', '--adapt_ipcs=1', '--ipcs=12'),
    *('--num_adaptation_steps=0', f'--workdir={tmp_path}/run'),
  )
  result = run(*command)
  assert 'set short_classes to repeat or noise' in result.stderr
  assert not (tmp_path / 'run').exists()
  result = run(*command, '--short_classes=repeat')
  assert result.returncode == 0, result.stderr


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


@pytest.mark.slow
def test_sets_in_theta_begin_with_files_that_are_given(tmp_path):
  chosen = run(
    *('distill.py', *_DATA, '--method=herding', '--ipc=1'),
    f'--workdir={tmp_path}/herding',
  )
  assert chosen.returncode == 0, chosen.stderr
  path = tmp_path / 'herding' / 'distilled.safetensors'
  command = (
    *('adapt.py', *_DATA, '--translator=none', '--translator_width=2'),
    *('--translator_blocks=0', '--num_adaptation_steps=0', f'--start={path}'),
  )
  refused = run(*command, '--adapt_ipcs=2', f'--workdir={tmp_path}/own')
  assert 'has 1 images a class; give one file for an IPC of 2' in refused.stderr
  for name, further in (('own', ()), ('still', ('--learning_rate=1e-9',))):
    made = run(
      *(*command, *further),
      *('--adapt_ipcs=1', f'--workdir={tmp_path}/{name}'),
    )
    assert made.returncode == 0, made.stderr
  still, own = (
    distilled_set.read_distilled(tmp_path / name / 'in_theta_ipc1.safetensors')
    for name in ('still', 'own')
  )
  given = distilled_set.read_distilled(path)
  np.testing.assert_allclose(still.images, given.images, atol=1e-6)
  assert np.abs(own.images - given.images).max() > 1e-3
  assert own.metadata.recipe['start'] == [str(path)]
