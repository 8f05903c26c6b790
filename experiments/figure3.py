r"""The supplement's Figures 3 and 4: distilled images before and after.

  python experiments/figure3.py --scale=cpu --row=cifar10 --ipc=10 \
      --seen=1,10 --unseen=1,20 --workdir=runs/figure3

Grids of the set distilled in the arbitrary network, translated without
adaptation, with adaptation on IPCs among which it is, and on others; and what
each translation changed. Figure 4 is `--row=imagenette_128`.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from absl import flags

from fsdd_jax.data import normalization
from fsdd_jax.reporting import pictures, tables
from fsdd_jax.runtime import files
from fsdd_jax.storage import distilled_set
from workbench import (
  cells,
  columns,
  config_flags,
  launching,
  recipes,
  results,
)
from workbench.columns import Made, Recipe

_ROW = flags.DEFINE_string('row', 'cifar10', 'Target set, by flagfile.')
_IPC = flags.DEFINE_integer(
  'ipc', 10, 'Images per class that are shown.', lower_bound=1
)
_SEEN = flags.DEFINE_list('seen', ['1', '10'], 'IPCs to adapt on, with --ipc.')
_UNSEEN = flags.DEFINE_list('unseen', ['1', '20'], 'Others, without --ipc.')
_ARBITRARY = 'in an arbitrary network'


def _sets(recipe: Recipe, row: str) -> dict[str, Made]:
  """What the figure shows, by the caption."""
  seen, unseen = config_flags.counts('seen'), config_flags.counts('unseen')
  if _IPC.value not in seen or _IPC.value in unseen:
    raise ValueError(
      f'--ipc={_IPC.value} must be in --seen and not in --unseen.'
    )
  still = '--num_adaptation_steps=0'
  translated = columns.adapted(recipe, row, 'no_ada', still, adapt_ipcs=seen)
  made = {
    'translated, w/o Ada': translated,
    'translated, w Ada': columns.adapted(
      recipe, row, 'ada_seen', adapt_ipcs=seen
    ),
    f'translated, w Ada on IPC {" and ".join(map(str, unseen))}': (
      columns.adapted(
        recipe, row, 'ada_unseen', *columns.FOR_UNSEEN, adapt_ipcs=unseen
      )
    ),
  }
  file = f'distilled_ipc{_IPC.value}.safetensors'
  before = Made(translated, f'in_theta_ipc{_IPC.value}.safetensors')
  after = {name: Made(task, file) for name, task in made.items()}
  return {_ARBITRARY: before, **after}


def main(_: list[str]) -> None:
  """Runs what is missing; writes pictures, the table and the page."""
  recipe, row = recipes.of_one_protocol(__file__), _ROW.value
  recipe = dataclasses.replace(recipe, ipcs=(_IPC.value,))
  sets = _sets(recipe, row)
  scored = {
    name: columns.score_of(recipe, made, f'{row}-score-{name}-ipc{_IPC.value}')
    for name, made in sets.items()
  }
  workdir = files.resolve(flags.FLAGS.workdir)
  root = workdir / 'tasks'
  recipes.run(list(scored.values()), root)
  rows, records, shown, pixels = [], {}, [], {}
  for name, made in sets.items():
    score = records[name] = cells.read_score(scored[name], root)
    accuracy = cells.accuracy(score)
    found = distilled_set.read_distilled(made.task.folder(root) / made.file)
    pixels[name] = np.asarray(
      normalization.denormalize(jnp.asarray(found.images), found.normalization)
    )
    change = pixels[name] - pixels[_ARBITRARY]
    rows.append([name, accuracy, f'{np.abs(change).mean():.4f}'])
    grids = [(f'{name}: {accuracy}%', pixels[name])]
    if name != _ARBITRARY:
      gain = 0.5 / max(float(np.quantile(np.abs(change), 0.99)), 1e-6)
      grids.append(
        (f'{name}: what it changed, times {gain:.2g}', 0.5 + gain * change)
      )
    shown += [
      (title, _grid(images, found.metadata.class_names, title))
      for title, images in grids
    ]
  for number, (_caption, picture) in enumerate(shown):
    files.write_bytes_atomic(workdir / f'figure3_{number}.png', picture)
  table = tables.Table(
    f'Sets of {_IPC.value} images a class, {row}',
    ['set', 'accuracy', 'mean change of a pixel'],
    rows,
    f'Test accuracy in percent by protocol {recipe.protocols[0]}: mean ± std '
    f'(ddof = 1) over n={score["n"]} fresh networks; scale {recipe.scale}. '
    'Pixels are in [0, 1].',
  )
  results.write_table(workdir, 'figure3', table, records, recipe, shown=shown)


def _grid(images: np.ndarray, names: Sequence[str], title: str) -> bytes:
  figure = pictures.class_grid(
    np.clip(images, 0, 1), names, ipc=_IPC.value, title=title
  )
  return pictures.figure_png(figure)


if __name__ == '__main__':
  recipes.define_flags()
  launching.run(main)
