"""Each field of each config changes an outcome, or a test or reason is named.

A new field fails here until someone says what shows that it does something.
"""

import ast
import dataclasses
import functools
import importlib
import pathlib
import tempfile

import jax
import numpy as np
import pytest
import safetensors.numpy

import binaries
import fsdd_jax
from fsdd_jax.options import Config
from settings_cases import CASES, RUNS, Changes, Seen


def _configs() -> dict[str, type]:
  """The configs that stages take: those of which no other is made."""
  root = pathlib.Path(fsdd_jax.__file__).parent
  for path in root.rglob('*.py'):
    if 'Config):' in path.read_text():
      parts = path.relative_to(root.parent).with_suffix('').parts
      importlib.import_module('.'.join(parts))

  def leaves(kind):
    found = [k for k in kind.__subclasses__() if k.__module__[:8] == 'fsdd_jax']
    return {x for k in found for x in leaves(k) or {k}}

  return {kind.__name__: kind for kind in leaves(Config)}


def _tests() -> set[str]:
  """The names of all tests."""
  return {
    node.name
    for path in pathlib.Path(__file__).parent.rglob('*_test.py')
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef)
  }


def test_every_field_has_a_case():
  fields = {
    name: {field.name for field in dataclasses.fields(kind)}
    for name, kind in _configs().items()
  }
  assert fields == {name: set(cases) for name, cases in CASES.items()}


def test_the_tests_that_are_named_exist():
  named = {
    case.test
    for cases in CASES.values()
    for case in cases.values()
    if isinstance(case, Seen)
  }
  assert not named - _tests()


def test_adaptation_hands_on_what_distillation_takes():
  ours = {
    'num_steps': 7,
    'optimizer': 'sgd',
    'learning_rate': 0.5,
    'label_learning_rate': 0.25,
    'schedule': 'constant',
    'label_coding': 'onehot',
    'ridge': 0.1,
    'loss': 'squared',
    'short_classes': 'noise',
    'jitter': ('flip', 'shift'),
    'seed': 3,
    'checkpoint_every': 9,
    'log_every': 4,
  }
  theirs = fsdd_jax.AdaptationConfig(**ours).distillation(5)
  assert theirs == fsdd_jax.DistillationConfig(**ours, ipc=5)


@functools.cache
def _outcome(binary: str, *flags: str) -> list[np.ndarray]:
  """The arrays that a binary writes."""
  output = 'folder' if binary == 'cache.py' else 'workdir'
  with tempfile.TemporaryDirectory() as folder:
    result = binaries.run(binary, *flags, f'--{output}={folder}')
    assert result.returncode == 0, result.stderr
    if binary == 'cache.py':
      source = fsdd_jax.open_cache(folder)
      sets = [source[number].synthetic for number in range(len(source))]
      return [np.asarray(x) for x in jax.tree.leaves(sets)]
    (path,) = pathlib.Path(folder).glob('*.safetensors')
    found = safetensors.numpy.load_file(path)
    return [found[name] for name in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('kind', 'field'),
  [
    (kind, field)
    for kind in RUNS
    for field, case in CASES[kind].items()
    if isinstance(case, Changes)
  ],
)
def test_another_value_changes_what_is_written(kind, field):
  case = CASES[kind][field]
  flags = *RUNS[kind], *case.others
  before, after = _outcome(*flags), _outcome(*flags, f'--{field}={case.value}')
  assert [x.shape for x in before] != [x.shape for x in after] or any(
    not np.array_equal(x, y) for x, y in zip(before, after, strict=True)
  )
