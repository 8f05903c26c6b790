"""The columns of Table 1 as tasks: the commands that make and score each cell.

A recipe is a family of flagfiles in one folder: `<scale>_<row>.flags` names the
target set and its networks, `<scale>_<stage>.flags` says how a stage runs.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fsdd_jax.runtime import files, metrics
from workbench.tasks import Task

RANDOM_REAL = 'random real'


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Which commands make a table.

  Attributes:
    binaries: folder of the binaries.
    folder: of the flagfiles.
    scale: 'cpu' or 'paper', the beginning of the flagfiles' names.
    ipcs: images per class of the columns, all of them adapted on.
    protocols: of the scores.
    repeats: fresh networks a score.
    flags: further flags of all that loads the target set.
  """

  binaries: str
  folder: str
  scale: str
  ipcs: tuple[int, ...]
  protocols: tuple[str, ...] = ('krr',)
  repeats: int = 3
  flags: tuple[str, ...] = ()

  def flagfile(self, name: str) -> str:
    """The flag that reads one of its flagfiles."""
    return f'--flagfile={self.folder}/{self.scale}_{name}.flags'

  def task(
    self, name: str, binary: str, *arguments: str, **needs: Task
  ) -> Task:
    """A task of one of its binaries."""
    path = str(pathlib.PurePosixPath(self.binaries) / binary)
    return Task(name, path, arguments, needs)


@dataclasses.dataclass(frozen=True)
class Made:
  """A distilled set: the task that writes it, and the file in its folder."""

  task: Task
  file: str = 'distilled.safetensors'


def _cache(recipe: Recipe) -> Task:
  return recipe.task(
    'cache', 'cache.py', recipe.flagfile('cache'), '--folder={out}'
  )


def _translator(recipe: Recipe, name: str) -> Task:
  return recipe.task(
    name,
    'pretrain.py',
    recipe.flagfile(name),
    '--cache={cache}',
    '--workdir={out}',
    cache=_cache(recipe),
  )


def _network(recipe: Recipe) -> Task:
  return recipe.task(
    'bilevel', 'bilevel.py', recipe.flagfile('bilevel'), '--workdir={out}'
  )


def _distilled(
  name: str, flagfile: str, *further: str, **needs: Callable[[Recipe], Task]
) -> Callable[[Recipe, str, int], Made]:
  """A column of `distill.py`."""

  def make(recipe: Recipe, row: str, ipc: int) -> Made:
    task = recipe.task(
      f'{row}-{name}-ipc{ipc}',
      'distill.py',
      recipe.flagfile(row),
      recipe.flagfile(flagfile),
      *recipe.flags,
      *further,
      f'--ipc={ipc}',
      '--workdir={out}',
      **{key: needed(recipe) for key, needed in needs.items()},
    )
    return Made(task)

  return make


def adapted(
  recipe: Recipe,
  row: str,
  name: str,
  *further: str,
  adapt_ipcs: Sequence[int],
  pretrained: str | None = 'pretrain',
) -> Task:
  """One run of `adapt.py`, which makes a set of each IPC of the recipe.

  Args:
    recipe: of the table or figure.
    row: the target set, the name of a flagfile.
    name: of the task.
    *further: flags.
    adapt_ipcs: images per class to adapt on.
    pretrained: the flagfile of the translator's pre-training; None: a random
      translator.

  Returns:
    A task that writes `distilled_ipc<I>.safetensors`.
  """
  needs, start = {}, ['--translator=none', recipe.flagfile('no_pretrain')]
  if pretrained:
    needs = {'translator': _translator(recipe, pretrained)}
    start = ['--translator={translator}/translator.safetensors']
  return recipe.task(
    f'{row}-{name}',
    'adapt.py',
    recipe.flagfile(row),
    recipe.flagfile('adapt'),
    *start,
    *recipe.flags,
    *further,
    f'--adapt_ipcs={",".join(map(str, adapt_ipcs))}',
    f'--ipcs={",".join(map(str, recipe.ipcs))}',
    '--workdir={out}',
    **needs,
  )


def _adapted(
  name: str, pretrained: str | None, *further: str
) -> Callable[[Recipe, str, int], Made]:
  """A column of `adapt.py`, adapted on all IPCs of the table."""

  def make(recipe: Recipe, row: str, ipc: int) -> Made:
    task = adapted(
      recipe,
      row,
      name,
      *further,
      adapt_ipcs=recipe.ipcs,
      pretrained=pretrained,
    )
    return Made(task, f'distilled_ipc{ipc}.safetensors')

  return make


