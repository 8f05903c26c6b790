"""Tables for the terminal, and one HTML page that holds all of a run.

The page needs nothing outside itself: pictures are embedded, the style is
inline, and no script runs.
"""

import base64
import csv
import dataclasses
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fsdd_jax.reporting.pictures import png_bytes
from fsdd_jax.runtime import files

_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'

_STYLE = """\
:root { color-scheme: light dark; --line: #8886; --faint: #8881; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 90rem;
  margin: 2rem auto; padding: 0 1rem; }
p { max-width: 60rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem;
  text-align: left; vertical-align: top; }
.number, thead th { white-space: nowrap; }
thead th { background: var(--faint); }
.number { text-align: right; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: #fff; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  table, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table to print and to report.

  Cells are shown by `str`; format numbers before (e.g. '43.1 ± 0.4').

  Attributes:
    title: a heading; one line.
    columns: a name a column; the first column names the rows.
    rows: each with one cell a column.
    caption: what the numbers are: unit, n, kind of deviation, protocol.

  Example:
    >>> table = Table(
    ...   'Scores', ('set', 'accuracy'), [('random real', '23.5 ± 0.3')]
    ... )
    >>> len(table.rows)
    1
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ''

  def __post_init__(self) -> None:
    if not self.columns:
      raise ValueError(f'Table {self.title!r} has no columns; name them.')
    for i, row in enumerate(self.rows):
      if len(row) != len(self.columns):
        raise ValueError(
          f'Table {self.title!r}: row {i} has {len(row)} cells for '
          f'{len(self.columns)} columns; give one a column. Row: {row!r}.'
        )


Picture = bytes | np.ndarray


def to_markdown(table: Table) -> str:
  """A Markdown table whose columns line up on a terminal, too.

  Example:
    >>> table = Table(
    ...   'Scores', ('set', 'accuracy'), [('random real', '23.5 ± 0.3')]
    ... )
    >>> print(to_markdown(table), end='')
    ### Scores
    <BLANKLINE>
    | set         |   accuracy |
    | ----------- | ---------: |
    | random real | 23.5 ± 0.3 |
  """
  cells = [[_markdown_cell(x) for x in row] for row in _text_rows(table)]
  widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
  numeric = _numeric_columns(table)

  def line(row: Sequence[str]) -> str:
    padded = (
      cell.rjust(width) if number else cell.ljust(width)
      for cell, width, number in zip(row, widths, numeric, strict=True)
    )
    return f'| {" | ".join(padded)} |\n'

  rule = [
    '-' * (width - 1) + (':' if number else '-')
    for width, number in zip(widths, numeric, strict=True)
  ]
  text = f'### {_markdown_cell(table.title)}\n\n'
  text += line(cells[0]) + line(rule) + ''.join(map(line, cells[1:]))
  return text + (f'\n{table.caption}\n' if table.caption else '')


def to_csv(table: Table) -> str:
  """Columns and rows as CSV text; title and caption are left out.

  Example:
    >>> table = Table(
    ...   'Scores', ('set', 'accuracy'), [('random real', '23.5 ± 0.3')]
    ... )
    >>> print(to_csv(table), end='')
    set,accuracy
    random real,23.5 ± 0.3
  """
  stream = io.StringIO()
  csv.writer(stream, lineterminator='\n').writerows(_text_rows(table))
  return stream.getvalue()


def to_latex(table: Table) -> str:
  r"""A LaTeX table of package booktabs, with title and caption.

  Example:
    >>> table = Table(
    ...   'Scores', ('set', 'accuracy'), [('random real', '23.5 ± 0.3')]
    ... )
    >>> print(to_latex(table).splitlines()[6])
    random real & $23.5 \pm 0.3$ \\
  """
  numeric = _numeric_columns(table)
  lines = [
    ' & '.join(map(_latex_cell, row)) + r' \\' for row in _text_rows(table)
  ]
  caption = f'{table.title}. {table.caption}'.strip()
  return '\n'.join(
    [
      r'\begin{table}',
      r'\centering',
      rf'\begin{{tabular}}{{{"".join("r" if n else "l" for n in numeric)}}}',
      r'\toprule',
      lines[0],
      r'\midrule',
      *lines[1:],
      r'\bottomrule',
      r'\end{tabular}',
      rf'\caption{{{_latex_cell(caption)}}}',
      r'\end{table}',
      '',
    ]
  )


def to_html(table: Table) -> str:
  """The caption and a `<table>` with header cells, escaped.

  Example:
    >>> table = Table(
    ...   'Scores', ('set', 'accuracy'), [('random real', '23.5 ± 0.3')]
    ... )
    >>> '<th scope="row">random real</th>' in to_html(table)
    True
  """
  columns, *rows = _text_rows(table)
  numeric = _numeric_columns(table)

  def cell(tag: str, text: str, number: bool, scope: str = '') -> str:
    mark = ' class="number"' if number else ''
    where = f' scope="{scope}"' if scope else ''
    return f'<{tag}{where}{mark}>{html.escape(text)}</{tag}>'

  head = ''.join(
    cell('th', text, number, 'col')
    for text, number in zip(columns, numeric, strict=True)
  )
  body = ''
  for row in rows:
    cells = cell('th', row[0], numeric[0], 'row') + ''.join(
      cell('td', text, number)
      for text, number in zip(row[1:], numeric[1:], strict=True)
    )
    body += f'<tr>{cells}</tr>\n'
  # Not `<caption>`, which would be as wide as the table, and scroll with it.
  caption = f'<p>{html.escape(table.caption)}</p>\n' if table.caption else ''
  return (
    f'{caption}<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{body}</tbody>\n</table></div>\n'
  )


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  tables: Sequence[Table] = (),
  pictures: Sequence[tuple[str, Picture]] = (),
  settings: Mapping[str, Any] | None = None,
) -> None:
  """Writes `report.html`: tables, pictures and settings in one file.

  Args:
    path: the file; written whole or not at all.
    title: the heading of the page.
    tables: shown first, in order.
    pictures: pairs of a caption and a picture: PNG bytes, or an array
      `[h, w, c]` (uint8, or floats in [0, 1]; c = 1 or 3). The caption also
      stands for the picture where it cannot be seen.
    settings: names and values of the run: config, seeds, versions; shown last.

  Raises:
    ValueError: if a picture is neither.
    OSError: if the file cannot be written.

  Example:
    >>> import numpy as np
    >>> import pathlib
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'report.html'
    >>> picture = ('A black image', np.zeros((8, 8, 3)))
    >>> write_report(path, title='First look', pictures=[picture])
    >>> '<h1>First look</h1>' in path.read_text()
    True
  """
  parts = []
  for table in tables:
    if table.title != title:
      parts.append(f'<h2>{html.escape(table.title)}</h2>\n')
    parts.append(to_html(table))
  if pictures:
    parts.append('<h2>Pictures</h2>\n')
    parts += [_figure(caption, picture) for caption, picture in pictures]
  if settings:
    rows = list(settings.items())
    parts.append('<h2>Settings</h2>\n')
    parts.append(to_html(Table('Settings', ('Name', 'Value'), rows)))
  heading = html.escape(title)
  text = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{heading}</title>\n<style>\n{_STYLE}</style>\n</head>\n'
    f'<body>\n<main>\n<h1>{heading}</h1>\n{"".join(parts)}</main>\n</body>\n'
    '</html>\n'
  )
  files.write_bytes_atomic(path, text.encode())


def _figure(caption: str, picture: Picture) -> str:
  """A picture as an embedded PNG with its caption."""
  if isinstance(picture, bytes):
    if not picture.startswith(_PNG_MAGIC):
      raise ValueError(
        f'Picture {caption!r}: the bytes are no PNG (they begin with '
        f'{picture[:8]!r}). Pass PNG bytes or an array [h, w, c].'
      )
    data = picture
  else:
    data = png_bytes(picture)
  encoded = base64.b64encode(data).decode()
  text = html.escape(caption)
  return (
    f'<figure>\n<img alt="{text}" src="data:image/png;base64,{encoded}">\n'
    f'<figcaption>{text}</figcaption>\n</figure>\n'
  )


def _text_rows(table: Table) -> list[list[str]]:
  """Column names, then cells, all as text."""
  return [[str(cell) for cell in row] for row in (table.columns, *table.rows)]


def _numeric_columns(table: Table) -> list[bool]:
  """Whether the cells of a column, empty ones aside, are numbers."""
  columns = zip(*_text_rows(table)[1:], strict=True)
  numeric = [
    any(column) and all(_is_number(text) for text in column if text)
    for column in columns
  ]
  return numeric or [False] * len(table.columns)


def _is_number(text: str) -> bool:
  """True for '3', '-1.5e-3', '12%', '43.1 ± 0.4' and '-' (no value)."""
  first = text.split()[0].rstrip('%') if text.split() else ''
  if first == '-':
    return True
  try:
    float(first)
  except ValueError:
    return False
  return True


def _markdown_cell(text: Any) -> str:
  """On one line, and with no bar that would begin another cell."""
  return ' '.join(str(text).split()).replace('|', '\\|')


_LATEX = {c: f'\\{c}' for c in '&%$#_{}'} | {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
}
_MEASURE = re.compile(r'([-\d.]+) ± ([-\d.]+)')


def _latex_cell(text: str) -> str:
  if measure := _MEASURE.fullmatch(text):
    return rf'${measure[1]} \pm {measure[2]}$'
  return ''.join(_LATEX.get(c, c) for c in text)
