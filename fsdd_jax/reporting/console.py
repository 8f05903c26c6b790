"""Tables on a terminal, which may be narrower than they are."""

from collections.abc import Iterator

import rich.box
import rich.console
import rich.table
import rich.text

from fsdd_jax.reporting import tables
from fsdd_jax.reporting.tables import Table


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


def _parts(table: Table, room: int) -> Iterator[rich.table.Table]:
  """Tables that fit, of the columns that name rows and some of the others."""
  numeric = tables.numeric_columns(table)
  first = len(numeric) - numeric[::-1].index(False) if False in numeric else 0
  columns = list(range(first))
  for column in range(first, len(numeric)):
    wider = [*columns, column]
    if column > first and sum(_widths(table, wider, room)) > _left(wider, room):
      yield _part(table, columns, room)
      wider = [*range(first), column]
    columns = wider
  yield _part(table, columns, room)


def _left(columns: list[int], room: int) -> int:
  """Characters for cells, beside bars and the space around cells."""
  return room - 3 * len(columns) - 1


def _widths(table: Table, columns: list[int], room: int) -> list[int]:
  """Those of columns, of which words may stand below each other to fit."""
  numeric = tables.numeric_columns(table)
  texts = [
    [str(x[column]) for x in (table.columns, *table.rows)] for column in columns
  ]
  widths = [max(map(len, cells)) for cells in texts]
  least = [
    width
    if numeric[column]
    else max(map(len, ' '.join(cells).split()), default=0)
    for column, cells, width in zip(columns, texts, widths, strict=True)
  ]
  while sum(widths) > _left(columns, room) and widths != least:
    most = max(
      range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i])
    )
    widths[most] -= 1
  return widths


def _part(table: Table, columns: list[int], room: int) -> rich.table.Table:
  numeric = tables.numeric_columns(table)
  part = rich.table.Table(box=rich.box.MARKDOWN, header_style='')
  for column, width in zip(columns, _widths(table, columns, room), strict=True):
    part.add_column(
      rich.text.Text(table.columns[column]),
      justify='right' if numeric[column] else 'left',
      width=width,
    )
  for row in table.rows:
    part.add_row(*(rich.text.Text(str(row[column])) for column in columns))
  return part
