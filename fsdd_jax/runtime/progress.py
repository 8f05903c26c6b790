"""Bars that leave compilation out, and stay few where nobody watches."""

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import tqdm

from fsdd_jax.runtime import processes

with warnings.catch_warnings():  # A notebook without widgets has bars of text.
  warnings.simplefilter('ignore', tqdm.TqdmWarning)
  from tqdm import auto

_COMPILING = 'compiling...'
_LINE_SECONDS = 60.0  # Between two lines in a log file.

_hidden = 0  # Blocks of `hidden` that are open.
_last_line = time.monotonic()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
  """Shows no bar within the block, in any thread."""
  global _hidden
  _hidden += 1
  try:
    yield
  finally:
    _hidden -= 1


def _is_watched() -> bool:
  return 'ipykernel' in sys.modules or sys.stderr.isatty()


class Bar(auto.tqdm):
  """A bar with rate and remaining time, on the first process's standard error.

  The first update ends the compilation, and the rate counts from there. In a
  log file, all bars together write one line a minute at most.
  """

  disable: bool  # tqdm has no types.
  n: Any
  postfix: Any

  def __init__(
    self,
    total: int,
    description: str,
    *,
    unit: str,
    leave: bool = True,
    shown: bool = True,
  ) -> None:
    """Shows an empty bar.

    Args:
      total: number of updates.
      description: what stands before the bar.
      unit: of an update.
      leave: False for a bar within a stage: it appears after a second, on a
        terminal alone, and goes when it ends.
      shown: whether to show it at all.
    """
    self._watched = _is_watched()
    self._compiles = leave  # A bar within a stage measures no first call.
    shown = shown and not _hidden and processes.is_first_process()
    super().__init__(
      total=total,
      desc=description,
      unit=unit,
      leave=leave,
      dynamic_ncols=True,
      mininterval=0.5 if self._watched else _LINE_SECONDS,
      delay=0 if leave else 1,
      disable=not shown or not (leave or self._watched),
      postfix=_COMPILING if leave else None,
    )

  def start_at(self, done: int, total: int) -> None:
    """Starts where an earlier program ended."""
    self.initial = done  # The rate counts from here.
    self.reset(total=total)
    self.n = self.last_print_n = done

  def update(self, n: float | None = 1) -> Any:
    """Adds n; the first time, it starts the clock of the rate as well."""
    if not self._compiles or self.disable:
      return super().update(n)
    self._compiles = False
    self.n += n or 0
    self.initial = self.last_print_n = self.n
    self.start_t = self.last_print_t = self._time()
    if self.postfix == _COMPILING:
      self.postfix = None
    return self.refresh()

  def display(self, *arguments: Any, **options: Any) -> Any:
    """Draws the bar on a terminal; writes a line elsewhere, if it is time."""
    if self._watched:
      return super().display(*arguments, **options)
    global _last_line
    if time.monotonic() - _last_line >= _LINE_SECONDS:
      _last_line = time.monotonic()
      self.fp.write(f'{self}\n')
      self.fp.flush()
    return True

  def close(self) -> None:
    """Ends the bar; in a log file it leaves no empty line."""
    if not self._watched and not self.disable:
      self.disable = True
      self._decr_instances(self)
    super().close()
