"""What is shipped loads, has a card, and is what the card says."""

import doctest
import json
import pathlib
import re

import jax
import numpy as np
import pytest

import binaries
import fsdd_jax
import toy
from fsdd_jax import zoo
from fsdd_jax.networks.translator import translate
from fsdd_jax.types import LabeledSet

_FOLDER = pathlib.Path(zoo.__file__).parent
_sets = pytest.mark.parametrize('name', zoo.distilled_names())


def _score_of(name, protocol):
  (found,) = [
    score
    for score in fsdd_jax.load_distilled(name).metadata.scores
    if (score['protocol'], score['split']) == (protocol, 'test')
  ]
  return found


def test_the_example_runs():
  assert doctest.testmod(zoo).failed == 0


@pytest.mark.parametrize('name', zoo.translator_names())
def test_a_shipped_translator_changes_a_set_a_little(name):
  start = fsdd_jax.load_translator(name)
  shape = (2, *start.theta.image_shape)
  images, noise = jax.random.normal(jax.random.key(0), (2, *shape))
  labeled = LabeledSet(
    images + 0.3 * noise, np.eye(2), np.ones(2), start=images
  )
  out = translate(start.translator, start.variables, labeled, start.maps_of)
  change = float(np.abs(out.images - labeled.images).mean())
  assert 1e-3 < change < 1.0


@pytest.mark.parametrize('name', zoo.translator_names())
def test_a_card_says_how_it_was_made_and_the_file_is_small(name):
  card = zoo.card(name)
  for part in ('experiments/cache.py', 'experiments/pretrain.py', 'licence'):
    assert part in card
  folder = _FOLDER / 'translators'
  assert (folder / f'{name}.safetensors').stat().st_size < 10 * 2**20
  record = fsdd_jax.load_translator(name).record
  assert record['best_heldout_loss'] < record['untranslated_loss']


def test_an_unknown_name_lists_those_there_are():
  with pytest.raises(FileNotFoundError, match='tiny_imagenet_32'):
    fsdd_jax.load_translator('tiny_imagenet_33')


def test_a_file_in_a_home_is_found_and_a_remote_one_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.safetensors').symlink_to(zoo.path_of('tiny_imagenet_32'))
  start = fsdd_jax.load_translator('~/own.safetensors')
  assert start.theta.image_shape == (32, 32, 3)
  with pytest.raises(ValueError, match='no local path'):
    fsdd_jax.load_translator('gs://bucket/own.safetensors')


def test_a_name_goes_before_a_file_and_a_path_is_a_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  fsdd_jax.save_distilled('digits_ipc1', toy.distilled())
  named = fsdd_jax.load_distilled('digits_ipc1')
  assert named.metadata.dataset == 'digits'
  there = fsdd_jax.load_distilled(tmp_path / 'digits_ipc1')
  assert there.metadata.dataset == 'toy'


def test_an_unknown_set_or_card_lists_those_there_are():
  with pytest.raises(FileNotFoundError, match=r'no shipped .* digits_ipc1'):
    fsdd_jax.load_distilled('digits_ipc2')
  with pytest.raises(FileNotFoundError, match='tiny_imagenet_32'):
    zoo.card('digits_ipc2')


def test_the_sets_of_the_readme_are_shipped():
  assert zoo.distilled_names() == (
    'cifar10_ipc1',
    'cifar10_ipc10',
    'digits_ipc1',
  )


@_sets
def test_a_set_is_small_and_its_card_has_its_scores(name):
  path = _FOLDER / 'distilled' / f'{name}.safetensors'
  assert path.stat().st_size < 2 * 2**20
  text = zoo.card(name)
  for part in (f'# `{name}`', 'experiments/distill.py', 'licence'):
    assert part in text
  for protocol in ('krr', 'frepo'):
    score = _score_of(name, protocol)
    shown = f'{score["mean"]:.2f} ± {score["std"]:.2f} (n={score["n"]})'
    assert f'`{protocol}` | {shown}' in text


@_sets
def test_a_set_names_no_folder_of_the_machine_that_made_it(name):
  data = (_FOLDER / 'distilled' / f'{name}.safetensors').read_bytes()
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
  text = header['__metadata__']['fsdd_jax']
  assert not re.search(r'"[^"]*[/~\\][^"]*"', text)
  assert fsdd_jax.load_distilled(name).metadata.recipe['data']['data_dir'] == ''


@_sets
def test_the_command_of_a_card_is_what_the_file_records(name):
  distilled = fsdd_jax.load_distilled(name)
  recipe = distilled.metadata.recipe
  (command,) = re.findall(
    r'experiments/distill.py (.*?)\n```', zoo.card(name), re.DOTALL
  )
  given = dict(re.findall(r'--(\w+)=(\S+)', command))
  known = {
    **recipe['data'],
    **recipe['distillation'],
    **distilled.metadata.network,
  }
  for flag, value in given.items():
    if flag != 'workdir':
      assert str(known[flag]) == value, flag


@pytest.mark.parametrize(
  'arguments',
  [
    ('export.py', 'digits_ipc1', '--output=out', '--formats=npz'),
    ('strip.py', 'digits_ipc1', '--output=out/strip.png'),
    ('relabel.py', 'digits_ipc1', '--output=out/relabelled.safetensors'),
    (
      *('distill.py', '--start=digits_ipc1', '--dataset=digits', '--ipc=1'),
      *('--width=4', '--num_steps=1', '--workdir=out'),
    ),
  ],
  ids=lambda arguments: arguments[0],
)
def test_binaries_take_a_name(tmp_path, monkeypatch, arguments):
  monkeypatch.chdir(tmp_path)
  result = binaries.run(*arguments)
  assert result.returncode == 0, result.stderr
  assert any((tmp_path / 'out').iterdir())


def test_evaluate_scores_a_name_and_leaves_the_package_alone(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  result = binaries.run('evaluate.py', 'digits_ipc1', '--repeats=2')
  assert result.returncode == 0, result.stderr
  rows = json.loads((tmp_path / 'digits_ipc1.scores.json').read_text())
  own, real = (rows['scores'][x] for x in ('Pool(16)', 'random real'))
  stated = _score_of('digits_ipc1', 'krr')
  assert own[0]['accuracies'] == pytest.approx(stated['accuracies'][:2], abs=1)
  assert own[0]['mean'] > real[0]['mean'] + 5
  refused = binaries.run('evaluate.py', 'digits_ipc1', '--write_scores')
  assert refused.returncode == 1
  assert 'leave --write_scores out' in refused.stderr
