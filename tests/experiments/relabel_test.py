"""New labels for a set that is there: what they serve, and what is refused."""

import json
import pathlib

import numpy as np
import pytest

import binaries
from fsdd_jax.storage import distilled_set

_SET = (
  *('distill.py', '--method=random_real', '--dataset=digits', '--limit=300'),
  *('--width=8', '--norm=none', '--ipc=2'),
)


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  """The file of real images with the labels of their classes."""
  workdir = tmp_path_factory.mktemp('real')
  result = binaries.run(*_SET, f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  return workdir / 'distilled.safetensors'


def _relabel(real, output, *flags):
  return binaries.run('relabel.py', real, f'--output={output}', *flags)


def test_real_images_score_higher_with_new_labels(real, tmp_path):
  path = tmp_path / 'new' / 'relabelled.safetensors'
  result = _relabel(real, path, '--label_networks=4', '--label_images=0')
  assert result.returncode == 0, result.stderr
  assert 'random real, labels(4): ' in result.stdout
  before, after = map(distilled_set.read_distilled, (real, path))
  np.testing.assert_array_equal(after.images, before.images)
  about = after.metadata
  assert about.label_coding == 'learned'
  assert about.recipe['method'] == 'random real, labels(4)'
  assert about.recipe['labels']['networks'] == 4
  assert path.with_suffix('.png').exists()
  scored = binaries.run('evaluate.py', path, '--repeats=3')
  assert scored.returncode == 0, scored.stderr
  rows = json.loads(pathlib.Path(f'{path}.scores.json').read_text())['scores']
  fitted = rows['random real, labels(4)'][0]['mean']
  assert fitted > rows['random real'][0]['mean'] + 3


def test_each_setting_of_relabel_reaches_the_labels(real, tmp_path):
  given = {'label_networks': 2, 'label_images': 40, 'seed': 0}
  changes = ({}, {'label_networks': 3}, {'label_images': 50}, {'seed': 1})
  found = []
  for number, change in enumerate(changes):
    path = tmp_path / f'{number}.safetensors'
    flags = [f'--{name}={value}' for name, value in (given | change).items()]
    result = _relabel(real, path, *flags)
    assert result.returncode == 0, result.stderr
    found.append(distilled_set.read_distilled(path).labels)
  for labels in found[1:]:
    assert np.abs(labels - found[0]).max() > 1e-3


def test_distillation_may_end_with_labels(real, tmp_path):
  workdir = tmp_path / 'run'
  result = binaries.run(
    *_SET,
    *(f'--workdir={workdir}', '--label_networks=2', '--label_images=40'),
  )
  assert result.returncode == 0, result.stderr
  plain = (workdir / 'distilled.safetensors').read_bytes()
  assert plain == real.read_bytes()
  fitted = distilled_set.read_distilled(workdir / 'fitted.safetensors')
  path = tmp_path / 'relabelled.safetensors'
  _relabel(real, path, '--label_networks=2', '--label_images=40')
  relabelled = distilled_set.read_distilled(path)
  np.testing.assert_array_equal(fitted.labels, relabelled.labels)
  method = 'random real, labels(2)'
  assert fitted.metadata.recipe['method'] == method
  assert method in result.stdout


@pytest.mark.parametrize('name', ['distilled.safetensors', 'labels.npz'])
def test_an_output_that_would_be_lost_or_misread_is_refused(real, name):
  before = real.read_bytes()
  result = _relabel(real, real.with_name(name))
  assert result.returncode != 0
  assert 'another file' in result.stderr
  assert real.read_bytes() == before
  assert not real.with_name('labels.npz').exists()
