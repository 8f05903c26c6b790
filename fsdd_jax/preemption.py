"""SIGTERM, which pre-emptible machines send: a stage saves, the program ends.

A binary calls `install`. From then on SIGTERM ends it, at once or, while a
stage `defers` it, after the step under way. The status is 0, for nothing went
wrong, unless who started the program asks for another by `STATUS_VARIABLE`.
"""

import contextlib
import os
import signal
import sys
import types
from collections.abc import Iterator
from typing import NoReturn

STATUS_VARIABLE = 'FSDD_STOPPED_STATUS'


class _Signals:
  """What has arrived, and how many stages wait for a good moment."""

  deferring = 0
  arrived = False


def install() -> None:
  """Makes SIGTERM end this program with a word; call it in the main thread.

  Example:
    >>> before = signal.getsignal(signal.SIGTERM)
    >>> install()
    >>> with defer():
    ...   signal.raise_signal(signal.SIGTERM)
    ...   print(requested())
    Traceback (most recent call last):
    SystemExit: 0
    >>> _ = signal.signal(signal.SIGTERM, before)
  """
  signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: types.FrameType | None) -> None:
  del number, frame
  if _Signals.deferring:
    _Signals.arrived = True
  else:
    stop('What was saved before is intact')


@contextlib.contextmanager
def defer() -> Iterator[None]:
  """While it lasts, SIGTERM is noted for `requested`; at the end, it is obeyed.

  Example:
    >>> with defer():
    ...   requested()
    False
  """
  _Signals.deferring += 1
  try:
    yield
  except BaseException:
    _Signals.arrived = False
    raise
  finally:
    _Signals.deferring -= 1
  if _Signals.arrived and not _Signals.deferring:
    _Signals.arrived = False
    stop('The stage under way is saved')


def requested() -> bool:
  """Whether SIGTERM arrived while it was deferred.

  Example:
    >>> requested()
    False
  """
  return _Signals.arrived


def stop(state: str) -> NoReturn:
  """Ends the program for SIGTERM.

  Args:
    state: what of the work is safe.

  Raises:
    SystemExit: always.

  Example:
    >>> stop('Step 3 is saved')
    Traceback (most recent call last):
    SystemExit: 0
  """
  print(
    f'Stopped by SIGTERM. {state}; give the same command to go on.',
    file=sys.stderr,
    flush=True,
  )
  raise SystemExit(int(os.environ.get(STATUS_VARIABLE, '0')))
