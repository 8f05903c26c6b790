r"""Accuracy over the number of networks R that a method sees on the target set.

  python experiments/few_networks.py --translator=tiny_imagenet_32 \
      --row=cifar10 --networks=1,2,4,16 --ipcs=1,10 --workdir=runs/few

The paper's subject: few networks. `w Ada(R)` adapts a pre-trained translator in
a pool of R networks, `then Pool(R)` goes on by direct steps in the same pool;
`labels(R)` fits the labels alone in it. `Pool(R)` and `Baseline(R)` (Alg. 4)
know no translator. `1 Net` and `w/o Ada` see theta alone. Tasks are kept as
those of table1.py.
"""

import pathlib
from collections.abc import Mapping
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
_NETWORKS = flags.DEFINE_list('networks', ['1', '2', '4', '16'], 'R.')
_STEPS = flags.DEFINE_list(
  'steps',
  ['20', '20', '60', '100'],
  'Direct steps for each R, chosen on held-out images: more over-fit few '
  'networks.',
)
_UPDATES = flags.DEFINE_list(
  'updates',
  ['30', '100', '300', '600'],
  'Updates of the translator for each R, chosen in the same way.',
)

# Scores by method and R; those that see theta alone have R = 0.
Scores = Mapping[str, Mapping[int, Mapping[str, Any]]]


def _direct(
  recipe: Recipe, name: str, ipc: int, networks: int, steps: int, *further: str
) -> Made:
  task = recipe.task(
    f'{_ROW.value}-{name}-R{networks}-ipc{ipc}',
    'distill.py',
    recipe.flagfile(_ROW.value),
    recipe.flagfile(name),
    *recipe.target_flags,
    f'--num_networks={networks}',
    f'--num_steps={steps}',
    *further,
    f'--ipc={ipc}',
    '--workdir={out}',
  )
  return Made(task)


def curves(
  recipe: Recipe, ipc: int, plan: Mapping[int, tuple[int, int]]
) -> dict:
  """The sets of each method by R, for one IPC.

  Args:
    recipe: flagfiles and IPCs.
    ipc: images per class.
    plan: direct steps, and updates of the translator, for each R.

  Returns:
    `{method: {R: Made}}`.
  """

  def adapt(name: str, *further: str) -> Task:
    return columns.adapted(
      recipe, _ROW.value, name, *further, adapt_ipcs=recipe.ipcs
    )

  without = adapt('no_ada', '--num_adaptation_steps=0')
  found: dict[str, dict[int, Made]] = {
    '1 Net': {0: Made(without, f'in_theta_ipc{ipc}.safetensors')},
    'w/o Ada': {0: Made(without, f'distilled_ipc{ipc}.safetensors')},
  }
  for networks, (steps, updates) in plan.items():
    adapted, fitted, finished = (
      adapt(
        f'{name}-R{networks}',
        f'--network_pool={networks}',
        f'--num_adaptation_steps={count}',
        further,
      )
      for name, count, further in (
        ('ada', updates, f'--finishing_steps={steps}'),
        ('labels', 0, '--fit_labels'),
        ('no_ada', 0, f'--finishing_steps={steps}'),
      )
    )
    each = {
      'w/o Ada, labels(R)': Made(fitted, f'fitted_ipc{ipc}.safetensors'),
      'w/o Ada, then Pool(R)': Made(finished, f'finished_ipc{ipc}.safetensors'),
      'w Ada(R)': Made(adapted, f'distilled_ipc{ipc}.safetensors'),
      'w Ada(R), then Pool(R)': Made(adapted, f'finished_ipc{ipc}.safetensors'),
      'Pool(R)': _direct(recipe, 'pool', ipc, networks, steps),
      'Baseline(R)': _direct(
        *(recipe, 'baseline', ipc, networks, steps), '--real_batch=0'
      ),
    }
    for name, made in each.items():
      found.setdefault(name, {})[networks] = made
  return found


