"""Runs and scores the methods that compare.py compares, each once."""

import dataclasses
import functools
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fsdd_jax.algorithms import in_theta
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
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
    translate_fn: as for `curves.record`.
  """

  problem: problems.AdaptationProblem
  scoring: Scoring
  seconds: float
  points: int
  translate_fn: curves.TranslateFn


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
  steps = runner.num_steps
  if plan.seconds and steps and runner.unlike_later is not None:
    steps = curves.steps_within(
      runner.run,
      plan.seconds,
      unlike_later=runner.unlike_later,
      part=runner.part,
      translate_fn=plan.translate_fn,
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
    translate_fn=plan.translate_fn,
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
  problem: problems.AdaptationProblem, seed: int
) -> curves.TranslateFn:
  """A function of omega that translates a set as it was distilled in theta.

  Args:
    problem: target set and translator.
    seed: of the start of sets.

  Returns:
    As for `curves.record`.
  """
  start, train = problem.start, problem.dataset
  target = TargetSet(train, problem.normalization)

  @functools.cache
  def began_with(ipc: int) -> jax.Array:
    config = AdaptationConfig(seed=seed)
    return in_theta.start_of(
      start.theta, target, name=(ipc, 0), config=config
    ).images

  @jax.jit
  def translated(params: Any, labeled: LabeledSet) -> LabeledSet:
    labeled = resolution.upsample(labeled, train.images.shape[1:])
    return translate(
      start.translator, {'params': params}, labeled, start.maps_of
    )

  def from_theta(params: Any, labeled: LabeledSet) -> LabeledSet:
    ipc = len(labeled.mask) // train.num_classes
    return translated(
      params, dataclasses.replace(labeled, start=began_with(ipc))
    )

  return from_theta


def _set_of(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix('.safetensors')
