"""The notebook, run from its first cell to its last at a tiny size."""

import pathlib
import tomllib

import nbclient
import nbformat
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PATH = _ROOT / 'experiments' / 'fsdd_colab.ipynb'
_SMALL = """
LARGE, TARGET = 'fractals:4', 'digits'
IMAGE_SIZE, LIMIT = 8, 60
WIDTH = 4
IPC, UNSEEN_IPC = 1, 2

CACHING = fsdd.CachingConfig(
  num_subsets=4,
  min_classes=2,
  max_classes=3,
  max_images=12,
  max_synthetic=6,
  num_steps=2,
  augmentation='none',
)
PRETRAINING = fsdd.PretrainingConfig(
  num_steps=2, batch_size=1, eval_every=1, heldout_networks=1
)
ADAPTATION = fsdd.AdaptationConfig(
  adapt_ipcs=(IPC,),
  num_steps=2,
  num_adaptation_steps=2,
  batch_size=1,
  network_pool=2,
)
TRANSLATOR = fsdd.Translator(width=4, num_blocks=0)
REPEATS = 2
"""


@pytest.fixture(scope='module')
def notebook():
  return nbformat.read(_PATH, as_version=4)


def _names(source):
  """What a cell assigns at its left margin."""
  lines = [line.partition(' = ') for line in source.splitlines()]
  return {n for n, is_set, _ in lines if is_set and not n.startswith(' ')}


def test_the_notebook_is_valid(notebook):
  nbformat.validate(notebook)


def test_the_notebook_names_the_address_of_the_project(notebook):
  project = tomllib.loads((_ROOT / 'pyproject.toml').read_text())['project']
  repository = project.get('urls', {}).get('Repository', '')
  named = [
    line
    for cell in notebook.cells
    for line in cell.source.splitlines()
    if line.startswith('REPOSITORY = ')
  ]
  assert [line.split("'")[1] for line in named] == [repository]
  badge = 'https://colab.research.google.com/'
  if repository:
    path = repository.removeprefix('https://github.com/')
    badge += f'github/{path}/blob/main/experiments/fsdd_colab.ipynb'
  assert f'colab-badge.svg)]({badge})' in notebook.cells[0].source


def test_outputs_are_small_and_without_errors_or_bars(notebook):
  assert _PATH.stat().st_size < 300_000
  outputs = [
    output for cell in notebook.cells for output in cell.get('outputs', ())
  ]
  assert len(outputs) > 10
  assert not [x for x in outputs if x.get('name') == 'stderr']
  assert not [x for x in outputs if x.output_type == 'error']


def test_formulas_have_single_backslashes(notebook):
  texts = [x.source for x in notebook.cells if x.cell_type == 'markdown']
  assert any('$f_\\theta$' in text for text in texts)
  assert not [text for text in texts if '\\\\' in text]


@pytest.mark.slow
def test_every_cell_runs(notebook, tmp_path):
  (sizes,) = [
    cell
    for cell in notebook.cells
    if 'parameters' in cell.metadata.get('tags', ())
  ]
  assert _names(sizes.source) == _names(_SMALL)
  sizes.source = _SMALL
  client = nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': tmp_path}}
  )
  client.execute()
  outputs = [
    output for cell in notebook.cells for output in cell.get('outputs', ())
  ]
  assert not [output for output in outputs if output.get('name') == 'stderr']
  kinds = [kind for output in outputs for kind in output.get('data', ())]
  # Random real, 1 Net, losses, three translated, a change, unseen IPC, Pool.
  assert kinds.count('image/png') == 9
  (table,) = [
    output['data']['text/markdown']
    for output in outputs
    if 'text/markdown' in output.get('data', ())
  ]
  lines = [line for line in table.splitlines() if '|' in line]
  rows = {line.split('|')[1].strip() for line in lines}
  assert rows >= {'1 Net', 'w/o Ada', 'w/o Pre-Train', 'w Ada', 'Pool'}
  assert table.count('(n=2)') == 7
