"""What a running stage reports: JSON lines, TensorBoard, progress, seconds."""

import collections
import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

import jax
import tensorboardX
from tqdm import auto as tqdm

from fsdd_jax import files, processes

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
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'metrics.jsonl'
    kept = [
      json.dumps(row) + '\n'
      for row in (read_metrics(path) if path.exists() else [])
      if row['step'] <= resume_step
    ]
    files.write_bytes_atomic(path, ''.join(kept).encode())
    self._file = path.open('a')
    self._board = tensorboardX.SummaryWriter(
      str(folder / 'tensorboard'), purge_step=resume_step + 1
    )

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds one line and one point a scalar."""
    self._file.write(json.dumps({'step': step, **scalars}) + '\n')
    self._file.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    self._board.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Rows of a `metrics.jsonl`; a last line cut short by a kill is left out.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'metrics.jsonl'
    >>> lines = '{"step": 1, "loss": 0.5}', '{"step": 2, "lo'
    >>> size = path.write_text(chr(10).join(lines))
    >>> read_metrics(path)  # The last line was cut short.
    [{'step': 1, 'loss': 0.5}]
  """
  rows = []
  lines = pathlib.Path(path).read_text().splitlines()
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(
          f'Line {number} of {path} is not JSON: {line[:80]!r}. Repair or '
          'delete that line.'
        ) from error
  return rows


class StageClock:
  """Seconds a part of a stage, with compilation apart.

  Example:
    >>> clock = StageClock()
    >>> with clock.part('sum'):
    ...   total = sum(range(10))
    >>> list(clock.seconds())
    ['sum']
  """

  def __init__(self) -> None:
    """Starts with no parts."""
    self._seconds: collections.defaultdict[str, float] = (
      collections.defaultdict(float)
    )
    # Seconds that the running part spent in other parts or in compilation.
    self._elsewhere = 0.0
    self._depth = 0

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Adds the time of the block to a part, without that of parts within it.

    The caller waits for its results within the block, as JAX returns before
    they are computed.
    """
    outer, self._elsewhere = self._elsewhere, 0.0
    self._depth += 1
    if self._depth == 1:
      jax.monitoring.register_event_duration_secs_listener(self._listen)
    start = time.perf_counter()
    try:
      yield
    finally:
      elapsed = time.perf_counter() - start
      self._seconds[name] += elapsed - self._elsewhere
      self._elsewhere = outer + elapsed
      self._depth -= 1
      if not self._depth:
        jax.monitoring.unregister_event_duration_listener(self._listen)

  def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
    if event in _COMPILE_EVENTS:
      self._seconds['compilation'] += duration_secs
      self._elsewhere += duration_secs

  def seconds(self) -> dict[str, float]:
    """Seconds a part, and `compilation` for all parts together."""
    return dict(self._seconds)


def start_at(bar: tqdm.tqdm, done: int, total: int) -> None:
  """Lets a bar start where an earlier program ended.

  Example:
    >>> with progress_bar(0, 'count', unit='step') as bar:
    ...   start_at(bar, 8, 10)
    ...   shown = bar.update()
    >>> bar.n
    9
  """
  bar.initial = done  # The rate counts from here.
  bar.reset(total=total)
  bar.n = bar.last_print_n = done


def progress_bar(
  total: int, description: str, *, unit: str, leave: bool = True
) -> tqdm.tqdm:
  """A bar with rate and remaining time, on the first process's standard error.

  Example:
    >>> with progress_bar(10, 'count', unit='step') as bar:
    ...   for _ in range(10):
    ...     shown = bar.update()
    >>> bar.n
    10
  """
  return tqdm.tqdm(
    total=total,
    desc=description,
    unit=unit,
    leave=leave,
    dynamic_ncols=True,
    mininterval=0.5,
    disable=not processes.is_first_process(),
  )
