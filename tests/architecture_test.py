"""Imports point down the layers, and public functions are documented."""

import ast
import doctest
import importlib
import pathlib
import tempfile

import jax
import pytest

import fsdd_jax

_ROOT = pathlib.Path(fsdd_jax.__file__).parent

# Layers, lowest first; a file imports lower layers, and in its own only what
# stands before it in the list.
_LAYERS = (
  (
    'files',
    'finite',
    'preemption',
    'terminal',
    'timing',
    'types',
    'normalization',
    'krr',
    'image_ops',
    'augment',
    'convolution',
    'layers',
    'networks',
    'translator',
    '_neural_tangents',
  ),
  (
    'processes',
    'parallel',
    'devices',
    'objective',
    'random_networks',
    'platt',
    'solvers',
    'implicit',
    'implicit_gradient',
    'distill',
    'translator_step',
  ),
  (
    'containers',
    'array_store',
    'fractals',
    'subsets',
    'sources',
    'datasets',
    'resolution',
    'cache_manifest',
    'cache_records',
    'metrics',
    'checkpoints',
    'cache',
    'artifacts',
    'pictures',
    'report',
    'exports',
    'configs',
    'method_configs',
    'peer_configs',
    'tasks',
    'columns',
    'stage_loop',
    'cache_summary',
    'cache_batches',
    'kernels',
  ),
  (
    'inputs',
    'distill_loop',
    'baselines',
    'selection',
    'network_pool',
    'peers',
    'rfad',
    'kip',
    'frepo',
    'rcig_step',
    'rcig',
    'methods',
    'protocols',
    'evaluation',
    'subset_draws',
    'feature_bank',
    'subset_targets',
    'subset_distiller',
    'caching',
    'one_network',
    'bilevel',
    'pretrained',
    'pretraining_objectives',
    'pretraining_banks',
    'pretraining_state',
    'pretraining',
    'adaptation_samples',
    'adaptation',
    'curves',
    'toy',
    'benchmarks',
    'torch_benchmark',
    'caching_benchmark',
    'bank_benchmark',
    'zoo',
    'cli',
    'runners',
    'comparison',
    'recipe_cli',
    'programs',
    'costs',
    'scaling',
    'roofline',
    'choices',
    'estimates',
  ),
)
_ORDER = [name for layer in _LAYERS for name in layer]
_FILES = {p.stem: p for p in _ROOT.glob('*.py') if p.stem != '__init__'} | {
  p.parent.name: p for p in _ROOT.glob('*/__init__.py')
}
_MODULES = sorted(_FILES)


def _imports(tree):
  """Names of this package's modules that a file imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      if node.module == 'fsdd_jax':
        yield from (alias.name for alias in node.names)
      elif node.module.startswith('fsdd_jax.'):
        yield node.module.split('.')[1]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('fsdd_jax.'):
          yield alias.name.split('.')[1]


def test_every_file_has_a_layer():
  assert sorted(_ORDER) == _MODULES


@pytest.mark.parametrize('name', _MODULES)
def test_imports_point_down(name):
  tree = ast.parse(_FILES[name].read_text())
  upward = [m for m in _imports(tree) if _ORDER.index(m) >= _ORDER.index(name)]
  assert not upward


@pytest.mark.parametrize('name', _MODULES)
def test_public_functions_are_documented_and_typed(name):
  tree = ast.parse(_FILES[name].read_text())
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      assert ast.get_docstring(node), node.name
      assert node.returns is not None, node.name


@pytest.fixture(scope='module')
def _quick_examples(tmp_path_factory):
  """Compiling is most of the time here; files go to the test's own folder."""
  before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp('x'))
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  tempfile.tempdir = before
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()  # Else later tests would run what was compiled so.


@pytest.mark.usefixtures('_quick_examples')
@pytest.mark.parametrize('name', _MODULES)
def test_examples_in_docstrings_run(name):
  module = importlib.import_module(f'fsdd_jax.{name}')
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
