"""The table at a tiny size, and what its cells are made of."""

import csv
import dataclasses
import json
import pathlib

import pytest

import binaries
from binaries import EXPERIMENTS
from workbench import cells, columns, tasks
from workbench.columns import COLUMNS, Recipe

_NETWORK = '--image_size=8\n--width=4\n'
_LARGE = f'--dataset=fractals:4\n--limit=80\n{_NETWORK}'
_SUBSETS = '--min_classes=2\n--max_classes=3\n--max_images=12\n'
_FLAGFILES = {
  'digits': f'--dataset=fractals:3\n--limit=60\n{_NETWORK}',
  'cache': f'{_LARGE}{_SUBSETS}--max_synthetic=6\n--num_subsets=4\n'
  '--num_steps=2\n--augmentation=none\n',
  'pretrain': f'{_LARGE}--num_steps=2\n--batch_size=1\n--translator_width=4\n'
  '--translator_blocks=0\n--heldout_networks=1\n',
  'adapt': '--num_steps=2\n--num_adaptation_steps=2\n--network_pool=2\n'
  '--num_starts=2\n--batch_size=1\n',
  'no_pretrain': '--translator_width=4\n--translator_blocks=0\n',
  'one_net': '--num_steps=2\n',
  'pool': '--revisit\n',
  'baseline': '--learning_rate=0.05\n',
}


@pytest.fixture
def recipes(tmp_path):
  """Flagfiles of a tiny scale."""
  folder = tmp_path / 'recipes'
  folder.mkdir()
  for name, text in _FLAGFILES.items():
    (folder / f'tiny_{name}.flags').write_text(text)
  return folder


@pytest.fixture(autouse=True)
def _tasks_run_here(monkeypatch):
  monkeypatch.setattr(tasks, '_run', binaries.run_task)


def _run(recipes, workdir, *arguments):
  return binaries.run(
    *('table1.py', '--scale=tiny'),
    *(f'--recipes={recipes}', f'--workdir={workdir}', '--rows=digits'),
    *('--columns=random real,1 Net,w/o Ada', '--repeats=2', *arguments),
  )


def _figure(binary, recipes, workdir, *arguments):
  result = binaries.run(
    *(binary, '--scale=tiny'),
    *(f'--recipes={recipes}', f'--workdir={workdir}', '--row=digits'),
    *('--repeats=2', *arguments),
  )
  assert result.returncode == 0, result.stderr
  name = binary.removesuffix('.py')
  return json.loads((workdir / f'{name}.json').read_text())['records']


@pytest.mark.slow
def test_a_table_and_figures_share_tasks_and_redo_what_changed(
  recipes, tmp_path
):
  workdir = tmp_path / 'table'
  result = _run(recipes, workdir, '--ipcs=1')
  assert result.returncode == 0, result.stderr
  # Cache, translator, 1 Net, w/o Ada, and a score for each of the two sets.
  assert '6 tasks ran' in result.stdout
  cells = json.loads((workdir / 'table1.json').read_text())['records']
  assert [cell['column'] for cell in cells] == [
    'random real',
    '1 Net',
    'w/o Ada',
  ]
  assert all(cell['scores'][0]['n'] == 2 for cell in cells)
  assert [sorted(cell['seconds']) != [] for cell in cells] == [
    False,
    True,
    True,
  ]
  with open(workdir / 'table1.csv') as stream:
    rows = list(csv.reader(stream))
  assert rows[0][3:] == ['random real', '1 Net', 'w/o Ada']
  mean = cells[1]['scores'][0]['mean']
  assert rows[1][4].startswith(f'{mean:.1f} ± ')
  assert r'\toprule' in (workdir / 'table1.tex').read_text()
  assert 'src="http' not in (workdir / 'table1.html').read_text()
  _check_figures(recipes, workdir)
  _check_few_networks(recipes, workdir)
  _check_a_given_translator(recipes, tmp_path, workdir)
  _check_seeds(recipes, workdir)
  path = recipes / 'tiny_one_net.flags'
  path.write_text('--num_steps=3\n')
  result = _run(recipes, workdir, '--ipcs=1')
  assert '2 tasks ran' in result.stdout


def _check_seeds(recipes, workdir):
  arguments = '--ipcs=1', '--columns=random real,1 Net'
  first = _run(recipes, workdir, *arguments, '--seeds=0', '--in_process')
  assert first.returncode == 0, first.stderr
  (_, before) = json.loads((workdir / 'table1.json').read_text())['records']
  result = _run(recipes, workdir, *arguments, '--seeds=0,3', '--in_process')
  assert result.returncode == 0, result.stderr
  assert '2 tasks ran' in result.stdout
  assert 'over n=2 seeds' in result.stdout
  records = json.loads((workdir / 'table1.json').read_text())['records']
  assert [len(x['scores'][0]['accuracies']) for x in records] == [2, 2]
  assert [x['scores'][0]['n'] for x in records] == [2, 2]
  made = (workdir / 'tasks').glob('digits-one_net-ipc1-*/*.safetensors')
  # By each seed; without one it is 0.
  assert len({path.read_bytes() for path in made}) == 2
  # The mean of the networks of a seed is an accuracy.
  means = records[1]['scores'][0]['accuracies']
  assert means[0] == before['scores'][0]['mean']


