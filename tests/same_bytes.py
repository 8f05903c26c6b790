"""Shows that two commits behave the same: what they write is the same bytes.

  python tests/same_bytes.py main my_branch --only=cache,pretrain --keep=/tmp/it

Each commit is checked out in turn at the same temporary path, so that no path
differs, and goes through the runs of `same_bytes_runs.py` with its own code.
Then all that they wrote and printed is compared by `same_bytes_files.py`. The
status is 0 if nothing differs. By hand, not in CI: it takes minutes. Both
commits use the packages that are installed.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import same_bytes_files
import same_bytes_runs
from same_bytes_runs import Run

_ROOT = pathlib.Path(__file__).parents[1]
_STOPPED = 75  # What a run that SIGTERM stopped is told to end with.
_COMPILED = 'JAX_COMPILATION_CACHE_DIR'
_LONGEST = 7200  # Seconds of a run, beyond which it hangs.


class Outcome(NamedTuple):
  """What became of a run in one tree.

  Attributes:
    problem: why it did not do its work; empty if it did.
    files: the files and checkpoints that it wrote, by name.
    seconds: of one core that it took.
  """

  problem: str
  files: dict[str, pathlib.Path]
  seconds: float


@contextlib.contextmanager
def checked_out(commit: str, tree: pathlib.Path) -> Iterator[None]:
  """A commit's files in a folder, which is removed in the end."""
  git = ('git', '-C', str(_ROOT), 'worktree')
  subprocess.run(
    [*git, 'add', '--quiet', '--detach', str(tree), commit], check=True
  )
  try:
    yield
  finally:
    subprocess.run([*git, 'remove', '--force', str(tree)], check=True)


