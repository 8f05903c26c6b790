"""Accuracy against wall time: what a method's set scores while it is made."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from matplotlib import figure as mpl_figure

from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.evaluation import evaluate, protocols
from fsdd_jax.reporting import tables
from fsdd_jax.runtime import metrics, progress
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import LabeledSet

_TIMED, _TIMED_SHARE = 8, 0.1
TranslateFn = Callable[[Any, LabeledSet], LabeledSet]

_DEFAULTS = protocols.Settings()


class _TimeIsUpError(Exception):
  """Ends a method that is timed."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """A distilled set in the making.

  Attributes:
    seconds: wall time from the start of the method, statistics included,
      without compilation and without that of taking snapshots.
    step: of the part of the method that ran then.
    synthetic: the set at that time, on the host.
  """

  seconds: float
  step: int
  synthetic: LabeledSet


@dataclasses.dataclass(frozen=True)
class Point:
  """The score of a snapshot.

  Attributes:
    seconds: of the snapshot.
    step: of the snapshot.
    mean: accuracy in percent, over fresh networks.
    std: sample standard deviation (ddof = 1) over these; None for one.
    n: number of networks.
  """

  seconds: float
  step: int
  mean: float
  std: float | None
  n: int


def record(
  method: Callable[[LoopOptions], Any],
  *,
  every: int,
  translate_fn: TranslateFn | None = None,
  seconds: float = math.inf,
) -> list[Snapshot]:
  """Runs a method and keeps its set every few steps.

  Args:
    method: runs with the options it is given, which it must pass on to each of
      its parts. Parts may distil a set, or update a translator of the set that
      was distilled last. One without steps makes its result a snapshot.
    every: steps of a part between snapshots; its last step makes one, too.
    translate_fn: of omega and the set in theta, if a part updates omega.
    seconds: the method ends at the first snapshot after this time.

  Returns:
    Snapshots in the order of time.
  """
  snapshots: list[Snapshot] = []
  clock = metrics.StageClock()
  untranslated: LabeledSet | None = None
  start, paused = time.perf_counter(), 0.0

  def keep(step: int, state: Any) -> None:
    nonlocal untranslated, paused
    now = time.perf_counter()
    compiling = clock.seconds().get('compilation', 0.0)
    if hasattr(state, 'synthetic'):
      synthetic = untranslated = jax.device_get(state.synthetic)
    else:
      if translate_fn is None or untranslated is None:
        raise ValueError(
          'The method updates a translator: pass translate_fn, and let it '
          'distil the set in theta itself.'
        )
      synthetic = jax.device_get(translate_fn(state.params, untranslated))
    snapshots.append(
      Snapshot(now - start - paused - compiling, step, synthetic)
    )
    # What was compiled for the snapshot itself is in its pause already.
    compiled = clock.seconds().get('compilation', 0.0) - compiling
    paused += time.perf_counter() - now - compiled
    if snapshots[-1].seconds > seconds:
      raise _TimeIsUpError

  with clock.part('method'), contextlib.suppress(_TimeIsUpError):
    result = method(LoopOptions(None, every, every, state_fn=keep))
    if not snapshots:
      keep(0, result)
  return snapshots


def steps_within(
  method: Callable[[int, LoopOptions], Any],
  seconds: float,
  *,
  unlike_later: int,
  part: int = 0,
  translate_fn: TranslateFn | None = None,
) -> int:
  """How many steps of a method a time allows, by some that are timed.

  Eight are timed at first. If a tenth of the time is more than these take, the
  method runs again and that much is timed, as a machine's speed varies.

  Args:
    method: of a number of steps (of one of its parts) and options.
    seconds: the time, without compilation.
    unlike_later: how many of the first steps differ from all later ones; at
      least one.
    part: index of the part that the steps are of.
    translate_fn: as for `record`.

  Returns:
    The number of steps, at least one.
  """

  def told_by(number: int) -> tuple[int, float]:
    """The number of steps, and the seconds of one; inf if time was up."""
    snapshots = record(
      functools.partial(method, number),
      every=1,
      translate_fn=translate_fn,
      seconds=seconds,
    )
    timed = _seconds_of_part(snapshots, part)
    if len(timed) < number:
      return max(1, sum(time <= seconds for time in timed)), math.inf
    a_step = (timed[-1] - timed[unlike_later - 1]) / (number - unlike_later)
    beside = snapshots[-1].seconds - number * a_step
    return max(1, int((seconds - beside) / a_step)), a_step

  few = unlike_later + _TIMED
  steps, a_step = told_by(few)
  enough = unlike_later + math.ceil(_TIMED_SHARE * seconds / a_step)
  return told_by(enough)[0] if few < enough < steps else steps


def _seconds_of_part(snapshots: Sequence[Snapshot], part: int) -> list[float]:
  """When the steps of a part ended; none if it did not begin."""
  parts: list[list[Snapshot]] = []
  for snapshot in snapshots:
    # The first step of a part follows the last one of another.
    if not parts or snapshot.step <= parts[-1][-1].step:
      parts.append([])
    parts[-1].append(snapshot)
  return [x.seconds for x in parts[part]] if part < len(parts) else []


def score(
  key: jax.Array,
  snapshots: Sequence[Snapshot],
  dataset: Dataset,
  normalization: Normalization,
  network: nn.Module,
  *,
  repeats: int,
  split: str,
  protocol: str = 'krr',
  settings: protocols.Settings = _DEFAULTS,
) -> list[Point]:
  """Scores snapshots by one protocol, all in the same fresh networks.

  Args:
    key: consumed; all snapshots share the networks drawn from it.
    snapshots: what `record` gives.
    dataset: the images to measure on.
    normalization: that of the sets.
    network: the architecture.
    repeats: number of networks.
    split: what `dataset` is, for messages.
    protocol: a name in `evaluate.PROTOCOLS`.
    settings: what it leaves open.

  Returns:
    A point a snapshot.
  """
  points = []
  with progress.Bar(len(snapshots), 'score', unit='set') as bar:
    for snapshot in snapshots:
      found = evaluate.evaluate(
        key,
        snapshot.synthetic,
        dataset,
        normalization,
        network,
        protocol=protocol,
        repeats=repeats,
        split=split,
        settings=settings,
      )
      points.append(
        Point(snapshot.seconds, snapshot.step, found.mean, found.std, found.n)
      )
      bar.update()
  return points


def seconds_to_reach(points: Sequence[Point], accuracy: float) -> float | None:
  """When a curve first reached an accuracy; None if it never did."""
  return next((p.seconds for p in points if p.mean >= accuracy), None)


def draw(
  curves: Mapping[str, Sequence[Point]], *, title: str, ylabel: str
) -> mpl_figure.Figure:
  """A picture of curves over time, with bands of one standard deviation.

  Args:
    curves: points by the name of the method.
    title: of the picture.
    ylabel: what the accuracy is.

  Returns:
    A figure for `pictures.figure_png`.
  """
  figure = mpl_figure.Figure(figsize=(8, 5), layout='constrained')
  axes = figure.subplots()
  for name, points in curves.items():
    seconds = [p.seconds for p in points]
    mean = np.array([p.mean for p in points])
    spread = np.array([p.std or 0.0 for p in points])
    axes.plot(seconds, mean, marker='.', label=name)
    axes.fill_between(seconds, mean - spread, mean + spread, alpha=0.15)
  axes.set_xscale('log')
  axes.set_xlabel('seconds, without compilation')
  axes.set_ylabel(ylabel)
  axes.set_title(title)
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def to_table(
  points: Mapping[str, Sequence[Point]],
  steps: Mapping[str, int],
  title: str,
  label: str,
) -> tables.Table:
  """The end of each curve, and when it reached that of Baseline.

  Args:
    points: of the curves, by the name of the method.
    steps: of each method.
    title: of the table.
    label: says what is measured.

  Returns:
    A row for each method.
  """
  goal = points['Baseline'][-1].mean if 'Baseline' in points else None
  rows = []
  for name, curve in points.items():
    end = curve[-1]
    spread = '' if end.std is None else f' ± {end.std:.2f}'
    numbers = f'{end.mean:.2f}{spread}', str(steps[name]), f'{end.seconds:.1f}'
    seconds = None if goal is None else seconds_to_reach(curve, goal)
    reached = '' if seconds is None else f'{seconds:.1f}'
    rows.append([name, *numbers, reached])
  caption = (
    f'{label}: mean ± std (ddof=1) over n={end.n} fresh networks, one set. '
    "Seconds without compilation, and those until Baseline's accuracy."
  )
  columns = ['method', 'accuracy', 'steps', 'seconds', "to Baseline's"]
  return tables.Table(title, columns, rows, caption)
