"""What a running stage reports: JSON lines, TensorBoard, seconds."""

import collections
import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from fsdd_jax.runtime import files, processes

_HASH = 'sha256'
_COMPILE_EVENTS = (
  '/jax/core/compile/jaxpr_to_mlir_module_duration',
  '/jax/core/compile/backend_compile_duration',
)


class MetricWriter:
  """Writes scalars a step to `metrics.jsonl` and to TensorBoard.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with MetricWriter(folder) as writer:
    ...   writer.write(1, {'loss': 0.5})
    >>> read_metrics(folder / 'metrics.jsonl')
    [{'step': 1, 'loss': 0.5}]
  """

  def __init__(
    self, workdir: str | os.PathLike[str], *, resume_step: int = 0
  ) -> None:
    """Opens the files of a work directory.

    Args:
      workdir: the folder; created where it is missing.
      resume_step: steps after this one, written before a kill, are dropped,
        as the resumed run writes them again.
    """
    folder = files.resolve(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'metrics.jsonl'
    kept = [
      json.dumps(row) + '\n'
      for row in (read_metrics(path) if path.exists() else [])
      if row['step'] <= resume_step
    ]
    files.write_bytes_atomic(path, ''.join(kept).encode())
    self._file = path.open('a')
    # Without the thread of tensorboardX's own writer: where the disk is full,
    # it ends, and the program waits for it for ever.
    board = folder / 'tensorboard'
    board.mkdir(exist_ok=True)
    self._board_path = board
    with files.named(board):
      self._board = EventsWriter(f'{board}/events', f'.{os.getpid()}')
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._board.write_event(
        event_pb2.Event(
          wall_time=time.time(), step=resume_step + 1, session_log=start
        )
      )

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds one line and one point a scalar."""
    with files.named(self._file.name):
      self._file.write(json.dumps({'step': step, **scalars}) + '\n')
      self._file.flush()
    with files.named(self._board_path):
      for name, value in scalars.items():
        self._board.write_event(
          event_pb2.Event(
            wall_time=time.time(),
            step=step,
            summary=summary.scalar(name, float(value)),
          )
        )

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    with files.named(self._board_path):
      self._board.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Rows of a `metrics.jsonl`; a last line cut short by a kill is left out.

  Raises:
    ValueError: naming the file and the line that is damaged.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'metrics.jsonl'
    >>> lines = '{"step": 1, "loss": 0.5}', '{"step": 2, "lo'
    >>> size = path.write_text(chr(10).join(lines))
    >>> read_metrics(path)  # The last line was cut short.
    [{'step': 1, 'loss': 0.5}]
  """
  rows = files.read_json_lines(path)
  for number, row in enumerate(rows, 1):
    if not isinstance(row.get('step'), int):
      raise ValueError(
        f'Line {number} of {path} names no step; repair or delete that line.'
      )
  return rows


class StageClock:
  """Seconds a part of a stage, with compilation apart.

  With a file they add up over the runs of a stage that was killed and started
  again. The file has a line a run; a kill loses what passed since the last
  `save`, as it loses the work that was done then.

  Example:
    >>> clock = StageClock()
    >>> with clock.part('sum'):
    ...   total = sum(range(10))
    >>> list(clock.seconds())
    ['sum']
  """

  def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
    """Starts with the parts of earlier runs.

    Args:
      path: of the file; the first process alone writes it.

    Raises:
      ValueError: if the file is damaged.
    """
    self._seconds: collections.defaultdict[str, float] = (
      collections.defaultdict(float)
    )
    self._parts: list[str] = []  # Those running, the innermost last.
    self._since = 0.0
    self._path = None if path is None else files.resolve(path)
    self._earlier: list[dict[str, float]] = []
    if self._path is not None and self._path.exists():
      self._earlier = read_seconds(self._path)

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Adds the time of the block to a part, without that of parts within it.

    The caller waits for its results within the block, as JAX returns before
    they are computed.
    """
    self._settle()
    if not self._parts:
      jax.monitoring.register_event_duration_secs_listener(self._listen)
    self._parts.append(name)
    try:
      yield
    finally:
      self._settle()
      self._parts.pop()
      if not self._parts:
        jax.monitoring.unregister_event_duration_listener(self._listen)
    if not self._parts:
      self.save()

  def _settle(self) -> None:
    """Gives what passed since the last call to the innermost part."""
    now = time.perf_counter()
    if self._parts:
      self._seconds[self._parts[-1]] += now - self._since
    self._since = now

  def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
    if event in _COMPILE_EVENTS and self._parts:
      self._seconds['compilation'] += duration_secs
      self._seconds[self._parts[-1]] -= duration_secs

  def seconds(self) -> dict[str, float]:
    """Seconds a part, and `compilation` for all parts together."""
    self._settle()
    total = collections.Counter(self._seconds)
    for run in self._earlier:
      total.update(run)
    return dict(total)

  def save(self) -> None:
    """Writes the seconds until now to the file, if there is one."""
    if self._path is None or not processes.is_first_process():
      return
    self._settle()
    lines = [
      json.dumps({**run, _HASH: _digest(run)})
      for run in (*self._earlier, self._seconds)
    ]
    text = ''.join(f'{line}\n' for line in lines)
    files.write_bytes_atomic(self._path, text.encode())


def read_seconds(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Seconds a part of each run, as a `StageClock` wrote them.

  Each line ends with the SHA-256 of its seconds; one without is taken as it is.

  Raises:
    ValueError: if the file is damaged.

  Example:
    >>> import tempfile
    >>> path = f'{tempfile.mkdtemp()}/seconds.jsonl'
    >>> with StageClock(path).part('sum'):
    ...   total = sum(range(10))
    >>> [list(run) for run in read_seconds(path)]
    [['sum']]
  """
  runs = files.read_json_lines(path)
  remedy = 'Delete the file, and with it the seconds until now.'
  # Written as a whole: no kill cuts it short.
  if not files.resolve(path).read_bytes().endswith(b'\n'):
    raise ValueError(f'{path} was cut short. {remedy}')
  for run in runs:
    digest = run.pop(_HASH, None)
    if not all(_is_number(value) for value in run.values()):
      raise ValueError(f'{path}: {run} are no seconds. {remedy}')
    if digest not in (None, _digest(run)):
      raise ValueError(f'{path}: {run} are not those written. {remedy}')
  return runs


def _is_number(value: object) -> bool:
  return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _digest(run: Mapping[str, float]) -> str:
  return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
