"""Runs binaries in this process, so that imports and compiled code are shared.

A new interpreter spends most of its time on importing JAX and on compiling what
an earlier one has compiled. Tests of kills, signals, pipes, the environment at
the start and several processes or devices use `run_alone`.
"""

import contextlib
import copy
import io
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from unittest import mock

# These define flags, which `_FRESH` must hold.
import grain  # noqa: F401
import jax
import orbax.checkpoint  # noqa: F401
from absl import app, flags, logging
from jax.experimental.compilation_cache import compilation_cache

EXPERIMENTS = pathlib.Path(__file__).parents[1] / 'experiments'
_SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

Result = subprocess.CompletedProcess

app.define_help_flags()
# The flags of absl, grain and orbax, which every binary starts with.
_FRESH = {name: copy.deepcopy(x) for name, x in vars(flags.FLAGS).items()}


def command(binary: str, *arguments: object) -> list[str]:
  """The command line of a binary of `experiments`."""
  return [sys.executable, str(EXPERIMENTS / binary), *map(str, arguments)]


def run_alone(
  binary: str, *arguments: object, **environment: str
) -> 'Result[str]':
  """Runs a binary in a process of its own, with further variables."""
  return subprocess.run(
    command(binary, *arguments),
    capture_output=True,
    text=True,
    env=os.environ | environment,
  )


def run(binary: str, *arguments: object) -> 'Result[str]':
  """Runs a binary as `python experiments/binary arguments` does, but here.

  Args:
    binary: name of a file in `experiments`, or any path.
    *arguments: of the command line.

  Returns:
    What a process of its own returns: status, standard output and error.
  """
  _, path, *given = command(binary, *arguments)
  with _streams() as streams, _as_found(), _own_flags():
    with mock.patch.object(sys, 'argv', [path, *given]):
      status = _status(path)
    texts = [stream.getvalue().decode() for stream in streams]
  return subprocess.CompletedProcess([path, *given], status, *texts)


def run_task(command: Sequence[str]) -> int:
  """Stands for `tasks._run`, which starts a process for each task."""
  result = run(*command[1:])
  print(result.stdout, end='')
  print(result.stderr, end='', file=sys.stderr)
  return result.returncode


def _status(path: str) -> int:
  """Runs a file as the main program; returns the status it ends with."""
  try:
    runpy.run_path(path, run_name='__main__')
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
      return 1
    return int(end.code or 0)
  except Exception:
    traceback.print_exc()
    return 1
  return 0


@contextlib.contextmanager
def _streams() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
  """Standard output and error go to memory; `terminal` may wrap them."""
  handler = logging.get_absl_handler().python_handler
  before = handler.stream
  raw = io.BytesIO(), io.BytesIO()
  out, err = (io.TextIOWrapper(x, 'utf-8', write_through=True) for x in raw)
  handler.stream = err
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      yield raw
  finally:
    handler.stream = before
    out.detach()
    err.detach()


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
  """Within, flags are as they are when an interpreter starts."""
  values = vars(flags.FLAGS)
  outer, verbosity = dict(values), logging.get_verbosity()
  values.update(copy.deepcopy(_FRESH))
  try:
    yield
  finally:
    values.update(outer)
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _as_found() -> Iterator[None]:
  """Puts back what a binary changes for the process that it takes for its own.

  These are the handlers of signals, settings of JAX, and the folder of
  temporary files.
  """
  handlers = [signal.getsignal(kind) for kind in _SIGNALS]
  settings, folder = dict(jax.config.values), tempfile.tempdir
  try:
    yield
  finally:
    for kind, handler in zip(_SIGNALS, handlers, strict=True):
      signal.signal(kind, handler)
    tempfile.tempdir = folder
    for name, value in settings.items():
      if jax.config.values[name] != value:
        jax.config.update(name, value)
        # JAX asks but once whether to use its cache.
        compilation_cache.reset_cache()