def main(_: list[str]) -> None:
  """Runs what is missing; writes a picture and a table for each IPC."""
  recipe = recipes.of_one_protocol(__file__)
  recipes.check_networks(recipe, [_ROW.value])
  counts, *each = map(config_flags.counts, ('networks', 'steps', 'updates'))
  if len(set(counts)) < len(counts):
    raise ValueError(f'--networks={counts} names a number twice.')
  if {len(given) for given in each} != {len(counts)}:
    raise ValueError(
      f'--networks lists {len(counts)} numbers, --steps {len(each[0])} and '
      f'--updates {len(each[1])}; give one of each for each number of networks.'
    )
  plan = dict(zip(counts, zip(*each, strict=True), strict=True))
  for networks, (steps, _) in plan.items():
    if steps < networks:
      raise ValueError(
        f'--steps={",".join(_STEPS.value)} has {steps} for {networks} '
        'networks; give at least one step a network.'
      )
  workdir = files.resolve(flags.FLAGS.workdir)
  root = workdir / 'tasks'
  for ipc in recipe.ipcs:
    _write(recipe, ipc, curves(recipe, ipc, plan), workdir, root)


def _write(
  recipe: Recipe,
  ipc: int,
  made: Mapping[str, Mapping[int, Made]],
  workdir: pathlib.Path,
  root: pathlib.Path,
) -> None:
  scored = {
    name: {
      count: columns.score_of(
        recipe, one, f'{_ROW.value}-score-{name}-{count}-ipc{ipc}'
      )
      for count, one in by_count.items()
    }
    for name, by_count in made.items()
  }
  recipes.run([t for each in scored.values() for t in each.values()], root)
  found: dict[str, dict[int, dict[str, Any]]] = {}
  for name, by_count in scored.items():
    for count, task in by_count.items():
      found.setdefault(name, {})[count] = cells.read_score(task, root)
  title = f'Accuracy over networks seen, {_ROW.value}, IPC {ipc}'
  protocol = recipe.protocols[0]
  picture = pictures.figure_png(draw(found, title, protocol))
  name = f'few_networks_ipc{ipc}'
  files.write_bytes_atomic(workdir / f'{name}.png', picture)
  counts = sorted({count for each in found.values() for count in each})
  rows = [
    [
      method,
      *(cells.accuracy(each[c]) if c in each else '' for c in counts),
    ]
    for method, each in found.items()
  ]
  n = next(iter(found['1 Net'].values()))['n']
  caption = (
    f'Test accuracy in percent by protocol {protocol}: mean ± std (ddof = 1) '
    f'over n={n} fresh networks, one set each; scale {recipe.scale}.'
  )
  heads = ['theta alone' if c == 0 else f'R = {c}' for c in counts]
  table = tables.Table(title, ['method', *heads], rows, caption)
  results.write_table(
    workdir, name, table, found, recipe, shown=[(title, picture)]
  )


def draw(found: Scores, title: str, protocol: str) -> mpl_figure.Figure:
  """A curve a method over R; those of theta alone are level lines."""
  figure = mpl_figure.Figure(figsize=(8, 4), layout='constrained')
  axes = figure.subplots()
  counts = sorted({c for each in found.values() for c in each if c})
  for place, (name, each) in enumerate(found.items()):
    if 0 in each:
      style = '--' if name == 'w/o Ada' else ':'
      axes.axhline(each[0]['mean'], color='gray', linestyle=style, label=name)
      continue
    means = [score['mean'] for score in each.values()]
    spread = [score['std'] or 0.0 for score in each.values()]
    # Side by side, as bars of equal R would cover each other.
    shift = 2 ** (0.04 * (place - len(found) / 2))
    at = [count * shift for count in each]
    axes.errorbar(at, means, spread, marker='o', capsize=3, label=name)
  axes.set_xscale('log', base=2)
  axes.set_xticks(counts, list(map(str, counts)), minor=False)
  axes.set_xlabel('networks seen on the target set, R')
  axes.set_ylabel(f'test accuracy by {protocol}, %')
  axes.set_title(title)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside right upper')
  return figure


if __name__ == '__main__':
  recipes.define_flags(ipcs=(1, 10))
  flags.mark_flag_as_required('translator')
  launching.run(main)
