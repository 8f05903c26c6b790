"""What the flags of tables and figures make of their recipe."""

import dataclasses

import pytest
from absl import flags

import toy
from binaries import EXPERIMENTS
from fsdd_jax.data import normalization
from fsdd_jax.storage import translators
from workbench import columns, recipes


def _recipe(monkeypatch, translator, theta_steps=None, modules=()):
  """The recipe of table1.py with a translator's file."""
  given = flags.FlagValues()
  define = {'help': '', 'flag_values': given}
  for name, value in (
    ('recipes', ''),
    ('scale', 'cpu'),
    ('translator', str(translator)),
  ):
    flags.DEFINE_string(name, value, **define)
  flags.DEFINE_list('protocols', 'krr', **define)
  flags.DEFINE_list('target_flag', '--limit=9', **define)
  flags.DEFINE_list('import', modules, **define)
  flags.DEFINE_integer('repeats', 1, **define)
  flags.DEFINE_integer('theta_steps', theta_steps, **define)
  given.mark_as_parsed()
  monkeypatch.setattr(flags, 'FLAGS', given)
  return recipes.from_flags(str(EXPERIMENTS / 'table1.py'))


def _translator(fit=normalization.standardization):
  start, (_, dataset, _) = toy.translator(), toy.problem()
  transform = fit(dataset.images)
  return start.adapted(start.variables['params'], transform, record={})


def test_rows_in_other_networks_than_the_translator_are_refused(tmp_path):
  name = 'tiny_imagenet_32'
  recipe = columns.Recipe('.', str(tmp_path), 'own', (1,), translator=name)
  flagfile = tmp_path / 'own_digits.flags'
  flagfile.write_text('--dataset=digits\n--width=32\n')
  missing = '--norm=none --width_multiplier=2'
  with pytest.raises(ValueError, match=f'{missing}, and own_digits.flags'):
    recipes.check_networks(recipe, ['digits'])
  given = dataclasses.replace(recipe, flags=tuple(missing.split()))
  recipes.check_networks(given, ['digits'])
  recipes.check_networks(dataclasses.replace(recipe, translator=''), ['digits'])


def test_modules_that_are_imported_are_so_in_all_tasks(monkeypatch):
  found = _recipe(monkeypatch, 'tiny_imagenet_32', modules=['own', 'other'])
  task = columns.score_task(found, 'cifar10', 'w/o Ada', 1)
  for each in (task, task.needs['made']):
    assert each.arguments[-1] == '--import=own,other'


@pytest.mark.parametrize(
  ('fit', 'expected'),
  [
    (normalization.standardization, ('--limit=9',)),
    (normalization.zca_whitening, ('--zca', '--limit=9')),
  ],
)
def test_all_columns_are_whitened_where_the_translator_was(
  fit, expected, tmp_path, monkeypatch
):
  file = tmp_path / 'translator.safetensors'
  translators.save_translator(file, _translator(fit))
  found = _recipe(monkeypatch, file)
  assert found.target_flags == expected
  for column in ('1 Net', 'w/o Ada', 'w AE', 'Bi-Level', 'random real'):
    task = columns.score_task(found, 'cifar10', column, 1).needs['made']
    while task:
      assert ('--zca' in task.arguments) == ('--zca' in expected), task.name
      task = next(iter(task.needs.values()), None)


def test_a_figure_shows_one_protocol(monkeypatch, tmp_path):
  file = tmp_path / 'translator.safetensors'
  translators.save_translator(file, _translator())
  assert _recipe(monkeypatch, file).protocols == ('krr',)
  flags.FLAGS['protocols'].value = ['krr', 'dc']
  with pytest.raises(ValueError, match='krr,dc names several'):
    recipes.of_one_protocol(str(EXPERIMENTS / 'table1.py'))


@pytest.mark.parametrize(
  ('metadata', 'given', 'expected'),
  [
    ({}, None, []),
    ({'caching': {'num_steps': 7}}, None, ['--num_steps=7']),
    ({'caching': {'num_steps': 7}}, 5, ['--num_steps=5']),
  ],
)
def test_sets_of_one_network_have_the_steps_of_the_translator_or_the_flag(
  metadata, given, expected, tmp_path, monkeypatch
):
  file, saved = tmp_path / 'translator.safetensors', _translator()
  metadata = {**saved.metadata, **metadata}
  translators.save_translator(
    file, dataclasses.replace(saved, metadata=metadata)
  )
  found = _recipe(monkeypatch, file, given)
  for column, flags_of_steps in {
    'random real': expected,
    '1 Net': expected,
    'Bi-Level': expected,
    'w/o Pre-Train': expected,
    'w Ada': expected,
    'Pool': [],
  }.items():
    task = columns.score_task(found, 'cifar10', column, 1).needs['made']
    own = [x for x in task.arguments if x.startswith('--num_steps=')]
    assert own == flags_of_steps, column
    steps_at = [task.arguments.index(x) for x in own]
    # A further flag of all targets wins.
    assert all(at < task.arguments.index('--limit=9') for at in steps_at)
  task = columns.score_task(found, 'cifar10', 'w AE', 1).needs['made']
  cache = task.needs['translator'].needs['cache']
  own = [x for x in cache.arguments if x.startswith('--num_steps=')]
  assert own == expected
