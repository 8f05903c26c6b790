"""Scores of methods beside each other, over time and at their ends.

Ends are scored by several protocols and in several architectures.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib import figure as mpl_figure

from fsdd_jax.data import resolution
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.evaluation import evaluate, protocols
from fsdd_jax.evaluation.evaluate import Score
from fsdd_jax.reporting import pictures, tables
from fsdd_jax.runtime import files
from fsdd_jax.types import LabeledSet
from workbench import curves, runners
from workbench.comparison_records import Record


class Scoring(NamedTuple):
  """What sets are scored on.

  Attributes:
    problem: network, target set and normalisation.
    held: the images.
    name: of the data set.
    columns: protocol and network of each column of the table of ends.
    repeats: fresh networks a score.
    split: what the images are.
    protocol: scores the points of curves.
  """

  problem: runners.Problem
  held: Dataset
  name: str
  columns: Mapping[str, tuple[str, Any]]
  repeats: int
  split: str
  protocol: str

  @property
  def label(self) -> str:
    """What the points of a curve are."""
    return f'{self.split} accuracy by {self.protocol} in unseen networks, %'

  def curve(self, snapshots: Sequence[curves.Snapshot]) -> list[curves.Point]:
    """Scores all snapshots of a method by the protocol.

    Those of a smaller theta are enlarged, as the translator takes them.
    """
    network, _, transform = self.problem
    shape = self.held.images.shape[1:]
    enlarged = [
      dataclasses.replace(
        snapshot, synthetic=resolution.upsample(snapshot.synthetic, shape)
      )
      for snapshot in snapshots
    ]
    return curves.score(
      *(jax.random.key(1000), enlarged, self.held, transform, network),
      repeats=self.repeats,
      split=self.split,
      protocol=self.protocol,
      settings=self._settings,
    )

  @property
  def _settings(self) -> protocols.Settings:
    return protocols.Settings(protocols.unsuitable_augmentation(self.name))

  def end(self, column: str, synthetic: LabeledSet) -> Score:
    """Scores a set in one column; all sets in the same networks."""
    _, _, transform = self.problem
    protocol, network = self.columns[column]
    return evaluate.evaluate(
      *(jax.random.key(1000), synthetic, self.held, transform, network),
      protocol=protocol,
      repeats=self.repeats,
      split=self.split,
      settings=self._settings,
    )


def to_table(
  ends: Mapping[str, Record], columns: Sequence[str], title: str, split: str
) -> tables.Table:
  """A row a method, a column a protocol or architecture."""
  first = next(iter(ends.values())).scores
  rows = [
    [
      *(name, str(end.steps), f'{end.seconds:.1f}'),
      *(str(end.scores[column]).partition(' (')[0] for column in columns),
    ]
    for name, end in ends.items()
  ]
  networks = '; '.join(
    f'{name}: {first[name].network}, n={first[name].n}' for name in columns
  )
  caption = (
    f'{split} accuracy in percent, mean ± std (ddof=1) over n fresh networks, '
    f'one set, its last step. {networks}. Seconds without compilation.'
  )
  heads = ['method', 'steps', 'seconds', *columns]
  return tables.Table(f'{title}, ends', heads, rows, caption)


def draw(
  ends: Mapping[str, Record], columns: Sequence[str], title: str, split: str
) -> mpl_figure.Figure:
  """A picture of the same: a bar a method and column, with its deviation."""
  figure = mpl_figure.Figure(
    figsize=(8, 2 + 0.15 * len(ends) * len(columns)), layout='constrained'
  )
  axes = figure.subplots()
  places, height = np.arange(len(ends)), 0.8 / len(columns)
  for index, column in enumerate(columns):
    scores = [end.scores[column] for end in ends.values()]
    axes.barh(
      places + (index - (len(columns) - 1) / 2) * height,
      [found.mean for found in scores],
      height,
      xerr=[found.std or 0.0 for found in scores],
      label=column,
    )
  axes.set_yticks(places, list(ends))
  axes.invert_yaxis()
  axes.set_xlabel(f'{split} accuracy, %')
  axes.set_title(title)
  axes.grid(axis='x', alpha=0.3)
  axes.legend()
  return figure


class Page(NamedTuple):
  """The files of a comparison at one IPC.

  Attributes:
    workdir: folder of the comparison.
    ipc: images per class.
    scoring: how points and ends were scored.
  """

  workdir: pathlib.Path
  ipc: int
  scoring: Scoring

  @property
  def title(self) -> str:
    """Of pictures and tables."""
    return f'{self.scoring.name}, IPC {self.ipc}'

  def write_curves(self, records: Mapping[str, Record]) -> tables.Table:
    """Writes `compare_ipcI`, of methods by their names; returns the table."""
    title, label = self.title, self.scoring.label
    points = {name: record.points for name, record in records.items()}
    steps = {name: record.steps for name, record in records.items()}
    table = curves.to_table(points, steps, title, label)
    found = {
      name: list(map(dataclasses.asdict, each)) for name, each in points.items()
    }
    _write(
      self.workdir / f'compare_ipc{self.ipc}.json',
      {'title': title, 'steps': steps, 'curves': found},
      curves.draw(points, title=title, ylabel=label),
      table,
    )
    return table

  def write_ends(self, records: Mapping[str, Record]) -> tables.Table:
    """Writes `ends_ipcI`, of methods that are scored; returns the table."""
    title, split = self.title, self.scoring.split
    columns = list(self.scoring.columns)
    table = to_table(records, columns, title, split)
    ends = {
      name: {
        'steps': record.steps,
        'seconds': record.seconds,
        'scores': {c: record.scores[c].as_dict() for c in columns},
      }
      for name, record in records.items()
    }
    _write(
      self.workdir / f'ends_ipc{self.ipc}.json',
      {'title': title, 'ends': ends},
      draw(records, columns, title, split),
      table,
    )
    return table


def _write(
  path: pathlib.Path,
  values: Any,
  picture: mpl_figure.Figure,
  table: tables.Table,
) -> None:
  """Writes numbers as JSON; picture and table lie beside them."""
  text = json.dumps(values, indent=2) + '\n'
  files.write_bytes_atomic(path, text.encode())
  png = pictures.figure_png(picture)
  files.write_bytes_atomic(path.with_suffix('.png'), png)
  csv = tables.to_csv(table)
  files.write_bytes_atomic(path.with_suffix('.csv'), csv.encode())
