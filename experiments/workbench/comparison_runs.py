"""Runs and scores the methods that compare.py compares, each once."""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fsdd_jax.algorithms import in_theta
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.data import resolution
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks.translator import translate
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import LabeledSet, labeled_set
from workbench import comparison_records, curves, problems, results, runners
from workbench.comparison import Scoring
from workbench.comparison_records import Record


class Plan(NamedTuple):
  """What is the same for all methods.

  Attributes:
    problem: target set, network and translator.
    scoring: how points and ends are scored.
    seconds: time of each method; 0 for the steps of its flagfile.
    points: of each part of a curve.
    translating: as `curves.record` takes it, by the distillation in theta.
  """

  problem: problems.AdaptationProblem
  scoring: Scoring
  seconds: float
  points: int
  translating: Callable[[DistillationConfig], curves.TranslateFn]


def run(
  runner: runners.Runner, plan: Plan
) -> tuple[list[curves.Snapshot], int]:
  """Runs a method, as long as its time allows.

  Args:
    runner: the method.
    plan: what all methods share.

  Returns:
    Its snapshots and its number of steps.
  """
  steps, translate_fn = runner.num_steps, plan.translating(runner.distillation)
  if plan.seconds and steps and runner.unlike_later is not None:
    steps = curves.steps_within(
      runner.run,
      plan.seconds,
      unlike_later=runner.unlike_later,
      part=runner.part,
      translate_fn=translate_fn,
    )
    if steps == 1:
      warnings.warn(
        f'{plan.seconds:g} s leave {runner.title} a single step. Give it more '
        'time, or fewer networks if it sums statistics of many.',
        stacklevel=2,
      )
  snapshots = curves.record(
    functools.partial(runner.run, steps),
    every=max(1, steps // plan.points),
    translate_fn=translate_fn,
  )
  return snapshots, steps


def run_once(path: pathlib.Path, runner: runners.Runner, plan: Plan) -> Record:
  """What is known of a method, which runs if that is nothing yet.

  Args:
    path: of the record; the distilled set is written beside it.
    runner: the method.
    plan: what all methods share.

  Returns:
    A record with the points of its curve.

  Raises:
    ValueError: if the file is of other settings, or damaged.
  """
  record = comparison_records.read(path, runner.settings)
  if record is not None:
    return record
  snapshots, steps = run(runner, plan)
  problem = plan.problem
  distilled = results.describe_result(
    snapshots[-1].synthetic,
    problem.normalization,
    problem.dataset,
    problem.data,
    runner.network,
    runner.distillation,
    method=runner.title,
    further={**runner.further, 'steps': steps},
  )
  adapted = runner.further.get('adaptation', {})
  if 'labels' in runner.further or adapted.get('fit_labels'):
    distilled = results.with_learned_labels(distilled)
  distilled_set.save_distilled(_set_of(path), distilled)
  points = tuple(plan.scoring.curve(snapshots))
  record = Record(runner.title, runner.settings, steps, points)
  comparison_records.write(path, record)
  return record


def score_once(path: pathlib.Path, record: Record, scoring: Scoring) -> Record:
  """Scores a set in each column, and writes each score once it is known.

  Args:
    path: of the record.
    record: of the method.
    scoring: the columns.

  Returns:
    The record with a score in each column.
  """
  missing = [name for name in scoring.columns if name not in record.scores]
  if missing:
    distilled = distilled_set.read_distilled(_set_of(path))
    synthetic = labeled_set(
      jnp.asarray(distilled.images), jnp.asarray(distilled.labels)
    )
  for column in missing:
    scores = {**record.scores, column: scoring.end(column, synthetic)}
    record = dataclasses.replace(record, scores=scores)
    comparison_records.write(path, record)
  return record


def translating(
  problem: problems.AdaptationProblem,
) -> Callable[[DistillationConfig], curves.TranslateFn]:
  """Functions of omega that translate a set as it was distilled in theta.

  Args:
    problem: target set and translator.

  Returns:
    A function of the distillation in theta, whose seed, IPC and short classes
    fix the start of the set; it returns what `curves.record` takes.
  """
  start, train = problem.start, problem.dataset
  target = TargetSet(train, problem.normalization)

  @functools.cache
  def began_with(config: DistillationConfig) -> jax.Array:
    return in_theta.start_of(
      start.theta, target, name=(config.ipc, 0), config=config
    ).images

  @jax.jit
  def translated(params: Any, labeled: LabeledSet) -> LabeledSet:
    labeled = resolution.upsample(labeled, train.images.shape[1:])
    return translate(
      start.translator, {'params': params}, labeled, start.maps_of
    )

  def from_theta(
    config: DistillationConfig, params: Any, labeled: LabeledSet
  ) -> LabeledSet:
    return translated(
      params, dataclasses.replace(labeled, start=began_with(config))
    )

  return lambda config: functools.partial(from_theta, config)


def _set_of(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix('.safetensors')
