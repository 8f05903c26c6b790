"""Bars on a terminal, in a log file, and hidden."""

import io
import sys

from fsdd_jax.runtime import progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _redirected(monkeypatch, stream):
  """Standard error from here on; pytest would undo that of a fixture."""
  monkeypatch.setattr(sys, 'stderr', stream)
  return stream


def test_the_estimate_leaves_compilation_out(monkeypatch):
  terminal = _redirected(monkeypatch, _Terminal())
  with progress.Bar(10, 'distil', unit='step') as bar:
    assert 'compiling...' in terminal.getvalue()
    bar.start_t -= 100  # The compilation lasted so long.
    bar.update()
    assert bar.format_dict['elapsed'] < 50
    assert bar.n == 1
    bar.update(2)
    assert bar.n == 3
  assert 'compiling...' not in terminal.getvalue().splitlines()[-1][-80:]


def test_a_bar_starts_where_an_earlier_program_ended(monkeypatch):
  _redirected(monkeypatch, _Terminal())
  with progress.Bar(0, 'count', unit='step') as bar:
    bar.start_at(8, 10)
    bar.update()
    assert (bar.n, bar.initial, bar.total) == (9, 9, 10)


def test_a_bar_within_a_stage_shows_nothing_under_a_second(monkeypatch):
  terminal = _redirected(monkeypatch, _Terminal())
  with progress.Bar(5, 'statistics', unit='image', leave=False) as bar:
    bar.update(5)
  assert terminal.getvalue() == ''


def test_a_log_file_gets_one_line_a_minute(monkeypatch):
  # Another test may have imported it, for the notebook.
  monkeypatch.delitem(sys.modules, 'ipykernel', raising=False)
  log = _redirected(monkeypatch, io.StringIO())
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(progress, '_last_line', 0.0)
  with progress.Bar(1000, 'distil', unit='step') as bar:
    for _ in range(100):
      now[0] += 5.0
      bar.update()
      bar.refresh()
  lines = log.getvalue().splitlines()
  assert len(lines) == 8  # Of 500 seconds.
  assert all(line.startswith('distil: ') for line in lines)
  assert '\r' not in log.getvalue()
  with progress.Bar(5, 'statistics', unit='image', leave=False) as bar:
    now[0] += 100
    bar.update()
  assert log.getvalue().splitlines() == lines


def test_hidden_bars_show_nothing_and_count_on(monkeypatch):
  terminal = _redirected(monkeypatch, _Terminal())
  with progress.hidden(), progress.Bar(5, 'distil', unit='step') as bar:
    bar.update()
  with progress.Bar(5, 'distil', unit='step', shown=False) as bar:
    bar.update()
  assert terminal.getvalue() == ''
