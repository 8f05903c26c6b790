"""Tables fit the terminal that they are printed on, and lose nothing."""

import io
import re

import rich.console
from hypothesis import given
from hypothesis import strategies as st

from fsdd_jax.reporting import console, tables

_NETWORK = 'ConvNet(norm=none, width=32, depth=3, width_multiplier=2)'


def _table(num_columns, num_rows=2, first='random real'):
  columns = ['set', 'network', *(f'method {i}' for i in range(num_columns))]
  rows = [
    [
      first,
      _NETWORK,
      *(f'{10 * i + r}.25 ± 0.8{i}' for i in range(num_columns)),
    ]
    for r in range(num_rows)
  ]
  return tables.Table('Scores', columns, rows, 'mean ± std, n=5 [not a tag]')


def _shown(table, width, *, terminal=True):
  stream = io.StringIO()
  console.show(
    table,
    rich.console.Console(
      file=stream, width=width, force_terminal=terminal, color_system=None
    ),
  )
  return stream.getvalue()


def test_a_file_or_a_wide_terminal_has_the_markdown():
  table = _table(3)
  markdown = tables.to_markdown(table) + '\n'
  assert _shown(table, 80, terminal=False) == markdown
  assert _shown(table, 200) == markdown


@given(st.integers(1, 12), st.integers(1, 3), st.integers(60, 130))
def test_a_narrow_terminal_has_each_number_whole(num_columns, num_rows, width):
  table = _table(num_columns, num_rows)
  text = _shown(table, width)
  assert max(map(len, text.splitlines())) <= width
  for row in table.rows:
    for number in row[2:]:
      assert text.count(f' {number} |') == 1
  for name in table.columns[2:]:
    assert len(re.findall(rf'{name}\b', ' '.join(text.split()))) == 1
  assert '[not a tag]' in ' '.join(text.split())


def test_each_part_names_its_rows():
  text = _shown(_table(8), 80)
  parts = text.count('| set ')
  assert parts > 1
  assert text.count('random') == 2 * parts


def test_columns_of_text_alone_are_wrapped():
  table = tables.Table('Names', ['a', 'b'], [['one two ' * 9, 'three ' * 9]])
  text = _shown(table, 60)
  assert max(map(len, text.splitlines())) <= 60
  assert text.count('three') == 9
