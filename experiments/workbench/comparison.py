"""Scores of methods beside each other, over time and at their ends.

Ends are scored by several protocols and in several architectures.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import figure as mpl_figure

from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.evaluation import evaluate, protocols
from fsdd_jax.evaluation.evaluate import Score
from fsdd_jax.reporting import pictures, tables
from fsdd_jax.runtime import files
from fsdd_jax.types import LabeledSet
from workbench import curves, runners


@dataclasses.dataclass(frozen=True)
class End:
  """The end of a method.

  Attributes:
    steps: that it took; 0 where it takes none.
    seconds: wall time, without compilation.
    scores: by the name of the column.
  """

  steps: int
  seconds: float
  scores: Mapping[str, Score]

  def as_dict(self) -> dict[str, Any]:
    """JSON values."""
    scores = {name: score.as_dict() for name, score in self.scores.items()}
    return {'steps': self.steps, 'seconds': self.seconds, 'scores': scores}


def score(
  key: jax.Array,
  synthetic: LabeledSet,
  dataset: Dataset,
  normalization: Normalization,
  *,
  columns: Mapping[str, tuple[str, nn.Module]],
  repeats: int,
  split: str,
  dataset_name: str = '',
) -> dict[str, Score]:
  """Scores a set in each column.

  Args:
    key: consumed; all sets that share it are scored in the same networks.
    synthetic: the distilled set, without padding.
    dataset: the images to measure on.
    normalization: that of the set.
    columns: protocol and network by the name of the column.
    repeats: fresh networks a column.
    split: what `dataset` is.
    dataset_name: some augmentations do not suit some data.

  Returns:
    A score a column.
  """
  without = protocols.unsuitable_augmentation(dataset_name)
  synthetic = jax.tree.map(jnp.asarray, synthetic)
  return {
    name: evaluate.evaluate(
      *(key, synthetic, dataset, normalization, network),
      protocol=protocol,
      repeats=repeats,
      split=split,
      settings=protocols.Settings(without),
    )
    for name, (protocol, network) in columns.items()
  }


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
    """Scores all snapshots of a method by the protocol."""
    network, _, transform = self.problem
    return curves.score(
      *(jax.random.key(1000), snapshots, self.held, transform, network),
      repeats=self.repeats,
      split=self.split,
      protocol=self.protocol,
    )

  def end(self, steps: int, last: curves.Snapshot) -> End:
    """Scores the end of a method in each column."""
    _, _, transform = self.problem
    scores = score(
      *(jax.random.key(1000), last.synthetic, self.held, transform),
      columns=self.columns,
      repeats=self.repeats,
      split=self.split,
      dataset_name=self.name,
    )
    return End(steps, last.seconds, scores)


def to_table(ends: Mapping[str, End], title: str, split: str) -> tables.Table:
  """A row a method, a column a protocol or architecture."""
  first = next(iter(ends.values())).scores
  rows = [
    [
      *(name, str(end.steps), f'{end.seconds:.1f}'),
      *(str(found).partition(' (')[0] for found in end.scores.values()),
    ]
    for name, end in ends.items()
  ]
  networks = '; '.join(f'{n}: {s.network}, n={s.n}' for n, s in first.items())
  caption = (
    f'{split} accuracy in percent, mean ± std (ddof=1) over n fresh networks, '
    f'one set, its last step. {networks}. Seconds without compilation.'
  )
  columns = ['method', 'steps', 'seconds', *first]
  return tables.Table(f'{title}, ends', columns, rows, caption)


def draw(ends: Mapping[str, End], title: str, split: str) -> mpl_figure.Figure:
  """A picture of the same: a bar a method and column, with its deviation."""
  columns = list(next(iter(ends.values())).scores)
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


def write(
  path: pathlib.Path,
  values: Any,
  picture: mpl_figure.Figure,
  table: tables.Table,
) -> None:
  """Writes numbers, picture and table of the methods that are done.

  Args:
    path: of the numbers, `*.json`; picture and table lie beside it.
    values: the numbers, JSON values.
    picture: a figure.
    table: written as CSV.
  """
  text = json.dumps(values, indent=2) + '\n'
  files.write_bytes_atomic(path, text.encode())
  png = pictures.figure_png(picture)
  files.write_bytes_atomic(path.with_suffix('.png'), png)
  csv = tables.to_csv(table)
  files.write_bytes_atomic(path.with_suffix('.csv'), csv.encode())
