r"""The supplement's Figure 2: accuracy over IPC of an adapted translator.

  python experiments/figure2.py --scale=cpu --row=cifar10 --seen=1,20 \
      --ipcs=1,2,5,10,20 --workdir=runs/figure2

The translator adapted on some IPCs, without adaptation, and adapted on each IPC
alone; and the first two once more with labels in closed form, which see each
IPC in the same networks. Tasks are kept as those of table1.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from matplotlib import figure as mpl_figure

from fsdd_jax.reporting import pictures, tables
from fsdd_jax.runtime import files
from workbench import (
  cells,
  columns,
  config_flags,
  launching,
  recipes,
  results,
)
from workbench.columns import Made, Recipe
from workbench.tasks import Task

_ROW = flags.DEFINE_string('row', 'cifar10', 'Target set, by flagfile.')
_SEEN = flags.DEFINE_list('seen', ['1', '20'], 'IPCs to adapt on together.')
_NETWORKS = flags.DEFINE_integer(
  'networks',
  16,
  'Networks of the target set, to adapt and to fit labels in.',
  lower_bound=1,
)
_WITHOUT, _ALONE = 'without adaptation', 'adapted on this IPC alone'
_LABELS = ', labels'

Scores = Mapping[int, Mapping[str, Any]]


def _curves(recipe: Recipe, row: str, seen: Sequence[int]) -> dict[str, Any]:
  """The task that scores each IPC, by the name of the curve."""

  def scored(task: Task, ipc: int, file: str = 'distilled') -> Task:
    made = Made(task, f'{file}_ipc{ipc}.safetensors')
    return columns.score_of(recipe, made, f'{task.name}-score-{file}-ipc{ipc}')

  pool = f'--network_pool={_NETWORKS.value}'
  adapted, without = (
    columns.adapted(
      recipe, row, name, *further, pool, '--fit_labels', adapt_ipcs=seen
    )
    for name, further in (
      ('ada_seen', columns.FOR_UNSEEN),
      ('no_ada', ('--num_adaptation_steps=0',)),
    )
  )
  alone = {
    ipc: columns.adapted(recipe, row, f'ada_ipc{ipc}', pool, adapt_ipcs=(ipc,))
    for ipc in recipe.ipcs
  }
  curves = {}
  together = f'adapted on {" and ".join(map(str, seen))}'
  for name, task in ((together, adapted), (_WITHOUT, without)):
    curves[name] = {i: scored(task, i) for i in recipe.ipcs}
    curves[name + _LABELS] = {i: scored(task, i, 'fitted') for i in recipe.ipcs}
  return curves | {_ALONE: {i: scored(task, i) for i, task in alone.items()}}


def main(_: list[str]) -> None:
  """Runs what is missing; writes the picture and the table."""
  recipe, seen = recipes.of_one_protocol(__file__), config_flags.counts('seen')
  if unseen := set(seen) - set(recipe.ipcs):
    raise ValueError(f'--seen has {sorted(unseen)}, which are not in --ipcs.')
  wanted = _curves(recipe, _ROW.value, seen)
  workdir = files.resolve(flags.FLAGS.workdir)
  root = workdir / 'tasks'
  recipes.run([t for curve in wanted.values() for t in curve.values()], root)
  protocol = recipe.protocols[0]
  found = {
    name: {ipc: cells.read_score(t, root) for ipc, t in curve.items()}
    for name, curve in wanted.items()
  }
  title = f'Accuracy over IPC, {_ROW.value}'
  picture = pictures.figure_png(draw(found, seen, title, protocol))
  files.write_bytes_atomic(workdir / 'figure2.png', picture)
  rows = [
    [
      f'{ipc}{" (seen)" if ipc in seen else ""}',
      *(cells.accuracy(scores[ipc]) for scores in found.values()),
    ]
    for ipc in recipe.ipcs
  ]
  n = found[_WITHOUT][recipe.ipcs[0]]['n']
  caption = (
    f'Test accuracy in percent by protocol {protocol}: mean ± std (ddof = 1) '
    f'over n={n} fresh networks; scale {recipe.scale}.'
  )
  table = tables.Table(title, ['IPC', *found], rows, caption)
  results.write_table(
    workdir, 'figure2', table, found, recipe, shown=[(title, picture)]
  )


def draw(
  found: Mapping[str, Scores], seen: Sequence[int], title: str, protocol: str
) -> mpl_figure.Figure:
  """Curves with error bars of one deviation; IPCs adapted on are filled."""
  figure = mpl_figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  filled = {_WITHOUT: (), _WITHOUT + _LABELS: (), _ALONE: tuple(found[_ALONE])}
  for name, scores in found.items():
    means = [score['mean'] for score in scores.values()]
    spread = [score['std'] or 0.0 for score in scores.values()]
    (line, *_) = axes.errorbar(
      list(scores),
      means,
      spread,
      marker='o',
      mfc='white',
      capsize=3,
      label=name,
    )
    own = filled.get(name, tuple(seen))
    points = [(i, s['mean']) for i, s in scores.items() if i in own]
    if points:
      above = {'color': line.get_color(), 'zorder': line.get_zorder() + 1}
      axes.plot(*zip(*points, strict=True), 'o', **above)
  axes.set_xscale('log')
  ipcs = list(next(iter(found.values())))
  axes.set_xticks(ipcs, list(map(str, ipcs)), minor=False)
  axes.set_xticks([], minor=True)
  axes.set_xlabel('images per class; filled: adapted on')
  axes.set_ylabel(f'test accuracy by {protocol}, %')
  axes.set_title(title)
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


if __name__ == '__main__':
  recipes.define_flags(ipcs=(1, 2, 5, 10, 20))
  launching.run(main)
