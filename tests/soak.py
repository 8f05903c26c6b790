"""Kills every binary at random moments, and compares their files.

  python tests/soak.py --kills=4

Each stage runs straight twice; the second run, which finds its programs
compiled as those after it do, tells the seconds. Then it runs in another
folder, is killed with SIGKILL after a random share of these seconds, and is
started again until it ends; further folders are taken until it was killed often
enough. Each folder must hold the first run's files to the byte. A later stage
takes what the first run of the one before wrote.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fsdd_jax.reporting import console, tables
from fsdd_jax.runtime import metrics
from soak_stages import STAGES, comparable, needed_for

_ROOT = pathlib.Path(__file__).parents[1]


class Outcome(NamedTuple):
  """What became of a stage.

  Attributes:
    kills: kills before its process had ended.
    in_loop: those of them after the process had done work of its own.
    folders: how many folders it took.
    seconds: of the second straight run.
    files: files compared, over all folders and the second straight run.
    different: files that differ or are missing on one side.
  """

  kills: int
  in_loop: int
  folders: int
  seconds: float
  files: int
  different: list[str]


def soak(
  name: str,
  root: pathlib.Path,
  *,
  kills: int,
  scaled: Callable[[int], int],
  rng: random.Random,
) -> Outcome:
  """Runs a stage straight, then killed and started again, and compares.

  Args:
    name: of the stage, a key of `STAGES`.
    root: holds `straight` with the stages before this one.
    kills: how many.
    scaled: scales numbers of steps.
    rng: draws the moments.

  Returns:
    What happened.

  Raises:
    RuntimeError: if a run fails of itself.
  """
  stage, straight = STAGES[name], root / 'straight' / name
  flags = stage.flags_of(root / 'straight', scaled)

  def start(folder: pathlib.Path) -> '_Run':
    out = folder / stage.file if stage.file else folder
    command = [f'{stage.binary or name}.py', *flags, f'--{stage.output}={out}']
    return _Run(command, root / 'log.txt')

  start(straight).ends_within(None)
  if not kills:  # Others read its files.
    return Outcome(0, 0, 0, 0.0, 0, [])
  again, began = root / 'again' / name, time.monotonic()
  start(again).ends_within(None)
  seconds = time.monotonic() - began
  files, different = compare(straight, again, stage.results)
  done, in_loop, folders = 0, 0, 0
  while done < kills:
    folder = root / 'killed' / f'{name}_{folders}'
    while done < kills:
      saved, since = steps(folder, saved=True), time.time()
      run = start(folder)
      if run.ends_within(rng.uniform(0, seconds)):
        break
      run.kill()
      done += 1
      in_loop += advanced(folder, saved, since)
    else:
      start(folder).ends_within(None)
    folders += 1
    compared, unequal = compare(straight, folder, stage.results)
    files += compared
    different += unequal
  return Outcome(done, in_loop, folders, seconds, files, different)


class _Run:
  """A binary in a process of its own."""

  def __init__(self, command: Sequence[str], log: pathlib.Path) -> None:
    """Starts it; what it prints goes to a file."""
    self._log = log
    with log.open('wb') as file:
      self._process = subprocess.Popen(
        [sys.executable, str(_ROOT / 'experiments' / command[0]), *command[1:]],
        stdout=file,
        stderr=file,
        start_new_session=True,
      )

  def ends_within(self, seconds: float | None) -> bool:
    """Waits; whether it has ended, as it must, with status 0."""
    try:
      status = self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      return False
    if status:
      text = self._log.read_text(errors='replace')[-2000:]
      raise RuntimeError(f'{self._process.args} ended with {status}: {text}')
    return True

  def kill(self) -> None:
    """Sends SIGKILL, also to what it has started, as a machine would."""
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()


def compare(
  expected: pathlib.Path, found: pathlib.Path, patterns: Sequence[str]
) -> tuple[int, list[str]]:
  """Compares files of two folders byte for byte.

  Returns:
    How many there are in either folder, and those not the same in both.

  Raises:
    RuntimeError: if there is none, as nothing would be shown then.
  """
  names = sorted(
    {
      path.relative_to(folder)
      for folder in (expected, found)
      for pattern in patterns
      for path in folder.glob(pattern)
    }
  )
  if not names:
    raise RuntimeError(f'No file like {patterns} in {expected} and {found}.')
  pairs = [(expected / name, found / name) for name in names]
  return len(names), [
    str(b)
    for a, b in pairs
    if not (a.exists() and b.exists() and comparable(a) == comparable(b))
  ]


def steps(folder: pathlib.Path, *, saved: bool) -> dict[pathlib.Path, int]:
  """Steps saved, or logged, by file that tells of them; a shard is a step."""
  found = dict.fromkeys(folder.glob('*.array_record'), 1)
  for log in folder.rglob('metrics.jsonl'):
    if saved:
      checkpoints = (log.parent / 'checkpoints').glob('*')
      known = [int(path.name) for path in checkpoints if path.name.isdigit()]
    else:
      known = [int(row['step']) for row in metrics.read_metrics(log)]
    found[log] = max(known, default=0)
  return found


def advanced(
  folder: pathlib.Path, saved: dict[pathlib.Path, int], since: float
) -> bool:
  """Whether a process did a step of its own, after what was saved before it."""
  return any(
    step > saved.get(path, 0) and path.stat().st_mtime >= since
    for path, step in steps(folder, saved=False).items()
  )


def main() -> None:
  """Soaks the stages and prints a table; the status tells of a difference."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=4, help='of each stage')
  parser.add_argument('--work', type=float, default=1, help='factor of steps')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  parser.add_argument(
    '--only', choices=STAGES, nargs='+', default=list(STAGES), help='to kill'
  )
  parser.add_argument(
    '--last',
    choices=STAGES,
    default=list(STAGES)[-1],
    help='the last stage to kill',
  )
  arguments = parser.parse_args()
  rng = random.Random(arguments.seed)
  first = list(STAGES)[: 1 + list(STAGES).index(arguments.last)]
  killed = [name for name in first if name in arguments.only]
  rows, different = [], []
  with tempfile.TemporaryDirectory() as folder:
    # Starts get short, so that kills hit work more often than compilation.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{folder}/compiled')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    for name in needed_for(killed):
      result = soak(
        name,
        pathlib.Path(folder),
        kills=arguments.kills if name in killed else 0,
        scaled=lambda steps: max(2, round(steps * arguments.work)),
        rng=rng,
      )
      different += result.different
      equal = 'no' if result.different else 'yes'
      numbers = f'{result.seconds:.1f}', result.files
      rows.append([name, *result[:3], *numbers, equal])
      print(rows[-1], file=sys.stderr, flush=True)
  columns = ('stage', 'kills survived', 'in the loop', 'folders')
  columns += ('straight run s', 'files compared', 'equal')
  table = tables.Table(
    'Stages killed at random moments and started again',
    columns,
    rows,
    'In the loop: the process killed had done a step, or for cache a file, of '
    'its own.',
  )
  console.show(table)
  if different:
    sys.exit(f'Not the bytes of the straight run: {", ".join(different)}')


if __name__ == '__main__':
  main()
