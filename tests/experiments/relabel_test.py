"""New labels for a set that is there: what they serve, and what is refused."""

import dataclasses
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
  assert about.recipe['labels'] == {'label_networks': 4, 'label_images': 0}
  assert about.seeds['labels'] == 0
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
  seconds = (workdir / 'seconds.jsonl').read_text()
  files = (workdir / 'distilled.safetensors', workdir / 'fitted.safetensors')
  before = [path.read_bytes() for path in files]
  again = _SET[0], *_SET[1:], f'--workdir={workdir}', '--label_networks=2'
  other = binaries.run(*again, '--label_images=50')
  assert other.returncode != 0
  assert 'label_images: 40 there, 50 now' in other.stderr
  same = binaries.run(*again, '--label_images=40')
  assert same.returncode == 0, same.stderr
  assert 'is there already' in same.stdout
  assert [path.read_bytes() for path in files] == before
  # Labels were not fitted again, so their seconds stay.
  fitted_once = [line for line in seconds.splitlines() if 'labels' in line]
  last = (workdir / 'seconds.jsonl').read_text().splitlines()
  assert [line for line in last if 'labels' in line] == fitted_once


def test_labels_have_the_coding_of_the_set(real, tmp_path):
  one_hot = distilled_set.read_distilled(real)
  labels = np.repeat(np.eye(10, dtype=np.float32), 2, axis=0)
  metadata = dataclasses.replace(one_hot.metadata, label_coding='onehot')
  path = tmp_path / 'onehot.safetensors'
  distilled_set.save_distilled(
    path, dataclasses.replace(one_hot, labels=labels, metadata=metadata)
  )
  output = tmp_path / 'relabelled.safetensors'
  result = _relabel(path, output, '--label_networks=4', '--label_images=200')
  assert result.returncode == 0, result.stderr
  found = distilled_set.read_distilled(output).labels
  assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(labels), 1e-3)
  # Those of centred labels have sums near zero.
  assert found.sum() / np.abs(found).sum() > 0.2


def test_a_set_that_names_no_network_or_has_other_images_is_refused(
  real, tmp_path
):
  known = distilled_set.read_distilled(real)
  nameless = dataclasses.replace(known.metadata, network={})
  images = np.repeat(known.images, 2, axis=1)
  for changes, named in (
    ({'metadata': nameless}, 'does not name the network'),
    ({'images': images}, 'images of shape (16, 8, 1)'),
  ):
    path = tmp_path / 'set.safetensors'
    distilled_set.save_distilled(path, dataclasses.replace(known, **changes))
    result = _relabel(path, tmp_path / 'out.safetensors')
    assert result.returncode != 0
    assert named in result.stderr
  result = _relabel(real, tmp_path / 'out.safetensors', '--label_networks=0')
  assert 'fits nothing' in result.stderr


@pytest.mark.parametrize('name', ['distilled.safetensors', 'labels.npz'])
def test_an_output_that_would_be_lost_or_misread_is_refused(real, name):
  before = real.read_bytes()
  linked = real.parent / '..' / real.parent.name / name
  result = _relabel(real, linked)
  assert result.returncode != 0
  assert 'another file' in result.stderr
  assert real.read_bytes() == before
  assert not real.with_name('labels.npz').exists()
