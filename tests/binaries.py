"""Runs binaries in this process, so that imports and compiled code are shared.

A new interpreter spends most of its time on importing JAX and on compiling what
an earlier one has compiled. Tests of kills, signals, pipes, the environment at
the start and several processes or devices use `run_alone`.
"""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import logging

from workbench import in_process

EXPERIMENTS = pathlib.Path(__file__).parents[1] / 'experiments'

Result = subprocess.CompletedProcess


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
  line = command(binary, *arguments)
  with _streams() as streams:
    status = in_process.run(line)
    texts = [stream.getvalue().decode() for stream in streams]
  return subprocess.CompletedProcess(line[1:], status, *texts)


def run_task(command: Sequence[str]) -> int:
  """Stands for `tasks._run`, which starts a process for each task."""
  result = run(*command[1:])
  print(result.stdout, end='')
  print(result.stderr, end='', file=sys.stderr)
  return result.returncode


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
