"""Binaries one after another in this process.

A process of its own imports JAX, sets up the device, and compiles its programs
or reads them back, which on an accelerator may take longer than its work. Here
all of that is done once.
"""

import contextlib
import copy
import importlib.util
import pathlib
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence

import jax
from absl import app, flags, logging
from jax.experimental.compilation_cache import compilation_cache

_FOLDER = pathlib.Path(__file__).resolve().parents[1]
_SIGNALS = [
  getattr(signal, name)
  for name in ('SIGTERM', 'SIGINT', 'SIGHUP')
  if hasattr(signal, name)
]


def run(command: Sequence[str]) -> int:
  """Runs a binary as its command line does in a process of its own.

  What it changes for its process is put back: flags, handlers of signals,
  settings of JAX, and the folder of temporary files.

  Args:
    command: the interpreter, the path of the binary, and its arguments.

  Returns:
    The status that it ends with.
  """
  app.define_help_flags()
  _import_what_defines_flags()
  with _own_flags(), _as_found(), _own_arguments(command[1:]):
    return _status(command[1])


def _import_what_defines_flags() -> None:
  """A library defines flags when it is first imported, and never again."""
  for name in ('grain', 'orbax.checkpoint'):
    if importlib.util.find_spec(name.partition('.')[0]) is not None:
      importlib.import_module(name)


def _status(path: str) -> int:
  """Runs a file as the main program; returns the status it ends with."""
  try:
    runpy.run_path(path, run_name='__main__')
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
      return 1
    return int(end.code or 0)
  except Exception:  # As the interpreter does with what nobody caught.
    traceback.print_exc()
    return 1
  return 0


@contextlib.contextmanager
def _own_arguments(arguments: Sequence[str]) -> Iterator[None]:
  before = sys.argv
  sys.argv = list(arguments)
  try:
    yield
  finally:
    sys.argv = before


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
  """Within, there are the flags of libraries alone, none of them parsed."""
  values, verbosity = vars(flags.FLAGS), logging.get_verbosity()
  outer = dict(values)
  values.update(copy.deepcopy(outer))
  for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
    if _is_of_binaries(module):
      for flag in list(defined):
        delattr(flags.FLAGS, flag.name)
  flags.FLAGS.unparse_flags()
  try:
    yield
  finally:
    values.clear()
    values.update(outer)
    logging.set_verbosity(verbosity)


def _is_of_binaries(module: str) -> bool:
  """Whether flags of a module, which may be a main program, are ours."""
  file = getattr(sys.modules.get(module), '__file__', None) or module
  return pathlib.Path(file).resolve().is_relative_to(_FOLDER)


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