def environment(root: pathlib.Path) -> dict[str, str]:
  """This program's, but for what could tell two trees apart.

  Programs are compiled once for both, in JAX's cache if one is named: its key
  is all that goes into a program. The seed of hashes stays random, as no result
  may rest on it.
  """
  own = ('FSDD_', 'JAX_', 'XLA_', 'PYTHON')
  kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
  return kept | {
    'FSDD_CACHE_DIR': str(root / 'out' / 'fsdd_cache'),
    'FSDD_STOPPED_STATUS': str(_STOPPED),
    _COMPILED: os.environ.get(_COMPILED, str(root / 'compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(root / 'tree'),
  }


def cpu_seconds() -> float:
  """Of one core, that all runs have taken until now."""
  spent = resource.getrusage(resource.RUSAGE_CHILDREN)
  return spent.ru_utime + spent.ru_stime


class Tree:
  """Does runs with the code of one commit."""

  def __init__(self, root: pathlib.Path) -> None:
    """Prepares the folder of outputs.

    Args:
      root: holds the commit in `tree`; what the runs write goes to `out`.
    """
    self._root, self._out = root, root / 'out'
    self._environment = environment(root)
    recipes = self._out / 'recipes'
    recipes.mkdir(parents=True)
    for name, flags in same_bytes_runs.RECIPES.items():
      text = '\n'.join(flags) + '\n'
      (recipes / f'tiny_{name}.flags').write_text(text)
    self._check_package()

  def _check_package(self) -> None:
    """Makes sure that the code is the tree's, not an installed one."""
    code = 'import fsdd_jax; print(fsdd_jax.__file__)'
    found = subprocess.run(
      [sys.executable, '-c', code],
      env=self._environment,
      cwd=self._out,
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    ).stdout
    if self._root / 'tree' not in pathlib.Path(found).parents:
      raise RuntimeError(f'fsdd_jax is that of {found}, not the commit.')

  def run(self, run: Run) -> Outcome:
    """Does a run, and finds what it wrote."""
    before, start = set(self._files()), cpu_seconds()
    folder = self._out / run.name
    folder.mkdir(exist_ok=True)
    errors_path = folder / 'stderr.txt'
    with (
      open(errors_path, 'w') as errors,
      open(folder / 'stdout.txt', 'w') as stream,
    ):
      problem = self._stop(run, errors) if run.stop_at else ''
      if not problem:
        status = self._ends(run, stream, errors)
        problem = f'ended with status {status}' if status else ''
    if problem:
      lines = errors_path.read_text(errors='replace').splitlines()
      problem = f'{problem}: {lines[-1] if lines else "no message"}'
    new = [path for path in self._files() if path not in before]
    named = same_bytes_files.named(self._out, new)
    return Outcome(problem, named, cpu_seconds() - start)

  def _files(self) -> list[pathlib.Path]:
    return [path for path in self._out.rglob('*') if path.is_file()]

  def _ends(
    self, run: Run, stream: IO[str] | int, errors: IO[str], stop_at: str = ''
  ) -> int:
    """Calls the binary, and waits for its status."""
    binary = self._root / 'tree' / 'experiments' / f'{run.binary}.py'
    process = subprocess.Popen(
      [sys.executable, str(binary), *run.flags],
      env=self._environment,
      cwd=self._out,
      stdout=stream,
      stderr=errors,
    )
    try:
      folder = self._out / run.name
      while stop_at and process.poll() is None:
        if any(folder.glob(stop_at)):
          process.terminate()
          break
        time.sleep(0.01)
      return process.wait(_LONGEST)
    except BaseException:
      process.terminate()
      process.wait()
      raise

  def _stop(self, run: Run, errors: IO[str]) -> str:
    """Starts a run and stops it once it has written something."""
    status = self._ends(run, subprocess.DEVNULL, errors, run.stop_at)
    return '' if status == _STOPPED else f'status {status}, not stopped'


def outcomes(
  commit: str, root: pathlib.Path, name: str, runs: Sequence[Run]
) -> dict[str, Outcome]:
  """Does the runs with a commit, and keeps what they wrote by a name."""
  found: dict[str, Outcome] = {}
  with checked_out(commit, root / 'tree'):
    tree = Tree(root)
    for run in runs:
      done = found[run.name] = tree.run(run)
      told = f'{name}: {run.name}, {done.seconds:.1f} s {done.problem}'
      print(told, file=sys.stderr, flush=True)
  out, kept = root / 'out', root / name
  out.rename(kept)
  return {
    run: outcome._replace(
      files={n: kept / p.relative_to(out) for n, p in outcome.files.items()}
    )
    for run, outcome in found.items()
  }


def compare(run: str, before: Outcome, after: Outcome) -> dict[str, Any]:
  """What differs between the outcomes of a run, as an entry of the report."""
  different = {
    which: outcome.problem
    for which, outcome in (('BEFORE', before), ('AFTER', after))
    if outcome.problem
  }
  names = sorted(before.files.keys() | after.files.keys())
  left_out = list(filter(same_bytes_files.is_left_out, names))
  for name in sorted(set(names).difference(left_out)):
    pair = before.files.get(name), after.files.get(name)
    if found := same_bytes_files.difference(name, *pair):
      different[name] = found
  return {
    'run': run,
    'same': not different,
    'different': different,
    'compared': len(names) - len(left_out),
    'left_out': left_out,
    'seconds': [round(before.seconds, 1), round(after.seconds, 1)],
  }


def wanted(only: Sequence[str]) -> list[Run]:
  """Runs of these names and what they need; without names, all quick ones."""
  known = {run.name: run for run in same_bytes_runs.RUNS}
  if unknown := set(only) - known.keys():
    sys.exit(f'No run {sorted(unknown)}; choose among {", ".join(known)}.')
  names = list(only) or [name for name, run in known.items() if not run.slow]
  for name in names:  # It grows.
    names += [needed for needed in known[name].needs if needed not in names]
  return [run for run in same_bytes_runs.RUNS if run.name in names]


def compare_commits(
  before: str, after: str, runs: Sequence[Run], root: pathlib.Path
) -> list[dict[str, Any]]:
  """Does the runs with both commits, and prints a line for each."""
  root.mkdir(parents=True)
  ours = outcomes(before, root, 'before', runs)
  theirs = outcomes(after, root, 'after', runs)
  rows = []
  for run in runs:
    row = compare(run.name, ours[run.name], theirs[run.name])
    verdict = 'same' if row['same'] else 'DIFFERENT'
    print(f'{run.name:16} {row["compared"]:4} files  {verdict}', flush=True)
    for name, found in row['different'].items():
      print(f'  {name}: {found}', flush=True)
    rows.append(row)
  return rows


def main() -> None:
  """Compares two commits; the status tells of a difference."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('before', metavar='BEFORE', help='a commit')
  parser.add_argument('after', metavar='AFTER', help='another one')
  names = ', '.join(
    f'{run.name}{" (slow, only if named)" if run.slow else ""}'
    for run in same_bytes_runs.RUNS
  )
  parser.add_argument(
    '--only', default='', help=f'some of {names}, with what they need'
  )
  parser.add_argument('--keep', help='new folder, to keep the files in')
  parser.add_argument('--report', default='runs/same_bytes.json')
  arguments = parser.parse_args()
  # As it is, SIGTERM would leave a checkout and a run behind.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit('Stopped by SIGTERM.'))
  runs = wanted([name for name in arguments.only.split(',') if name])
  with contextlib.ExitStack() as stack:
    temporary = stack.enter_context(tempfile.TemporaryDirectory())
    root = pathlib.Path(arguments.keep or f'{temporary}/runs').resolve()
    rows = compare_commits(arguments.before, arguments.after, runs, root)
  facts = {
    'before': arguments.before,
    'after': arguments.after,
    'runs': rows,
    'left_out': [each._asdict() for each in same_bytes_files.LEFT_OUT],
  }
  report = pathlib.Path(arguments.report)
  report.parent.mkdir(parents=True, exist_ok=True)
  report.write_text(json.dumps(facts, indent=2) + '\n')
  if not all(row['same'] for row in rows):
    sys.exit(f'Not the same; {report} has all differences.')


if __name__ == '__main__':
  main()
