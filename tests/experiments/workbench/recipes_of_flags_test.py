"""What the flags of tables and figures make of their recipe."""

import pytest
from absl import flags

import toy
from binaries import EXPERIMENTS
from fsdd_jax.data import normalization
from fsdd_jax.storage import translators
from workbench import columns, recipes


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
  start, (_, dataset, _) = toy.translator(), toy.problem()
  file = tmp_path / 'translator.safetensors'
  transform = fit(dataset.images)
  translators.save_translator(
    file, start.adapted(start.variables['params'], transform, record={})
  )
  given = flags.FlagValues()
  define = {'help': '', 'flag_values': given}
  for name, value in (
    ('recipes', ''),
    ('scale', 'cpu'),
    ('translator', str(file)),
  ):
    flags.DEFINE_string(name, value, **define)
  flags.DEFINE_list('protocols', 'krr', **define)
  flags.DEFINE_list('target_flag', '--limit=9', **define)
  flags.DEFINE_integer('repeats', 1, **define)
  given.mark_as_parsed()
  monkeypatch.setattr(flags, 'FLAGS', given)
  found = recipes.from_flags(str(EXPERIMENTS / 'table1.py'))
  assert found.target_flags == expected
  for column in ('1 Net', 'w/o Ada', 'w AE', 'Bi-Level', 'random real'):
    task = columns.score_task(found, 'cifar10', column, 1).needs['made']
    while task:
      assert ('--zca' in task.arguments) == ('--zca' in expected), task.name
      task = next(iter(task.needs.values()), None)