# As in the supplement's Table 1, with random real images before and ours last.
COLUMNS: dict[str, Callable[[Recipe, str, int], Made]] = {
  RANDOM_REAL: _distilled('one_net', 'one_net'),
  'Baseline': _distilled('baseline', 'baseline'),
  '1 Net': _distilled('one_net', 'one_net'),
  'Bi-Level': _distilled(
    'bilevel',
    'one_net',
    '--theta={theta}/network.safetensors',
    theta=_network,
  ),
  'w/o Pre-Train': _adapted('no_pretrain', None),
  'w AE': _adapted('ae', 'pretrain_ae'),
  'w/o Ada': _adapted('no_ada', 'pretrain', '--num_adaptation_steps=0'),
  'w Ada': _adapted('ada', 'pretrain'),
  'Pool': _distilled('pool', 'pool'),
}


def score_task(recipe: Recipe, row: str, column: str, ipc: int) -> Task:
  """The task that scores a cell, which needs the one that makes its set.

  Args:
    recipe: of the table.
    row: the target set, the name of a flagfile.
    column: a key of `COLUMNS`; random real images are scored with 1 Net.
    ipc: images per class.

  Returns:
    A task that writes `scores.json`.
  """
  is_one_net = column in (RANDOM_REAL, '1 Net')
  name = '1 Net' if is_one_net else column
  return score_of(
    recipe,
    COLUMNS[column](recipe, row, ipc),
    f'{row}-score-{name}-ipc{ipc}',
    random_real=is_one_net,
  )


def score_of(
  recipe: Recipe, made: Made, name: str, *, random_real: bool = False
) -> Task:
  """The task that scores a set.

  Args:
    recipe: tells protocols and the number of networks.
    made: the set.
    name: of the task.
    random_real: whether random real images of its IPC are scored as well.

  Returns:
    A task that writes `scores.json`.
  """
  return recipe.task(
    name,
    'evaluate.py',
    f'{{made}}/{made.file}',
    '--output={out}/scores.json',
    f'--protocols={",".join(recipe.protocols)}',
    f'--repeats={recipe.repeats}',
    '--random_real' if random_real else '--norandom_real',
    made=made.task,
  )


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a finished cell holds.

  Attributes:
    row: the target set.
    ipc: images per class.
    column: the method.
    scores: of `evaluate.Score.as_dict`, one a protocol.
    seconds: of each part of making the set, `compilation` apart; none for
      random real images.
  """

  row: str
  ipc: int
  column: str
  scores: tuple[Mapping[str, Any], ...]
  seconds: Mapping[str, float]

  @property
  def total_seconds(self) -> float:
    """Distillation and adaptation, without compilation."""
    return sum(v for k, v in self.seconds.items() if k != 'compilation')


def read_cell(
  recipe: Recipe, row: str, column: str, ipc: int, root: str | pathlib.Path
) -> Cell:
  """Reads the files of a cell whose tasks are done.

  Seconds of a run that was killed and started again are those of all its runs
  together, without what a kill lost.

  Args:
    recipe: of the table.
    row: as for `score_task`.
    column: as for `score_task`.
    ipc: as for `score_task`.
    root: folder of all tasks.

  Raises:
    FileNotFoundError: if its tasks did not run.
  """
  task = score_task(recipe, row, column, ipc)
  scores = read_scores(task, root)
  (name,) = [
    name for name in scores if (name == RANDOM_REAL) == (column == RANDOM_REAL)
  ]
  seconds: dict[str, float] = {}
  if column != RANDOM_REAL:
    made = task.needs['made'].folder(root)
    seconds = _of_ipc(metrics.read_seconds(made / 'seconds.jsonl'), ipc)
  return Cell(row, ipc, column, tuple(scores[name]), seconds)


def read_scores(
  task: Task, root: str | pathlib.Path
) -> dict[str, list[dict[str, Any]]]:
  """What a task of `score_of` wrote: scores by the name of the set."""
  path = task.folder(root) / 'scores.json'
  scores = files.read_json(path).get('scores')
  if not isinstance(scores, dict):
    raise ValueError(f'{path} holds no scores; delete it and start again.')
  return scores


def _of_ipc(runs: Sequence[Mapping[str, float]], ipc: int) -> dict[str, float]:
  """Seconds a part, without those of other IPCs that were made beside."""
  total: dict[str, float] = {}
  for run in runs:
    for part, seconds in run.items():
      of_other = ', IPC ' in part and not part.endswith(f', IPC {ipc}')
      if not of_other:
        total[part] = total.get(part, 0.0) + seconds
  return total
