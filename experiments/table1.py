r"""The supplement's Table 1 from one command: every column, resumable.

  python experiments/table1.py --scale=cpu --rows=cifar10 --ipcs=1,10 \
      --workdir=runs/table1

Runs the other binaries with the flagfiles `recipes/<scale>_*.flags`. Finished
cells are kept by a digest of their commands: a killed table goes on where it
was, and a changed flagfile redoes what depends on it alone. `paper` is for one
GPU or TPU and TFDS's own ImageNet, `cpu` for two cores.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

from fsdd_jax import cli, columns, recipe_cli, report, tasks
from fsdd_jax.columns import Cell, Recipe

_PUBLISHED = pathlib.Path(__file__).parent / 'recipes' / 'paper_table1.json'
_ROWS = flags.DEFINE_list('rows', ['cifar10'], 'Target sets, by flagfile.')
_COLUMNS = flags.DEFINE_list(
  'columns', list(columns.COLUMNS), 'Methods, among the default.'
)


def main(_: list[str]) -> None:
  """Runs what is missing, and writes the table."""
  if unknown := set(_COLUMNS.value) - columns.COLUMNS.keys():
    raise ValueError(
      f'Unknown columns {sorted(unknown)}; choose among '
      f'{", ".join(columns.COLUMNS)}.'
    )
  recipe = recipe_cli.recipe_from_flags(__file__)
  cells = [
    (row, column, ipc)
    for row in _ROWS.value
    for ipc in recipe.ipcs
    for column in _COLUMNS.value
  ]
  wanted = [columns.score_task(recipe, *cell) for cell in cells]
  workdir = pathlib.Path(flags.FLAGS.workdir)
  ran = tasks.run(wanted, workdir / 'tasks')
  print(f'{len(ran)} tasks ran, the others were done.')
  found = [
    columns.read_cell(recipe, *cell, root=workdir / 'tasks') for cell in cells
  ]
  records = [
    {
      'row': cell.row,
      'ipc': cell.ipc,
      'column': cell.column,
      'scores': list(cell.scores),
      'seconds': dict(cell.seconds),
    }
    for cell in found
  ]
  recipe_cli.write(workdir, 'table1', to_table(found, recipe), records, recipe)


def to_table(cells: Sequence[Cell], recipe: Recipe) -> report.Table:
  """Accuracy, seconds and acceleration a row, IPC and protocol."""
  names = list(dict.fromkeys(cell.column for cell in cells))
  published = json.loads(_PUBLISHED.read_text())
  rows = []
  for row, ipc in dict.fromkeys((cell.row, cell.ipc) for cell in cells):
    own = {c.column: c for c in cells if (c.row, c.ipc) == (row, ipc)}
    for index, protocol in enumerate(recipe.protocols):
      scores = {name: cell.scores[index] for name, cell in own.items()}
      accuracies = [
        f'{s["mean"]:.1f}' + (f' ± {s["std"]:.1f}' if s['n'] > 1 else '')
        for s in (scores[name] for name in names)
      ]
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
  network = cells[0].scores[0]['network']
  caption = (
    f'Test accuracy in percent, mean ± std (ddof = 1) over n={n} fresh '
    f'networks; protocols {", ".join(recipe.protocols)}; scale '
    f'{recipe.scale}, {network}. Seconds of distillation and adaptation, '
    'without compilation. Rows "paper" are the supplement\'s own, of other '
    'networks, hardware and evaluation.'
  )
  return report.Table('Table 1', ['data', 'IPC', '', *names], rows, caption)


def _numbers(
  names: Sequence[str], values: Mapping[str, float], form: str
) -> list[str]:
  return [format(values[n], form) if n in values else '-' for n in names]


def _texts(names: Sequence[str], values: Mapping[str, str]) -> list[str]:
  return [values.get(name, '-') for name in names]


if __name__ == '__main__':
  recipe_cli.define_flags(ipcs=(1, 10))
  cli.run(main)
