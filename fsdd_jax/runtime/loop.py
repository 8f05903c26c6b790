"""The one loop of all stages: it resumes, logs, saves, and stops on NaN.

  with Loop('adapt', state, num_steps=200, options=options) as loop:
    for step in loop:
      loop.state, loop.metrics = update(loop.state, *inputs_at(step))

The loop stays in Python: on the CPU, XLA runs convolutions inside a compiled
loop several times slower.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.options import whole
from fsdd_jax.runtime import (
  files,
  finite,
  metrics,
  preemption,
  processes,
  progress,
)
from fsdd_jax.runtime.checkpoints import Checkpointer
from fsdd_jax.runtime.devices import local

ProgressFn = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class LoopOptions:
  """How a stage is watched and where it keeps its state.

  Attributes:
    workdir: folder of checkpoints, metrics and settings; None writes nothing.
    checkpoint_every: steps between checkpoints.
    log_every: steps between log lines; losses reach the host only then.
    progress_fn: called at each log line and checkpoint with the steps done and
      the metrics.
    state_fn: called there with the steps done and the stage's state, for
      curves; it must copy what it keeps, as the next step donates the state.
    clock: writes its seconds with each checkpoint; see `with_clock`.
    progress: whether the stage shows bars.

  Example:
    >>> options = LoopOptions('runs/mine', log_every=1, progress_fn=print)
    >>> options.checkpoint_every, options.log_every
    (50, 1)
  """

  workdir: str | os.PathLike[str] | None = None
  checkpoint_every: int = 50
  log_every: int = 10
  progress_fn: ProgressFn | None = None
  state_fn: Callable[[int, Any], None] | None = None
  clock: metrics.StageClock | None = None
  progress: bool = True

  def __post_init__(self) -> None:
    if self.workdir is not None:
      object.__setattr__(self, 'workdir', files.resolve(self.workdir))
    for name in ('checkpoint_every', 'log_every'):
      number = whole(name, getattr(self, name), least=1)
      object.__setattr__(self, name, number)


def with_clock(
  options: LoopOptions, clock: metrics.StageClock | None = None
) -> tuple[LoopOptions, metrics.StageClock]:
  """Options with a clock, and the clock.

  Args:
    options: of a stage.
    clock: by default that of the options, else one that goes on from
      `seconds.jsonl` in the work directory.
  """
  if clock is None:
    clock = options.clock
  if clock is None:
    workdir = options.workdir
    path = None if workdir is None else f'{workdir}/seconds.jsonl'
    clock = metrics.StageClock(path)
  return dataclasses.replace(options, clock=clock), clock


def with_progress(
  options: LoopOptions | None, progress_fn: ProgressFn | None
) -> LoopOptions:
  """Options, or their defaults, that call `progress_fn` if it is not None."""
  options = options or LoopOptions()
  if progress_fn is None:
    return options
  return dataclasses.replace(options, progress_fn=progress_fn)


class Loop:
  """Restores a stage's state and counts, follows and saves its steps.

  Used as a context; on leaving it, everything saved is on disk. Of several
  processes, the first alone writes. Within the context, SIGTERM to any of them
  ends all after the step under way (several: that of the next log line), whose
  state is saved.

  Attributes:
    state: after the steps done; each turn of the loop sets it.
    metrics: of the last step, which each turn of the loop sets, too.
  """

  state: Any
  metrics: Mapping[str, jax.Array]

  def __init__(
    self,
    description: str,
    state: Any,
    *,
    num_steps: int,
    options: LoopOptions,
    diagnose: Callable[[int, Any], str] | None = None,
  ) -> None:
    """Opens the files of the work directory, if there is one.

    Args:
      description: what the progress bar calls the stage.
      state: before the first step; it has the number of steps done, `step`.
        The context begins with it, or with the last one saved.
      num_steps: the total number of steps.
      options: where and how often to write.
      diagnose: says what a state looks like whose step with the given index
        was not finite, for the error message.

    Raises:
      OSError: if another program works in the work directory, or it cannot be
        written.
    """
    self.state = state
    self._description = description
    self._num_steps = num_steps
    self._options = options
    self._diagnose = diagnose
    self._pending: list[tuple[int, Any]] = []
    self._unknown: set[str] = set()  # Leaves not finite before any step.
    self._checkpointer: Checkpointer | None = None
    self._writer: metrics.MetricWriter | None = None
    self._stack = contextlib.ExitStack()
    if not options.progress:
      self._stack.enter_context(progress.hidden())
    self._bar = self._stack.enter_context(
      progress.Bar(num_steps, description, unit='step')
    )
    if options.workdir is not None:
      folder = pathlib.Path(options.workdir) / 'checkpoints'
      with self._undone_on_error():
        if processes.is_first_process():
          self._stack.enter_context(files.lock(options.workdir))
        self._checkpointer = self._stack.enter_context(Checkpointer(folder))

  def __enter__(self) -> 'Loop':
    with self._undone_on_error():
      self._stack.enter_context(preemption.defer())
      self.state = self._restore_or(self.state)
    return self

  @contextlib.contextmanager
  def _undone_on_error(self) -> Iterator[None]:
    """Frees the folder and the signals, so that the remedy can be tried."""
    try:
      yield
    except BaseException:
      self._stack.close()
      raise

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._stack.__exit__(kind, error, trace)

  def __iter__(self) -> Iterator[int]:
    """Yields the index of each step to do, and then follows this step.

    Raises:
      FloatingPointError: if a loss since the last log line was not finite.
      SystemExit: after SIGTERM.
    """
    for index in range(int(self.state.step), self._num_steps):
      yield index
      self.on_step(index + 1, self.state, self.metrics)

  def on_first_device(self) -> Any:
    """The state on the first device, wherever the steps left it."""
    return jax.tree.map(jnp.asarray, jax.device_get(self.state))

  def _restore_or(self, state: Any) -> Any:
    """The last saved state, or the given one."""
    self._unknown = set(finite.bad_leaves(local(state)))
    if self._checkpointer is None or self._options.workdir is None:
      return state
    state = self._checkpointer.restore_or(state)
    done = int(state.step)
    if processes.is_first_process():
      self._writer = self._stack.enter_context(
        metrics.MetricWriter(self._options.workdir, resume_step=done)
      )
    self._bar.start_at(done, self._num_steps)
    return state

  def on_step(
    self, done: int, state: Any, step_metrics: Mapping[str, jax.Array]
  ) -> None:
    """Logs, checks and saves after one step."""
    self._pending.append((done, step_metrics))
    self._bar.update()
    last = done == self._num_steps
    log = last or done % self._options.log_every == 0
    stop = self._must_stop(log)
    save = last or stop or done % self._options.checkpoint_every == 0
    if save or log:
      self._flush(state)
    if save:
      self._check_finite(done, state)
      self._save(done, state)
    if stop:
      self._stop(done)

  def _save(self, done: int, state: Any) -> None:
    if self._checkpointer is not None:
      self._checkpointer.save(done, state)
    if self._options.clock is not None:
      self._options.clock.save()

  def _check_finite(self, done: int, state: Any) -> None:
    """Of what was finite at the start; losses still to come are infinite."""
    bad = set(finite.bad_leaves(local(state))) - self._unknown
    if bad:
      raise FloatingPointError(
        f'{self._description}: after step {done} values of '
        f'{", ".join(sorted(bad)[:5])} are NaN or infinite. Try a smaller '
        'learning rate or a larger ridge; saved checkpoints are intact.'
      )

  def _stop(self, done: int) -> None:
    kept = 'not saved, without a workdir'
    if self._checkpointer is not None:
      self._checkpointer.finish()
      kept = 'saved'
    preemption.stop(f'Step {done} of "{self._description}" is {kept}')

  def _must_stop(self, log: bool) -> bool:
    """Whether SIGTERM arrived, in any process; they agree at log lines."""
    if jax.process_count() == 1:
      return preemption.requested()
    return log and processes.any_process(preemption.requested())

  def _flush(self, state: Any) -> None:
    """Fetches the pending metrics, checks and writes them."""
    pending = jax.device_get(self._pending)
    self._pending = []
    for done, values in pending:
      if not all(np.isfinite(value) for value in values.values()):
        numbers = ', '.join(f'{k} = {float(v):g}' for k, v in values.items())
        details = self._diagnose(done - 1, state) if self._diagnose else ''
        raise FloatingPointError(
          f'{self._description} stopped at step {done}: {numbers}. {details} '
          'Try a smaller learning rate or a larger ridge; saved checkpoints '
          'are intact.'
        )
      scalars = {name: float(value) for name, value in values.items()}
      if self._writer is not None:
        self._writer.write(done, scalars)
    self._bar.set_postfix(loss=f'{scalars["loss"]:.4f}')
    if self._options.progress_fn is not None:
      self._options.progress_fn(done, scalars)
    if self._options.state_fn is not None:
      self._options.state_fn(done, state)
