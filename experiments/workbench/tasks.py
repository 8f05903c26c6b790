"""Commands that need each other's files, each run once and never twice.

A table or a figure is many runs of the binaries. Each is a `Task`, known by a
digest of its command, of the flagfiles and data it reads, of the tasks it needs
and of the code and packages that it runs. A finished task is found again by its
digest, and by its files being as it left them; one that was killed goes on, as
the binaries do; a changed one alone, and what needs it, runs anew.
"""

import dataclasses
import functools
import gc
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

import fsdd_jax
from fsdd_jax import zoo
from fsdd_jax.data import sources, undecoded
from fsdd_jax.runtime import files, hashes, preemption
from fsdd_jax.runtime.versions import library_versions
from workbench import in_process

_DONE = 'done.json'
# What a task keeps for itself, to go on after a kill.
_OWN = {'checkpoints', 'tensorboard'}
_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later.


@dataclasses.dataclass(frozen=True)
class Task:
  """One run of a binary.

  Attributes:
    name: what it makes, for messages and its folder's name.
    binary: the file of the binary.
    arguments: `{out}` stands for the task's own folder, and the name of a
      needed task in braces, such as `{cache}`, for that one's.
    needs: tasks whose files it reads, by the name used in its arguments.
  """

  name: str
  binary: str
  arguments: tuple[str, ...]
  needs: Mapping[str, 'Task'] = dataclasses.field(default_factory=dict)

  @property
  def digest(self) -> str:
    """Hexadecimal digits that change with all that shapes the result."""
    facts = [
      self.name,
      pathlib.Path(self.binary).name,
      [_expanded(argument) for argument in self.arguments],
      {name: task.digest for name, task in self.needs.items()},
      _data(self.arguments),
      _inputs(self.arguments),
      _code(self.binary),
    ]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

  def folder(self, root: str | pathlib.Path) -> pathlib.Path:
    """Where its files lie below the folder of all tasks."""
    name = ''.join(c if c.isalnum() or c in '-_.' else '_' for c in self.name)
    return pathlib.Path(root) / f'{name}-{self.digest}'

  def command(self, root: str | pathlib.Path) -> list[str]:
    """The command line, with the folders in their places."""
    folders = {
      name: str(task.folder(root)) for name, task in self.needs.items()
    }
    folders['out'] = str(self.folder(root))
    filled = [argument.format(**folders) for argument in self.arguments]
    return [sys.executable, self.binary, *filled]

  def is_done(self, root: str | pathlib.Path) -> bool:
    """Whether it ran to its end, and its files are as they were then."""
    path = self.folder(root) / _DONE
    if not path.exists():
      return False
    try:
      return files.read_json(path).get('outputs') == _outputs(path.parent)
    except ValueError:  # Cut short, or of another program.
      return False


def _outputs(folder: pathlib.Path) -> dict[str, str]:
  """Fingerprints of the files that a task leaves for others."""
  return {
    str(path.relative_to(folder)): files.fingerprint([path])
    for path in sorted(folder.rglob('*'))
    if path.is_file()
    and path.name != _DONE
    and not path.name.startswith('.')
    and not _OWN.intersection(path.relative_to(folder).parts)
  }


def _data(arguments: Sequence[str]) -> str:
  """The fingerprint of the data set that a command names, if it names one."""
  values = flags.FlagValues()
  for name in ('dataset', 'data_dir'):
    flags.DEFINE_string(name, None, name, flag_values=values)
  values(['', *arguments], known_only=True)
  if values.dataset is None:
    return ''
  return _fingerprint(
    values.dataset, values.data_dir, os.environ.get(undecoded.DATA_DIR_VARIABLE)
  )


@functools.cache
def _fingerprint(name: str, data_dir: str | None, _: str | None) -> str:
  return sources.fingerprint(name, data_dir)


def _inputs(arguments: Sequence[str]) -> dict[str, str]:
  """Fingerprints of the files that flags name, such as translators."""
  found = {}
  shipped = zoo.translator_names() + zoo.distilled_names()
  for argument in _flags(arguments):
    flag, _, value = argument.partition('=')
    path = os.path.expanduser(value or flag)
    if flag in ('--start', '--translator') and value in shipped:
      path = str(zoo.path_of(value))
    if os.path.isfile(path):
      found[argument] = files.fingerprint([path])
    for name in value.split(',') if flag == '--import' else ():
      found[name] = hashes.hash_code([pathlib.Path(_origin(name))])
  return found