def _check_a_given_translator(recipes, tmp_path, workdir):
  (made,) = (workdir / 'tasks').glob('pretrain*/translator.safetensors')
  given = tmp_path / 'omega.safetensors'
  given.write_bytes(made.read_bytes())
  arguments = (
    *('--rows=digits:1', '--columns=w/o Ada', '--in_process'),
    f'--translator={given}',
  )
  result = _run(recipes, tmp_path / 'given', *arguments)
  assert result.returncode == 0, result.stderr
  # The translated set and its score, but neither cache nor translator.
  assert '2 tasks ran' in result.stdout
  found, before = (
    json.loads((folder / 'table1.json').read_text())['records'][-1]['scores']
    for folder in (tmp_path / 'given', workdir)
  )
  assert found[0]['accuracies'] == before[0]['accuracies']
  dry = _run(recipes, tmp_path / 'dry', *arguments, '--dry_run')
  assert dry.returncode == 0, dry.stderr
  assert [dry.stdout.count(x) for x in ('to do', 'w/o Ada')] == [1, 1]
  recipe = Recipe('.', str(recipes), 'tiny', (1,), translator=str(given))
  digest = columns.score_task(recipe, 'digits', 'w/o Ada', 1).digest
  given.write_bytes(b'another')
  assert columns.score_task(recipe, 'digits', 'w/o Ada', 1).digest != digest


def _check_few_networks(recipes, workdir):
  (translator,) = (workdir / 'tasks').glob('pretrain*/translator.safetensors')
  result = binaries.run(
    *('few_networks.py', '--scale=tiny'),
    *(f'--recipes={recipes}', f'--workdir={workdir}', '--row=digits'),
    *('--repeats=2', '--ipcs=1', '--networks=1,2', '--steps=2,2'),
    '--updates=2,3',
    f'--translator={translator}',
  )
  assert result.returncode == 0, result.stderr
  path = workdir / 'few_networks_ipc1.json'
  found = json.loads(path.read_text())['records']
  counts = {name: list(each) for name, each in found.items()}
  alone, both = ['0'], ['1', '2']
  assert counts == {
    '1 Net': alone,
    'w/o Ada': alone,
    'w/o Ada, labels(R)': both,
    'w/o Ada, then Pool(R)': both,
    'w Ada(R)': both,
    'w Ada(R), then Pool(R)': both,
    'Pool(R)': both,
    'Baseline(R)': both,
  }
  assert path.with_suffix('.png').stat().st_size > 1000


def _check_figures(recipes, workdir):
  before = _times(workdir / 'tasks')
  curves = _figure(
    'figure2.py', recipes, workdir, '--ipcs=1', '--seen=1', '--networks=2'
  )
  assert [list(curve) for curve in curves.values()] == [['1']] * 5
  assert (workdir / 'figure2.png').stat().st_size > 1000
  sets = _figure(
    'figure3.py', recipes, workdir, '--ipc=1', '--seen=1', '--unseen=2'
  )
  assert len(sets) == 4
  with open(workdir / 'figure3.csv') as stream:
    changes = [float(row[2]) for row in list(csv.reader(stream))[1:]]
  # What was translated is itself; all translators change something.
  assert changes[0] == 0
  assert min(changes[1:]) > 0
  # Four grids, and three of differences.
  assert (workdir / 'figure3.html').read_text().count('<img') == 7
  after = _times(workdir / 'tasks')
  assert before
  assert before.items() <= after.items()
  assert len(list((workdir / 'tasks').glob('pretrain-*'))) == 1


