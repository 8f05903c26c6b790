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
_TOOLS = pathlib.Path(__file__).parents[1] / 'experiments'

# Layers, lowest first; a file imports lower layers, and in its own only what
# stands before it in the list.
_LAYERS = (
  (
    'runtime.files',
    'runtime.finite',
    'runtime.preemption',
    'runtime.terminal',
    'types',
    'data.normalization',
    'core.krr',
    'core.image_ops',
    'core.augment',
    'networks.convolution',
    'networks.layers',
    'networks.extractors',
    'networks.translator',
    'networks._neural_tangents',
  ),
  (
    'runtime.processes',
    'runtime.parallel',
    'runtime.devices',
    'core.objective',
    'networks.random_networks',
    'algorithms.peers.platt',
    'core.solvers',
    'algorithms.peers.implicit',
    'algorithms.peers.implicit_gradient',
    'core.distill_step',
    'core.translator_step',
  ),
  (
    'storage.containers',
    'runtime.array_store',
    'data.fractals',
    'data.subsets',
    'data.sources',
    'data.datasets',
    'data.resolution',
    'storage.cache.manifest',
    'storage.cache.records',
    'runtime.metrics',
    'runtime.checkpoints',
    'storage.cache.shards',
    'storage.artifacts',
    'reporting.pictures',
    'reporting.tables',
    'reporting.exports',
    'algorithms.configs',
    'algorithms.method_configs',
    'algorithms.peers.peer_configs',
    'runtime.stage_loop',
    'storage.cache.summary',
    'storage.cache.batches',
    'networks.infinite',
  ),
  (
    'data.inputs',
    'algorithms.distill_loop',
    'algorithms.baselines',
    'algorithms.peers.selection',
    'algorithms.peers.network_pool',
    'algorithms.peers.frame',
    'algorithms.peers.rfad',
    'algorithms.peers.kip',
    'algorithms.peers.frepo',
    'algorithms.peers.rcig_step',
    'algorithms.peers.rcig',
    'evaluation.protocols',
    'evaluation.evaluate',
    'algorithms.subset_draws',
    'data.feature_bank',
    'algorithms.subset_targets',
    'algorithms.subset_distiller',
    'algorithms.caching',
    'algorithms.one_network',
    'algorithms.bilevel',
    'storage.pretrained',
    'algorithms.pretraining_objectives',
    'algorithms.pretraining_banks',
    'algorithms.pretraining_state',
    'algorithms.pretraining',
    'algorithms.adaptation_samples',
    'algorithms.adaptation',
    'zoo',
  ),
)
_ORDER = [name for layer in _LAYERS for name in layer]
_FILES = {
  '.'.join(p.relative_to(_ROOT).with_suffix('').parts): p
  for p in _ROOT.rglob('*.py')
  if p.name != '__init__.py'
} | {'zoo': _ROOT / 'zoo' / '__init__.py'}
_MODULES = sorted(_FILES)
_DOCUMENTED = {f'fsdd_jax.{name}': path for name, path in _FILES.items()} | {
  f'{p.parent.name}.{p.stem}': p
  for p in _TOOLS.glob('*/*.py')
  if p.name != '__init__.py'
}


def _imports(tree):
  """Names of this package's modules that a file imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      package, _, inner = node.module.partition('.')
      if package == 'fsdd_jax':
        prefix = f'{inner}.' if inner else ''
        names = {prefix + alias.name for alias in node.names}
        yield from names & _FILES.keys() or {inner}
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('fsdd_jax.'):
          yield alias.name.removeprefix('fsdd_jax.')


def test_every_file_has_a_layer():
  assert sorted(_ORDER) == _MODULES


@pytest.mark.parametrize('name', _MODULES)
def test_imports_point_down(name):
  tree = ast.parse(_FILES[name].read_text())
  upward = [m for m in _imports(tree) if _ORDER.index(m) >= _ORDER.index(name)]
  assert not upward


@pytest.mark.parametrize('name', sorted(_DOCUMENTED))
def test_public_functions_are_documented_and_typed(name):
  tree = ast.parse(_DOCUMENTED[name].read_text())
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
@pytest.mark.parametrize('name', sorted(_DOCUMENTED))
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