def _origin(name: str) -> str:
  """The file of a module that this program has imported, too."""
  return sys.modules[name].__file__ or name


def _flags(arguments: Sequence[Any]) -> Iterator[str]:
  """Arguments, with the lines of flagfiles in their places."""
  for argument in arguments:
    expanded = _expanded(argument)
    yield from [expanded] if isinstance(expanded, str) else _flags(expanded)


def _code(binary: str) -> list[Any]:
  """What a binary, the library, the workbench and what they rest on are."""
  return [hashes.hash_code([pathlib.Path(binary)]), _package()]


@functools.cache
def _package() -> list[Any]:
  library, workbench = (
    sorted(pathlib.Path(path).parent.rglob('*.py'))
    for path in (fsdd_jax.__file__, __file__)
  )
  own = hashes.hash_code([*library, *workbench])
  return [library_versions(), own]


def _expanded(argument: Any) -> Any:
  """An argument; a flagfile as its lines, so that a change of it counts."""
  prefix = '--flagfile='
  if not isinstance(argument, str) or not argument.startswith(prefix):
    return argument
  path = files.resolve(argument.removeprefix(prefix))
  lines = (line.strip() for line in path.read_text().splitlines())
  return [
    _expanded(line)
    for line in lines
    if line and not line.startswith(('#', '//'))
  ]


def in_order(tasks: Sequence[Task]) -> Iterator[Task]:
  """Tasks and what they need, each once and after what it needs."""
  seen: set[str] = set()

  def visit(task: Task) -> Iterator[Task]:
    for needed in task.needs.values():
      yield from visit(needed)
    if task.digest not in seen:
      seen.add(task.digest)
      yield task

  for task in tasks:
    yield from visit(task)


def _run(command: Sequence[str]) -> int:
  """Runs a command; one that SIGTERM stopped does not end with status 0."""
  environment = os.environ | {preemption.STATUS_VARIABLE: str(_STOPPED)}
  with subprocess.Popen(command, env=environment) as process:
    try:
      return process.wait()
    except BaseException:
      process.terminate()  # It saves its state; leaving the block waits for it.
      raise


def run_here(command: Sequence[str]) -> int:
  """Runs a command in this process, for `run`; SIGTERM ends both."""
  before = os.environ.get(preemption.STATUS_VARIABLE)
  os.environ[preemption.STATUS_VARIABLE] = str(_STOPPED)
  try:
    status = in_process.run(command)
    gc.collect()  # Frees what the binary held on the device.
  finally:
    if before is None:
      del os.environ[preemption.STATUS_VARIABLE]
    else:
      os.environ[preemption.STATUS_VARIABLE] = before
  if status == _STOPPED:
    raise SystemExit(int(before or 0))
  return status


def run(
  tasks: Sequence[Task],
  root: str | pathlib.Path,
  run_command: Callable[[Sequence[str]], int] | None = None,
) -> list[Task]:
  """Runs what is not done yet, with what it needs.

  Args:
    tasks: what is wanted.
    root: folder of all tasks; may be shared by several tables.
    run_command: runs a command line and returns its status; by default in a
      process of its own.

  Returns:
    The tasks that ran now.

  Raises:
    ChildProcessError: if a command fails; it names the command. What was done
      before stays done.
    SystemExit: after SIGTERM, which the running command gets, too.
  """
  missing = [task for task in in_order(tasks) if not task.is_done(root)]
  for number, task in enumerate(missing, 1):
    print(f'[{number}/{len(missing)}] {task.name}', flush=True)
    folder, command = task.folder(root), task.command(root)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    status = (run_command or _run)(command)
    if status:
      raise ChildProcessError(
        f'{task.name} ended with status {status}, its message stands above. '
        f'The command was: {" ".join(command)}. What is done stays done; start '
        'again to go on.'
      )
    facts = {
      'command': command,
      'seconds_of_last_run': time.time() - start,
      'outputs': _outputs(folder),
    }
    text = json.dumps(facts, indent=2)
    files.write_bytes_atomic(folder / _DONE, f'{text}\n'.encode())
  return missing
