"""Tables on a terminal, which may be narrower than they are."""

from collections.abc import Iterator, Sequence

import rich.box
import rich.console
import rich.table
import rich.text

from fsdd_jax.reporting import tables
from fsdd_jax.reporting.tables import Table

# The name and the cells of a column, and whether these are numbers.
_Column = tuple[tuple[str, ...], bool]


def show(table: Table, console: rich.console.Console | None = None) -> None:
  """Prints a table as Markdown, or so that it fits a narrow terminal.

  There, words of a cell may stand below each other, but no number is broken:
  columns that still find no place come below, beside the names of their rows.

  Args:
    table: what to print.
    console: where to; standard output if not given.

  Example:
    >>> show(Table('Scores', ('set', 'accuracy'), [('real', '23.5 ± 0.3')]))
    ### Scores
    <BLANKLINE>
    | set  |   accuracy |
    | ---- | ---------: |
    | real | 23.5 ± 0.3 |
    <BLANKLINE>
  """
  text = tables.to_markdown(table)
  rows = [line for line in text.splitlines() if line.startswith('|')]
  console = console or rich.console.Console(highlight=False)
  if not console.is_terminal or max(map(len, rows)) <= console.width:
    print(text, file=console.file, flush=True)
    return
  console.print(f'### {table.title}', markup=False)
  for part in _parts(table, console.width):
    console.print(part)
  console.print(table.caption, markup=False)


def _parts(table: Table, width: int) -> Iterator[rich.table.Table]:
  """Tables that fit, of the columns that name rows and some of the others."""
  cells = list(zip(*tables.text_rows(table), strict=True))
  columns = list(zip(cells, tables.numeric_columns(table), strict=True))
  first = max(
    (i for i, (_, number) in enumerate(columns, 1) if not number), default=0
  )
  names = columns[:first]
  shown: list[_Column] = []
  for column in columns[first:]:
    wider = [*names, *shown, column]
    if shown and sum(_widths(wider, width)) > _room(wider, width):
      yield _part([*names, *shown], width)
      shown = []
    shown.append(column)
  yield _part([*names, *shown], width)


def _room(columns: Sequence[_Column], width: int) -> int:
  """Characters for cells, beside bars and the space around cells."""
  return width - 3 * len(columns) - 1


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
  """Those of columns, of which words may stand below each other to fit."""
  widths = [max(map(len, cells)) for cells, _ in columns]
  least = [
    full if number else max(map(len, ' '.join(cells).split()), default=0)
    for full, (cells, number) in zip(widths, columns, strict=True)
  ]
  while sum(widths) > _room(columns, width) and widths != least:
    most = max(
      range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i])
    )
    widths[most] -= 1
  return widths


def _part(columns: Sequence[_Column], width: int) -> rich.table.Table:
  part = rich.table.Table(box=rich.box.MARKDOWN, header_style='')
  widths = _widths(columns, width)
  for (cells, number), own in zip(columns, widths, strict=True):
    part.add_column(
      rich.text.Text(cells[0]),
      justify='right' if number else 'left',
      width=own,
    )
  for row in zip(*(cells[1:] for cells, _ in columns), strict=True):
    part.add_row(*map(rich.text.Text, row))
  return part
