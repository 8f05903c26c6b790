"""What compare.py found of each method at one IPC, kept to go on from."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from fsdd_jax.evaluation.evaluate import Score
from fsdd_jax.runtime import files
from fsdd_jax.runtime.workdir import differences, flatten
from workbench import curves


@dataclasses.dataclass(frozen=True)
class Record:
  """One method at one IPC.

  Attributes:
    title: its name.
    settings: all that shapes it but for the number of steps; JSON values.
    steps: that it took; 0 where it takes none.
    points: of its curve; the last one is its end.
    scores: of its end, by the name of the column.
  """

  title: str
  settings: Mapping[str, Any]
  steps: int
  points: tuple[curves.Point, ...]
  scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)

  @property
  def seconds(self) -> float:
    """Wall time of the method, without compilation."""
    return self.points[-1].seconds

  def as_dict(self) -> dict[str, Any]:
    """JSON values."""
    scores = {name: score.as_dict() for name, score in self.scores.items()}
    return {**dataclasses.asdict(self), 'scores': scores}


def path_of(workdir: pathlib.Path, ipc: int, text: str) -> pathlib.Path:
  """The file of a record; the distilled set lies beside it.

  Args:
    workdir: folder of the comparison.
    ipc: images per class.
    text: the method with its flags, as `--methods` names it.
  """
  name = ''.join(c if c.isalnum() or c in '-_.=' else '_' for c in text)
  return workdir / 'methods' / f'ipc{ipc}' / f'{name}.json'


def write(path: pathlib.Path, record: Record) -> None:
  """Writes a record, whole or not at all."""
  text = json.dumps(record.as_dict(), indent=2)
  files.write_bytes_atomic(path, f'{text}\n'.encode())


def read(path: pathlib.Path, settings: Mapping[str, Any]) -> Record | None:
  """Reads a record.

  Args:
    path: its file.
    settings: that the method has now.

  Returns:
    The record; None if there is none yet.

  Raises:
    ValueError: if it is of other settings, or damaged.
  """
  if not path.exists():
    return None
  found = files.read_json(path)
  try:
    record = Record(
      title=found['title'],
      settings=found['settings'],
      steps=found['steps'],
      points=tuple(curves.Point(**point) for point in found['points']),
      scores={k: _score(fields) for k, fields in found['scores'].items()},
    )
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no record of a method; delete it and start again.'
    ) from error
  changed = differences(flatten(record.settings), flatten(settings))
  if changed:
    raise ValueError(
      f'{path} is of other settings ({"; ".join(changed)}). Delete it to run '
      'the method anew, or choose a new workdir.'
    )
  return record


def _score(fields: Mapping[str, Any]) -> Score:
  """A score of what `Score.as_dict` gives."""
  given = {
    field.name: fields[field.name] for field in dataclasses.fields(Score)
  }
  return Score(**{**given, 'accuracies': tuple(given['accuracies'])})