def _times(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


def test_unknown_columns_are_named(recipes, tmp_path):
  result = _run(recipes, tmp_path, '--ipcs=1', '--columns=1 Net,w Adam')
  assert result.returncode != 0
  assert "Unknown columns ['w Adam']" in result.stderr


@pytest.mark.parametrize(
  'arguments',
  [
    ['--rows=digits:1,digits:1+2'],
    ['--ipcs=1,1'],
    ['--ipcs=1', '--seeds=0,0'],
    ['--ipcs=1', '--columns=1 Net,1 Net'],
  ],
)
def test_a_cell_asked_for_twice_is_refused(arguments, recipes, tmp_path):
  result = _run(recipes, tmp_path, *arguments)
  assert result.returncode != 0
  assert 'of digits at IPC 1 is asked for twice' in result.stderr


@pytest.mark.parametrize('column', COLUMNS)
def test_flags_of_targets_come_after_all_flagfiles(column):
  recipe = Recipe(
    str(EXPERIMENTS),
    str(EXPERIMENTS / 'recipes'),
    'cpu',
    ipcs=(1,),
    flags=('--network_pool=3',),
  )
  made = columns.score_task(recipe, 'cifar10', column, 1).needs['made']
  places = [
    place
    for place, argument in enumerate(made.arguments)
    if argument.startswith('--flagfile=')
  ]
  assert max(places) < made.arguments.index('--network_pool=3')


@pytest.mark.parametrize(
  ('scale', 'rows'),
  [
    ('cpu', ['cifar10', 'imagenette_128']),
    ('narrow', ['cifar10', 'imagenette_128']),
    ('paper', ['imagenet']),
  ],
)
def test_each_column_has_its_flagfiles(scale, rows):
  recipe = Recipe(
    str(EXPERIMENTS), str(EXPERIMENTS / 'recipes'), scale, ipcs=(1, 10)
  )
  wanted = [
    columns.score_task(recipe, row, column, ipc)
    for row in rows
    for column in COLUMNS
    for ipc in recipe.ipcs
  ]
  found = list(tasks.in_order(wanted))
  names = [task.name for task in found]
  assert len(set(names)) == len(names)
  # Shared by all rows: the cache, two translators, a learned network. A row
  # has four adapted translators and three runs without, and for each IPC 1 Net,
  # Bi-Level, Baseline, Pool and real images with labels; each set is scored,
  # random real with 1 Net.
  assert len(found) == 4 + len(rows) * (7 + 2 * 5 + 2 * 12)
  for task in found:
    assert pathlib.Path(task.binary).exists()


def test_seconds_leave_other_ipcs_out():
  runs = [
    {'statistics': 1.0, 'distillation, IPC 1': 2.0, 'adaptation': 4.0},
    {'distillation, IPC 10': 8.0, 'adaptation': 16.0, 'compilation': 32.0},
  ]
  assert cells._of_ipc(runs, 1) == {
    'statistics': 1.0,
    'distillation, IPC 1': 2.0,
    'adaptation': 20.0,
    'compilation': 32.0,
  }


def test_a_wrong_list_of_ipcs_is_named(recipes, tmp_path):
  result = _run(recipes, tmp_path, '--rows=digits:1+x')
  assert result.returncode != 0
  assert "'digits:1+x'; write the IPCs of a row as in" in result.stderr


def test_a_dry_run_estimates_each_cell_and_runs_none(recipes, tmp_path):
  workdir = tmp_path / 'table'
  result = _run(recipes, workdir, '--rows=digits:1+2', '--dry_run')
  assert result.returncode == 0, result.stderr
  lines = [line for line in result.stdout.splitlines() if '|' in line]
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]
  # What all cells share, then three columns of each IPC.
  assert [row[2] for row in rows[2:]] == [
    'cache',
    'pretrain',
    *(['random real', '1 Net', 'w/o Ada'] * 2),
  ]
  assert {row[3] for row in rows[2:]} == {'to do'}
  assert 's in all' in result.stdout
  assert not workdir.exists()


def test_one_seed_is_itself_and_several_have_mean_and_deviation():
  def cell(means, **seconds):
    scores = tuple(
      {'mean': m, 'std': 9.0, 'n': 5, 'protocol': 'krr'} for m in means
    )
    return cells.Cell('digits', 1, '1 Net', scores, seconds)

  alone = cell([50.0], statistics=1.0)
  assert cells.over_seeds([alone]) is alone
  found = cells.over_seeds(
    [
      cell([50.0, 10.0], statistics=1.0, distillation=2.0),
      cell([54.0, 10.0], statistics=3.0),
    ]
  )
  assert [s['mean'] for s in found.scores] == [52.0, 10.0]
  assert found.scores[0]['std'] == pytest.approx(8**0.5)
  assert found.scores[1]['std'] == 0
  assert [s['n'] for s in found.scores] == [2, 2]
  assert found.scores[0]['accuracies'] == [50.0, 54.0]
  assert found.scores[0]['protocol'] == 'krr'
  assert found.seconds == {'statistics': 2.0, 'distillation': 1.0}


def test_a_seed_reaches_sets_and_scores_and_no_cache():
  recipe = Recipe(str(EXPERIMENTS), str(EXPERIMENTS / 'recipes'), 'cpu', (1,))
  plain, other = (
    columns.score_task(
      dataclasses.replace(recipe, seed=s), 'cifar10', 'w Ada', 1
    )
    for s in (None, 2)
  )
  assert not any('seed' in x for x in plain.arguments)
  assert '--evaluation_seed=1002' in other.arguments
  assert other.needs['made'].arguments.count('--seed=2') == 1
  translators = [t.needs['made'].needs['translator'] for t in (plain, other)]
  assert translators[0].digest == translators[1].digest
