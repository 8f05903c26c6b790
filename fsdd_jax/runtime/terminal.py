"""What a program prints never costs what it has worked for.

A closed pipe, a full disk behind `>` or a terminal without the letters ends a
program at its first `print`; here it goes on without being read.
"""

import os
import sys
from typing import Any


class _Stream:
  """A text stream whose errors are not the program's."""

  def __init__(self, stream: Any) -> None:
    self._stream = stream
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='replace')

  def write(self, text: str) -> int:
    """Writes as far as someone reads."""
    try:
      self._stream.write(text)
    except (OSError, ValueError):
      self._give_up()
    return len(text)

  def flush(self) -> None:
    """Flushes as far as someone reads."""
    try:
      self._stream.flush()
    except (OSError, ValueError):
      self._give_up()

  def _give_up(self) -> None:
    """What is still buffered goes nowhere, also when the program ends."""
    try:
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, self._stream.fileno())
      os.close(nowhere)
    except (OSError, ValueError):  # No file behind it: nothing is buffered.
      self._stream = open(os.devnull, 'w')

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def protect() -> None:
  """Lets the program go on when its output cannot be written.

  Example:
    >>> import io
    >>> before = sys.stdout, sys.stderr
    >>> sys.stdout = io.TextIOWrapper(io.BytesIO(), 'ascii')
    >>> protect()
    >>> print('91.00 ± 1.41', end='', flush=True)
    >>> found = sys.stdout.buffer.getvalue()
    >>> sys.stdout, sys.stderr = before
    >>> found
    b'91.00 ? 1.41'
  """
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    if stream is not None and not isinstance(stream, _Stream):
      setattr(sys, name, _Stream(stream))


def flush() -> None:
  """Flushes both streams, before the interpreter does it and complains.

  Example:
    >>> flush()
  """
  for stream in (sys.stdout, sys.stderr):
    if stream is not None:
      stream.flush()
