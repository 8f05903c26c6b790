"""Old names of `loop` and `workdir`; it goes when nothing imports it."""

from typing import Any

from fsdd_jax.runtime import preemption
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir

__all__ = (
  'LoopOptions',
  'ProgressFn',
  'StageLoop',
  'claim_workdir',
  'with_clock',
  'with_progress',
)


class StageLoop(Loop):
  """A `Loop` whose caller restores the state and counts the steps itself."""

  def __init__(self, description: str, **settings: Any) -> None:
    """As that of `Loop`, without a state."""
    super().__init__(description, None, **settings)

  def __enter__(self) -> 'StageLoop':
    self._stack.enter_context(preemption.defer())
    return self

  def restore_or(self, state: Any) -> Any:
    """The last saved state, or the given one."""
    return self._restore_or(state)
