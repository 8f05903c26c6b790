"""What a binary writes and prints when its work is done."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from fsdd_jax.data import datasets
from fsdd_jax.data import normalization as normalization_lib
from fsdd_jax.reporting import console, pictures, tables
from fsdd_jax.runtime import files
from fsdd_jax.runtime.versions import library_versions
from fsdd_jax.runtime.workdir import differences
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import LabeledSet
from workbench.columns import Recipe


def describe_result(
  synthetic: LabeledSet,
  normalization: normalization_lib.Normalization,
  dataset: datasets.Dataset,
  data: DataConfig,
  network: NetworkConfig,
  config: DistillationConfig,
  scores: Sequence[dict[str, Any]] = (),
  *,
  method: str = '',
  further: Mapping[str, Any] | None = None,
  theta_seed: int | None = None,
) -> distilled_set.DistilledSet:
  """A distilled set with all that its file says about it.

  Args:
    synthetic: the set, without padding.
    normalization: how images became network inputs.
    dataset: the target set.
    data: where that came from.
    network: the network that the set was made for.
    config: its distillation.
    scores: measured accuracies.
    method: the row of a table that it is; by default that of Alg. 4.
    further: what else the file records, by name; JSON values.
    theta_seed: of the fixed network that it was distilled in, if in one.

  Returns:
    What `distilled_set.save_distilled` writes.
  """
  seeds = {} if theta_seed is None else {'theta': theta_seed}
  learned = config.label_learning_rate > 0
  metadata = distilled_set.Metadata(
    dataset=data.dataset,
    class_names=dataset.class_names,
    label_coding='learned' if learned else config.label_coding,
    ipc=config.ipc,
    network=dataclasses.asdict(network),
    recipe={
      'method': method or baseline.method_name(config),
      'data': dataclasses.asdict(data),
      'distillation': dataclasses.asdict(config),
      **(further or {}),
    },
    seeds={'distillation': config.seed, **seeds},
    scores=tuple(scores),
  )
  return distilled_set.DistilledSet(
    np.asarray(synthetic.images),
    np.asarray(synthetic.labels),
    normalization,
    metadata,
  )


def with_learned_labels(
  distilled: distilled_set.DistilledSet,
) -> distilled_set.DistilledSet:
  """The set, whose file says that its labels were fitted."""
  metadata = dataclasses.replace(distilled.metadata, label_coding='learned')
  return dataclasses.replace(distilled, metadata=metadata)


def write_result(
  path: pathlib.Path, distilled: distilled_set.DistilledSet
) -> None:
  """Writes a distilled set and its picture, and says how to score it.

  A file that holds this very set stays, with its scores and with the versions
  that made it, as when a finished command is given again.
  """
  with distilled_set.written_in_turn(path):
    if not _holds(path, distilled):
      distilled_set.save_distilled(path, distilled)
  pictures.save_grid(
    path.with_suffix('.png'),
    np.asarray(
      normalization_lib.denormalize(
        jnp.asarray(distilled.images), distilled.normalization
      )
    ),
    distilled.metadata.class_names,
    ipc=distilled.metadata.ipc,
  )
  print(f'Score it: python experiments/evaluate.py {path}')


def _holds(path: pathlib.Path, distilled: distilled_set.DistilledSet) -> bool:
  """Whether a file holds a set, whatever its scores and versions."""
  try:
    found = distilled_set.read_distilled(path)
  except (FileNotFoundError, ValueError):  # None yet, or a damaged one.
    return False
  left_out = {'scores': None, 'versions': None}
  facts = (
    {
      **dataclasses.asdict(each.metadata),
      **left_out,
      **normalization_lib.describe_normalization(each.normalization),
    }
    for each in (found, distilled)
  )
  return (
    not differences(*facts)
    and np.array_equal(found.images, distilled.images)
    and np.array_equal(found.labels, distilled.labels)
  )


def report_seconds(title: str, seconds: Mapping[str, float]) -> None:
  """Prints the seconds of a stage, over all its runs.

  Args:
    title: what ran.
    seconds: of each part, from `StageClock.seconds`.
  """
  parts = ', '.join(f'{part} {spent:.1f} s' for part, spent in seconds.items())
  print(f'{title}: {parts}')


def write_table(
  workdir: pathlib.Path,
  name: str,
  table: tables.Table,
  records: Any,
  recipe: Recipe,
  *,
  shown: Sequence[tuple[str, tables.Picture]] = (),
) -> None:
  """Writes a table as Markdown, CSV, LaTeX, JSON and HTML; prints it.

  Args:
    workdir: the folder of results.
    name: of the files.
    table: what to show.
    records: the numbers behind it, JSON values.
    recipe: how it was made.
    shown: captions and pictures for the HTML page.
  """
  settings = {**library_versions(), 'scale': recipe.scale}
  text = json.dumps({'settings': settings, 'records': records}, indent=2)
  for ending, content in (
    ('md', tables.to_markdown(table)),
    ('csv', tables.to_csv(table)),
    ('tex', tables.to_latex(table)),
    ('json', f'{text}\n'),
  ):
    files.write_bytes_atomic(workdir / f'{name}.{ending}', content.encode())
  tables.write_report(
    workdir / f'{name}.html',
    title=table.title,
    tables=[table],
    pictures=shown,
    settings=settings,
  )
  console.show(table)
  print(f'Wrote {name}.md, .csv, .tex, .json and .html to {workdir}.')
