"""What the finished tasks of a table hold: scores and seconds."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fsdd_jax.runtime import files, metrics
from workbench.columns import RANDOM_REAL, Recipe, score_task
from workbench.tasks import Task


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


def over_seeds(cells: Sequence[Cell]) -> Cell:
  """Cells of one place, each by another seed, as one.

  Args:
    cells: at least one.

  Returns:
    The cell itself if it is the only one. Else the mean of each seed is an
    accuracy, of which there are mean and standard deviation; seconds are the
    mean over seeds.
  """
  if len(cells) == 1:
    return cells[0]
  scores = []
  for each in zip(*(cell.scores for cell in cells), strict=True):
    means = [score['mean'] for score in each]
    changed = {
      'accuracies': means,
      'mean': statistics.mean(means),
      'std': statistics.stdev(means),
      'n': len(means),
    }
    scores.append({**each[0], **changed})
  parts = dict.fromkeys(part for cell in cells for part in cell.seconds)
  seconds = {
    part: statistics.mean(cell.seconds.get(part, 0.0) for cell in cells)
    for part in parts
  }
  return dataclasses.replace(cells[0], scores=tuple(scores), seconds=seconds)


def read_scores(
  task: Task, root: str | pathlib.Path
) -> dict[str, list[dict[str, Any]]]:
  """What a task of `score_of` wrote: scores by the name of the set."""
  path = task.folder(root) / 'scores.json'
  scores = files.read_json(path).get('scores')
  if not isinstance(scores, dict):
    raise ValueError(f'{path} holds no scores; delete it and start again.')
  return scores


def read_score(task: Task, root: str | pathlib.Path) -> dict[str, Any]:
  """As `read_scores`, of a task that scored one set by one protocol."""
  ((score,),) = read_scores(task, root).values()
  return score


def accuracy(score: Mapping[str, Any]) -> str:
  """A score's mean, and its deviation if it has one, in percent."""
  spread = '' if score['std'] is None else f' ± {score["std"]:.1f}'
  return f'{score["mean"]:.1f}{spread}'


def _of_ipc(runs: Sequence[Mapping[str, float]], ipc: int) -> dict[str, float]:
  """Seconds a part, without those of other IPCs that were made beside."""
  total: dict[str, float] = {}
  for run in runs:
    for part, seconds in run.items():
      of_other = ', IPC ' in part and not part.endswith(f', IPC {ipc}')
      if not of_other:
        total[part] = total.get(part, 0.0) + seconds
  return total
