"""The columns of Table 1 as tasks: the commands that make and score each cell.

A recipe is a family of flagfiles in one folder: `<scale>_<row>.flags` names the
target set and its networks, `<scale>_<stage>.flags` says how a stage runs.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from workbench.tasks import Task

RANDOM_REAL = 'random real'
REAL = '--method=random_real'
_PRETRAINED = 'pretrain'  # The flagfile of Alg. 2.
_ONE_NET = 'one_net'  # That of all that distils in one network.
_FIRST_SEED = 1000  # Of the networks of scores, as by default.


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
    translator: a translator's file, or the name of a shipped one, instead of
      one that is pre-trained by the flagfiles.
    seed: of what is distilled, and of the networks that it is scored in; None:
      those of the flagfiles.
    image_flags: further flags of all that loads images, of the large set too.
    theta_flags: further flags of all that distils in one network, caches too.
    common_flags: further flags of every task.
  """

  binaries: str
  folder: str
  scale: str
  ipcs: tuple[int, ...]
  protocols: tuple[str, ...] = ('krr',)
  repeats: int = 3
  flags: tuple[str, ...] = ()
  translator: str = ''
  seed: int | None = None
  image_flags: tuple[str, ...] = ()
  theta_flags: tuple[str, ...] = ()
  common_flags: tuple[str, ...] = ()

  @property
  def target_flags(self) -> tuple[str, ...]:
    """Flags of all that loads the target set, after the flagfiles."""
    seeds = () if self.seed is None else (f'--seed={self.seed}',)
    return (*self.image_flags, *self.flags, *seeds)

  def flagfile(self, name: str) -> str:
    """The flag that reads one of its flagfiles."""
    return f'--flagfile={self.folder}/{self.scale}_{name}.flags'

  def task(
    self, name: str, binary: str, *arguments: str, **needs: Task
  ) -> Task:
    """A task of one of its binaries."""
    path = str(pathlib.PurePosixPath(self.binaries) / binary)
    return Task(name, path, (*arguments, *self.common_flags), needs)


@dataclasses.dataclass(frozen=True)
class Made:
  """A distilled set: the task that writes it, and the file in its folder."""

  task: Task
  file: str = 'distilled.safetensors'


def _cache(recipe: Recipe) -> Task:
  return recipe.task(
    'cache',
    'cache.py',
    recipe.flagfile('cache'),
    *recipe.theta_flags,
    *recipe.image_flags,
    '--folder={out}',
  )


def _translator(recipe: Recipe, name: str) -> Task:
  return recipe.task(
    name,
    'pretrain.py',
    recipe.flagfile(name),
    *recipe.image_flags,
    '--cache={cache}',
    '--workdir={out}',
    cache=_cache(recipe),
  )


def _network(recipe: Recipe) -> Task:
  return recipe.task(
    'bilevel',
    'bilevel.py',
    recipe.flagfile('bilevel'),
    *recipe.image_flags,
    '--workdir={out}',
  )


def _distilled(
  name: str,
  flagfile: str | None,
  *further: str,
  file: str = 'distilled',
  **needs: Callable[[Recipe], Task],
) -> Callable[[Recipe, str, int], Made]:
  """A column of `distill.py`."""

  def make(recipe: Recipe, row: str, ipc: int) -> Made:
    in_theta = recipe.theta_flags if flagfile == _ONE_NET else ()
    task = recipe.task(
      f'{row}-{name}-ipc{ipc}',
      'distill.py',
      recipe.flagfile(row),
      *([recipe.flagfile(flagfile)] if flagfile else []),
      *in_theta,
      *recipe.target_flags,
      *further,
      f'--ipc={ipc}',
      '--workdir={out}',
      **{key: needed(recipe) for key, needed in needs.items()},
    )
    return Made(task, f'{file}.safetensors')

  return make


def adapted(
  recipe: Recipe,
  row: str,
  name: str,
  *further: str,
  adapt_ipcs: Sequence[int],
  pretrained: str | None = _PRETRAINED,
  flagfile: str | None = None,
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
    flagfile: a further one of `adapt.py`.

  Returns:
    A task that writes `distilled_ipc<I>.safetensors`.
  """
  start = ['--translator=none', recipe.flagfile('no_pretrain')]
  needs = {}
  if pretrained == _PRETRAINED and recipe.translator:
    start = [f'--translator={recipe.translator}']
  elif pretrained:
    needs = {'translator': _translator(recipe, pretrained)}
    start = ['--translator={translator}/translator.safetensors']
  return recipe.task(
    f'{row}-{name}',
    'adapt.py',
    recipe.flagfile(row),
    recipe.flagfile('adapt'),
    *([recipe.flagfile(flagfile)] if flagfile else []),
    *start,
    *recipe.theta_flags,
    *recipe.target_flags,
    *further,
    f'--adapt_ipcs={",".join(map(str, adapt_ipcs))}',
    f'--ipcs={",".join(map(str, recipe.ipcs))}',
    '--workdir={out}',
    **needs,
  )


def _adapted(
  name: str,
  pretrained: str | None,
  *further: str,
  flagfile: str | None = None,
  file: str = 'distilled',
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
      flagfile=flagfile,
    )
    return Made(task, f'{file}_ipc{ipc}.safetensors')

  return make


_one_net = _distilled('one_net', _ONE_NET)

# Of an adaptation that serves IPCs that are not among its own: these lose where
# each of its own has one set alone.
FOR_UNSEEN = ('--num_starts=4', '--thinned=0.5')

# As in the supplement's Table 1, with random real images before and ours last.
COLUMNS: dict[str, Callable[[Recipe, str, int], Made]] = {
  RANDOM_REAL: _one_net,
  'Baseline': _distilled('baseline', 'baseline'),
  '1 Net': _one_net,
  'Bi-Level': _distilled(
    'bilevel', _ONE_NET, '--theta={theta}/network.safetensors', theta=_network
  ),
  'w/o Pre-Train': _adapted('no_pretrain', None),
  'w AE': _adapted('ae', 'pretrain_ae'),
  'w/o Ada': _adapted('no_ada', _PRETRAINED, '--num_adaptation_steps=0'),
  'w Ada': _adapted('ada', _PRETRAINED),
  'Pool': _distilled('pool', 'pool'),
  'w/o Ada + labels': _adapted(
    'no_ada_labels', _PRETRAINED, flagfile='labels', file='fitted'
  ),
  'w/o Ada + Pool': _adapted(
    'no_ada_then_pool',
    _PRETRAINED,
    '--num_adaptation_steps=0',
    flagfile='then_pool',
    file='finished',
  ),
  'w Ada + Pool': _adapted(
    'then_pool', _PRETRAINED, flagfile='then_pool', file='finished'
  ),
  'random real + labels': _distilled(
    *('real_labels', None, REAL, '--label_networks=16', '--label_images=1000'),
    file='fitted',
  ),
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
    recipe: its protocols and number of networks.
    made: the set.
    name: of the task.
    random_real: whether random real images of its IPC are scored as well.

  Returns:
    A task that writes `scores.json`.
  """
  own = recipe.seed
  seeds = () if own is None else (f'--evaluation_seed={_FIRST_SEED + own}',)
  return recipe.task(
    name,
    'evaluate.py',
    f'{{made}}/{made.file}',
    '--output={out}/scores.json',
    f'--protocols={",".join(recipe.protocols)}',
    f'--repeats={recipe.repeats}',
    '--random_real' if random_real else '--norandom_real',
    *seeds,
    made=made.task,
  )
