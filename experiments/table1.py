r"""The supplement's Table 1 from one command: every column, resumable.

  python experiments/table1.py --scale=cpu --workdir=runs/table1 \
      --rows=cifar10:1+10,imagenette_128:1

Runs the other binaries with the flagfiles `recipes/<scale>_*.flags`. Finished
cells are kept by a digest of their commands: a killed table goes on where it
was, and a changed flagfile redoes what depends on it alone. `paper` is for one
GPU or TPU and TFDS's own ImageNet, `cpu` for two cores. --dry_run estimates the
time and memory of each cell on this device and ends.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from absl import flags

from fsdd_jax.reporting import console, tables
from fsdd_jax.runtime import files, progress
from measures import costs
from workbench import (
  columns,
  config_flags,
  estimates,
  launching,
  recipes,
  results,
  score_estimates,
  tasks,
)
from workbench.cells import Cell, accuracy, over_seeds, read_cell
from workbench.columns import RANDOM_REAL, Recipe

_PUBLISHED = pathlib.Path(__file__).parent / 'recipes' / 'paper_table1.json'
_ROWS = flags.DEFINE_list(
  'rows',
  ['cifar10'],
  'Target sets, by flagfile; cifar10:1+10 has IPCs of its own, not --ipcs.',
)
_COLUMNS = flags.DEFINE_list(
  'columns', list(columns.COLUMNS), 'Methods, among the default.'
)
_SEEDS = flags.DEFINE_list(
  'seeds',
  [],
  'Seeds of distillation, over which a cell has mean and deviation; one set by '
  'the flagfiles, over its networks, if not given.',
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Only estimate time and memory, and what is done already.'
)


class Place(NamedTuple):
  """Where a cell stands, and the recipe of its row."""

  row: str
  column: str
  ipc: int
  recipe: Recipe

  @property
  def score(self) -> tasks.Task:
    """The task that scores the cell."""
    return columns.score_task(self.recipe, self.row, self.column, self.ipc)


def _places() -> list[Place]:
  """The cells that the flags ask for, row by row."""
  if unknown := set(_COLUMNS.value) - columns.COLUMNS.keys():
    raise ValueError(
      f'Unknown columns {sorted(unknown)}; choose among '
      f'{", ".join(columns.COLUMNS)}.'
    )
  shared = recipes.from_flags(__file__)
  found = []
  for text in _ROWS.value:
    row, _, own = text.partition(':')
    recipe = shared
    if own:
      if not all(part.isdecimal() and int(part) for part in own.split('+')):
        raise ValueError(
          f'--rows has {text!r}; write the IPCs of a row as in cifar10:1+10.'
        )
      ipcs = tuple(map(int, own.split('+')))
      recipe = dataclasses.replace(shared, ipcs=ipcs)
    found += [
      Place(row, column, ipc, dataclasses.replace(recipe, seed=seed))
      for seed in config_flags.integers('seeds') or (None,)
      for ipc in recipe.ipcs
      for column in _COLUMNS.value
    ]
  if not found:
    raise ValueError('--rows and --columns must each name one or more.')
  names = [(p.row, p.column, p.ipc, p.recipe.seed) for p in found]
  if twice := [name for name in names if names.count(name) > 1]:
    row, column, ipc, _ = twice[0]
    raise ValueError(
      f'{column} of {row} at IPC {ipc} is asked for twice, by --rows, --ipcs, '
      '--columns or --seeds; name it once.'
    )
  return found


def main(_: list[str]) -> None:
  """Runs what is missing, and writes the table."""
  places = _places()
  rows = dict.fromkeys(place.row for place in places)
  recipes.check_networks(places[0].recipe, rows)
  workdir = files.resolve(flags.FLAGS.workdir)
  if _DRY_RUN.value:
    console.show(estimate(places, workdir / 'tasks'))
    return
  ran = recipes.run([place.score for place in places], workdir / 'tasks')
  print(f'{len(ran)} tasks ran, the others were done.')
  by_place: dict[tuple[str, int, str], list[Cell]] = {}
  for p in places:
    cell = read_cell(p.recipe, p.row, p.column, p.ipc, root=workdir / 'tasks')
    by_place.setdefault((p.row, p.ipc, p.column), []).append(cell)
  cells = [over_seeds(each) for each in by_place.values()]
  records = [
    {
      'row': cell.row,
      'ipc': cell.ipc,
      'column': cell.column,
      'scores': list(cell.scores),
      'seconds': dict(cell.seconds),
    }
    for cell in cells
  ]
  recipe = places[0].recipe
  over = 'seeds' if len(places) > len(cells) else 'fresh networks'
  table = to_table(cells, recipe, over)
  results.write_table(workdir, 'table1', table, records, recipe)


def estimate(places: Sequence[Place], root: pathlib.Path) -> tables.Table:
  """What each cell takes, and the seconds of all that is not done yet."""
  made = [place.score.needs['made'] for place in places]
  found = {}
  different = list(tasks.in_order(made))
  with progress.Bar(len(different), 'estimates', unit='task') as bar:
    for task in different:
      found[task.digest] = task, estimates.of_task(task)
      bar.update()
  own = {task.digest for task in made}
  rows = [
    ['all', '', task.name, *_estimated(task, root, making)]
    for digest, (task, making) in found.items()
    if digest not in own
  ]
  left = sum(e.seconds for t, e in found.values() if not t.is_done(root))
  for place, task in zip(places, made, strict=True):
    scores = [
      score_estimates.of_scores(
        task, place.ipc, protocol=protocol, repeats=place.recipe.repeats
      )
      for protocol in place.recipe.protocols
    ]
    scoring = costs.NOTHING.then(*scores)
    is_real = place.column == RANDOM_REAL
    making = costs.NOTHING if is_real else found[task.digest][1]
    left += 0.0 if place.score.is_done(root) else scoring.seconds
    entries = _estimated(place.score, root, making, scoring)
    rows.append([place.row, str(place.ipc), place.column, *entries])
  caption = (
    f'Estimated for {jax.devices()[0].device_kind} from a few timed calls on '
    'noise, without compilation. What one task makes for several cells is '
    f'shown in each. Not done yet, each task once: {left:.0f} s in all.'
  )
  header = ['data', 'IPC', 'column', 'state', 'make, s', 'score, s', 'GB']
  return tables.Table('Dry run', header, rows, caption)


def _estimated(
  task: tasks.Task,
  root: pathlib.Path,
  making: costs.Estimate,
  scoring: costs.Estimate = costs.NOTHING,
) -> list[str]:
  return [
    'done' if task.is_done(root) else 'to do',
    f'{making.seconds:.1f}',
    f'{scoring.seconds:.1f}',
    f'{making.then(scoring).num_bytes / 1e9:.2f}',
  ]


def to_table(cells: Sequence[Cell], recipe: Recipe, over: str) -> tables.Table:
  """Accuracy, seconds and acceleration a row, IPC and protocol.

  Args:
    cells: of the table.
    recipe: how they were made.
    over: what mean and deviation are over.
  """
  names = list(dict.fromkeys(cell.column for cell in cells))
  published = files.read_json(_PUBLISHED, list)
  rows = []
  for row, ipc in dict.fromkeys((cell.row, cell.ipc) for cell in cells):
    own = {c.column: c for c in cells if (c.row, c.ipc) == (row, ipc)}
    for index, protocol in enumerate(recipe.protocols):
      scores = {name: cell.scores[index] for name, cell in own.items()}
      accuracies = [accuracy(scores[name]) for name in names]
      rows.append([row, ipc, f'accuracy, {protocol}', *accuracies])
    spent = {n: c.total_seconds for n, c in own.items() if c.seconds}
    rows.append([row, ipc, 'seconds', *_numbers(names, spent, '.1f')])
    compiled = {
      n: c.seconds.get('compilation', 0.0) for n, c in own.items() if c.seconds
    }
    rows.append([row, ipc, 'compilation, s', *_numbers(names, compiled, '.1f')])
    if 'Baseline' in spent:
      sooner = {n: spent['Baseline'] / s for n, s in spent.items() if s}
      rows.append([row, ipc, 'times faster', *_numbers(names, sooner, '.2f')])
    for paper in published:
      if row in paper['rows'] and ipc == paper['ipc']:
        known = paper['accuracy']
        rows.append([row, ipc, 'paper, accuracy', *_texts(names, known)])
        rows.append(
          [row, ipc, 'paper, seconds', *_texts(names, paper['seconds'])]
        )
  n = cells[0].scores[0]['n']
  networks = {cell.row: cell.scores[0]['network'] for cell in cells}
  named = '; '.join(f'{row} in {name}' for row, name in networks.items())
  caption = (
    f'Test accuracy in percent, mean ± std (ddof = 1) over n={n} {over}; '
    f'protocols {", ".join(recipe.protocols)}; scale '
    f'{recipe.scale}, {named}. Seconds of distillation and adaptation, '
    'without compilation. Rows "paper" are the supplement\'s own, of other '
    'networks, hardware and evaluation.'
  )
  return tables.Table('Table 1', ['data', 'IPC', '', *names], rows, caption)


def _numbers(
  names: Sequence[str], values: Mapping[str, float], form: str
) -> list[str]:
  return [format(values[n], form) if n in values else '-' for n in names]


def _texts(names: Sequence[str], values: Mapping[str, str]) -> list[str]:
  return [values.get(name, '-') for name in names]


if __name__ == '__main__':
  recipes.define_flags(ipcs=(1, 10))
  launching.run(main)
