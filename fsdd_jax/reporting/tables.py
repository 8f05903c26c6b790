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
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from fsdd_jax.reporting.pictures import png_bytes
from fsdd_jax.runtime import files

_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'

# Beside this module. Filters are Python's own, whose escapes stay the same.
_TEMPLATES = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  undefined=jinja2.StrictUndefined,
  keep_trailing_newline=True,
)
_TEMPLATES.filters['escape'] = html.escape


@dataclasses.dataclass(frozen=True)
class Table:
  """A table to print and to report.

  Cells are shown by `str`; format numbers before (e.g. '43.1 ± 0.4').

  Attributes:
    title: a heading; one line.
    columns: a name a column; the first column names the rows.
    rows: each with one cell a column.
    caption: what the numbers are: unit, n, kind of deviation, protocol.
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
  # Not by tabulate: it escapes no cell, and what is left are these few lines.
  cells = [[_markdown_cell(x) for x in row] for row in text_rows(table)]
  widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
  numeric = numeric_columns(table)

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
  """Columns and rows as CSV text; title and caption are left out."""
  stream = io.StringIO()
  csv.writer(stream, lineterminator='\n').writerows(text_rows(table))
  return stream.getvalue()


def to_latex(table: Table) -> str:
  r"""A LaTeX table of package booktabs, with title and caption."""
  numeric = numeric_columns(table)
  lines = [
    ' & '.join(map(_latex_cell, row)) + r' \\' for row in text_rows(table)
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
  """The caption and a `<table>` with header cells, escaped."""
  macros: Any = _TEMPLATES.get_template('table.html.jinja').module
  return str(macros.table(_cells(table)))


def _cells(table: Table) -> dict[str, Any]:
  """Caption, columns and rows; each cell with whether it is a number."""
  numeric = numeric_columns(table)
  columns, *rows = (
    list(zip(row, numeric, strict=True)) for row in text_rows(table)
  )
  return {'caption': table.caption, 'columns': columns, 'rows': rows}


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
  """
  setting_rows = list((settings or {}).items())
  text = _TEMPLATES.get_template('report.html.jinja').render(
    title=title,
    tables=[(table.title, _cells(table)) for table in tables],
    pictures=[(caption, _encoded(caption, x)) for caption, x in pictures],
    settings=_cells(Table('Settings', ('Name', 'Value'), setting_rows)),
  )
  files.write_bytes_atomic(path, text.encode())


def _encoded(caption: str, picture: Picture) -> str:
  """A picture as PNG in base 64."""
  if not isinstance(picture, bytes):
    picture = png_bytes(picture)
  elif not picture.startswith(_PNG_MAGIC):
    raise ValueError(
      f'Picture {caption!r}: the bytes are no PNG (they begin with '
      f'{picture[:8]!r}). Pass PNG bytes or an array [h, w, c].'
    )
  return base64.b64encode(picture).decode()


def text_rows(table: Table) -> list[list[str]]:
  """Column names, then cells, all as text."""
  return [[str(cell) for cell in row] for row in (table.columns, *table.rows)]


def numeric_columns(table: Table) -> list[bool]:
  """Whether the cells of each column, empty ones aside, are numbers."""
  columns = zip(*text_rows(table)[1:], strict=True)
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
