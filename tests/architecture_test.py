"""Public functions are documented and typed, and their examples run."""

import ast
import doctest
import importlib
import pathlib
import tempfile

import pytest

import fsdd_jax
import mutants

_ROOT = pathlib.Path(fsdd_jax.__file__).parent
_TOOLS = pathlib.Path(__file__).parents[1] / 'experiments'

_MODULES = {
  '.'.join(p.relative_to(_ROOT.parent).with_suffix('').parts): p
  for p in _ROOT.rglob('*.py')
  if p.name != '__init__.py'
} | {
  'fsdd_jax.zoo': _ROOT / 'zoo' / '__init__.py',
  **{
    f'{p.parent.name}.{p.stem}': p
    for p in _TOOLS.glob('*/*.py')
    if p.name != '__init__.py'
  },
}


@pytest.mark.parametrize('name', sorted(_MODULES))
def test_public_functions_are_documented_and_typed(name):
  tree = ast.parse(_MODULES[name].read_text())
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      assert ast.get_docstring(node), node.name
      assert node.returns is not None, node.name


@pytest.fixture(scope='module')
def _own_temporary_folder(tmp_path_factory):
  before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp('x'))
  yield
  tempfile.tempdir = before


# They need PyTorch; tests/reporting/clients_test.py runs them where it is.
_NEED_TORCH = {
  n for n in _MODULES if n.startswith('fsdd_jax.reporting.clients')
}


@pytest.mark.usefixtures('_own_temporary_folder')
@pytest.mark.parametrize('name', sorted(_MODULES.keys() - _NEED_TORCH))
def test_examples_in_docstrings_run(name):
  module = importlib.import_module(name)
  assert doctest.testmod(module).failed == 0


def test_exported_names_have_an_example():
  missing = [
    name
    for name in fsdd_jax.__all__
    if callable(value := getattr(fsdd_jax, name)) and '>>>' not in value.__doc__
  ]
  assert not missing


def test_the_public_names_exist():
  for name in fsdd_jax.__all__:
    assert getattr(fsdd_jax, name) is not None
  assert len(set(fsdd_jax.__all__)) == len(fsdd_jax.__all__)


def test_each_mutant_has_its_place_in_the_code():
  mutants.main(['--check'])
