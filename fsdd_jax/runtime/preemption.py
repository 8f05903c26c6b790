"""SIGTERM, Ctrl-C, a closed terminal: a stage saves, and the program ends.

Pre-emptible machines send SIGTERM, a terminal that closes SIGHUP. A binary
calls `install`. From then on each ends it, at once or, while a stage `defers`
it, after the step under way; further ones change nothing. The status is 0, for
nothing went wrong, unless who started the program asks for another by
`STATUS_VARIABLE`.

Orbax's `reached_preemption` does not serve: it asks JAX's coordination service,
which a program of one process does not have, and it ignores Ctrl-C.
"""

import contextlib
import os
import signal
import sys
import types
from collections.abc import Iterator
from typing import NoReturn

STATUS_VARIABLE = 'FSDD_STOPPED_STATUS'


_NAMES = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}
if hasattr(signal, 'SIGHUP'):
  _NAMES[signal.SIGHUP] = 'SIGHUP'


class _Signals:
  """What has arrived, and how many stages wait for a good moment."""

  deferring = 0
  arrived = False
  ending = False
  name = 'SIGTERM'


def install() -> None:
  """Makes these signals print a line and end this program.

  Call it in the main thread. A program that was started by nohup goes on after
  SIGHUP.

  Example:
    >>> kinds = signal.SIGTERM, signal.SIGINT
    >>> before = [signal.getsignal(kind) for kind in kinds]
    >>> install()
    >>> with defer():
    ...   signal.raise_signal(signal.SIGTERM)
    ...   print(requested())
    Traceback (most recent call last):
    SystemExit: 0
    >>> _ = list(map(signal.signal, kinds, before))
  """
  _Signals.ending = False
  for kind in _NAMES:
    by_nohup = signal.getsignal(kind) is signal.SIG_IGN
    if kind in (signal.SIGTERM, signal.SIGINT) or not by_nohup:
      signal.signal(kind, _on_signal)


def _on_signal(number: int, frame: types.FrameType | None) -> None:
  del frame
  if _Signals.ending:  # An error now would break what is being saved.
    return
  _Signals.name = _NAMES[signal.Signals(number)]
  if _Signals.deferring:
    _Signals.arrived = True
  else:
    stop('What was saved before is intact')


@contextlib.contextmanager
def defer() -> Iterator[None]:
  """While it lasts, they are noted for `requested`; at the end, obeyed.

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
  """Whether one arrived while it was deferred.

  Example:
    >>> requested()
    False
  """
  return _Signals.arrived


def stop(state: str) -> NoReturn:
  """Ends the program for SIGTERM, Ctrl-C or SIGHUP.

  Args:
    state: what of the work is safe.

  Raises:
    SystemExit: always.

  Example:
    >>> stop('Step 3 is saved')
    Traceback (most recent call last):
    SystemExit: 0
  """
  _Signals.ending = signal.getsignal(signal.SIGTERM) is _on_signal
  print(
    f'Stopped by {_Signals.name}. {state}; give the same command to go on.',
    file=sys.stderr,
    flush=True,
  )
  raise SystemExit(int(os.environ.get(STATUS_VARIABLE, '0')))
