"""How a binary starts and ends: one process or several, one line an error."""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging

from fsdd_jax.runtime import compiler, preemption, processes, terminal
from workbench import flagfiles, help_text

Main = Callable[[list[str]], None]
Check = Callable[[Sequence[str]], None]

_DASHES = 'Flags need two dashes and their value, as in --ipc=10.'
_HELP = {'-h', '-help', '--help', '-?'}

# Errors that a user may meet, whose messages say what to do.
_KNOWN = (ArithmeticError, ImportError, OSError, ValueError)
# How messages of JAX's runtime start where a process does not answer; some of
# them are of a ValueError.
_LOST = re.compile(
  r'(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): '
)


def no_files(arguments: Sequence[str]) -> None:
  """Refuses what absl takes for no flag, and which a binary would pass over.

  Args:
    arguments: of `main`: the program, then all that is no flag.

  Raises:
    ValueError: if there is any, such as `ipc=10` without its dashes.
  """
  if len(arguments) > 1:
    raise ValueError(f'{arguments[1]!r} is no flag. {_DASHES}')


def one_file(arguments: Sequence[str]) -> None:
  """As `no_files`, for a binary that takes one distilled set.

  Raises:
    ValueError: if there is none, or more.
  """
  if len(arguments) != 2:
    raise ValueError(
      'Give one distilled set, a file or the name of a shipped one, not '
      f'{len(arguments) - 1}: {arguments[1:]}. {_DASHES}'
    )


def files_given(arguments: Sequence[str]) -> None:
  """As `no_files`, for a binary that takes one file or more.

  Raises:
    ValueError: if there is none.
  """
  if len(arguments) < 2:
    raise ValueError(
      f'Give one or more files, or names of what is shipped. {_DASHES}'
    )


def run(main: Main, *, check: Check = no_files) -> None:
  """Runs a binary; a known error ends it with one line and status 1.

  --help lists all its flags; --import names modules that are imported before,
  so that networks and data sets that these register have names.

  SIGTERM, Ctrl-C and SIGHUP end it with one line and status 0, see
  `preemption`. It goes on when its output cannot be written or encoded, see
  `terminal`.

  Args:
    main: of the binary; takes what is no flag, after the program's name.
    check: raises the error of arguments that it does not take.
  """
  given = flagfiles.with_shipped(sys.argv[1:])

  def guarded(arguments: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    preemption.install()
    try:
      check(arguments)
      flagfiles.check_order(given)
      _import(flags.FLAGS['import'].value or ())
      main(arguments)
    except _KNOWN as error:
      if flags.FLAGS.traceback:
        raise
      sys.exit(f'error: {error}')
    finally:
      terminal.flush()

  flags.DEFINE_bool('traceback', False, 'Show where an error arose.')
  flags.DEFINE_list(
    'import', [], 'Modules to import first, of this folder or installed.'
  )
  terminal.protect()
  compiler.spread_convolutions()
  if _HELP.intersection(sys.argv[1:]):
    print(help_text.text(sys.modules['__main__'].__doc__ or ''))
    terminal.flush()
    return
  app.run(guarded, argv=[sys.argv[0], *given])


def _import(names: Sequence[str]) -> None:
  if names:
    sys.path.append(os.getcwd())
  for name in names:
    importlib.import_module(name)


def _leave(error: Exception) -> NoReturn:
  """Prints what went wrong and ends this process of several.

  It ends at once: an orderly exit would wait for the other processes, which
  are lost or wait for this one.
  """
  if isinstance(error, jax.errors.JaxRuntimeError) or _LOST.match(str(error)):
    message = (
      f'the others are lost ({str(error).splitlines()[0][:200]}). Start all '
      'processes again with the same command; they go on from what is saved.'
    )
  else:
    message = str(error)
  if flags.FLAGS.traceback or not isinstance(error, (*_KNOWN, RuntimeError)):
    traceback.print_exception(error)
  number, count = jax.process_index(), jax.process_count()
  print(f'error: process {number} of {count}: {message}', file=sys.stderr)
  sys.stderr.flush()
  os._exit(1)


def run_in_processes(main: Main, *, check: Check = no_files) -> None:
  """As `run`, for a binary that several processes may share.

  They find each other by the flags that this defines or, without these, as
  `processes.initialize` says. If an error or a signal ends one, the others
  print a line and end as well, at the latest after the heartbeat.
  """

  def joined(arguments: list[str]) -> None:
    values = flags.FLAGS
    processes.initialize(
      values.coordinator_address,
      values.num_processes,
      values.process_id,
      heartbeat_seconds=values.heartbeat_seconds,
    )
    preemption.install()  # JAX has set a handler of its own.
    try:
      main(arguments)
    except Exception as error:
      if jax.process_count() == 1:
        raise
      _leave(error)

  flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0, for all processes.'
  )
  flags.DEFINE_integer('num_processes', None, 'Processes of this run.')
  flags.DEFINE_integer('process_id', None, 'Number of this one, from 0.')
  flags.DEFINE_integer(
    'heartbeat_seconds', 100, 'Silence after which a process counts as lost.'
  )
  run(joined, check=check)
