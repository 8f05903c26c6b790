import base64
import csv
import html.parser
import io
import os
import re

import numpy as np
import PIL.Image
import pytest

from fsdd_jax.reporting import tables
from fsdd_jax.reporting.pictures import png_bytes

TABLE = tables.Table(
  'Accuracy <%>',
  ('Method', 'IPC 1', 'Note'),
  [
    ('1 Net & "co"', '43.1 ± 0.4', 'a|b'),
    ('<script>alert(1)</script>', '-', 'two\nlines'),
  ],
  caption='Mean ± std (ddof 0) of 5 runs < 6',
)


class _Parser(html.parser.HTMLParser):
  """Keeps tags with their attributes, and checks that they are nested."""

  VOID = ('meta', 'img')

  def __init__(self):
    super().__init__()
    self.tags, self.open, self.text = [], [], ''

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def _parse(path):
  parser = _Parser()
  parser.feed(path.read_text(encoding='utf-8'))
  parser.close()
  assert not parser.open
  return parser


def test_report_is_escaped_and_accessible(tmp_path):
  path = tmp_path / 'report.html'
  picture = np.linspace(0, 1, 48).reshape(4, 4, 3)
  tables.write_report(
    path,
    title='Run <1>',
    tables=[TABLE],
    pictures=[('before "&" after', picture), ('bytes', png_bytes(picture))],
    settings={'ridge': 1e-6, 'path': '<here>'},
  )
  page = _parse(path)
  assert page.all('html') == [{'lang': 'en'}]
  assert not page.all('script')
  assert '<script>alert(1)</script>' in page.text
  assert 'Mean ± std (ddof 0) of 5 runs < 6' in page.text
  assert '1e-06' in page.text
  assert '<here>' in page.text
  assert [x['alt'] for x in page.all('img')] == ['before "&" after', 'bytes']
  assert {x['scope'] for x in page.all('th')} == {'col', 'row'}
  # 3 + 2 columns, 2 + 2 rows.
  assert len(page.all('th')) == 9
  assert len(page.all('h1')) == 1


def test_report_needs_nothing_outside_itself(tmp_path):
  path = tmp_path / 'report.html'
  picture = np.random.default_rng(0).integers(0, 256, (4, 5, 1), np.uint8)
  tables.write_report(path, title='t', pictures=[('p', picture)])
  text = path.read_text(encoding='utf-8')
  assert not re.search(r'https?:|url\(|@import|<link', text)
  (source,) = (x['src'] for x in _parse(path).all('img'))
  data = base64.b64decode(source.removeprefix('data:image/png;base64,'))
  shown = np.asarray(PIL.Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(shown, picture[..., 0])


def test_failed_report_leaves_the_old_one(tmp_path):
  path = tmp_path / 'report.html'
  tables.write_report(path, title='old')
  before = path.read_bytes()
  with pytest.raises(ValueError, match=r"'curve'.* no PNG"):
    tables.write_report(path, title='new', pictures=[('curve', b'<svg/>')])
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['report.html']


def test_markdown_lines_up():
  assert tables.to_markdown(TABLE) == (
    '### Accuracy <%>\n'
    '\n'
    '| Method                    |      IPC 1 | Note      |\n'
    '| ------------------------- | ---------: | --------- |\n'
    '| 1 Net & "co"              | 43.1 ± 0.4 | a\\|b      |\n'
    '| <script>alert(1)</script> |          - | two lines |\n'
    '\n'
    'Mean ± std (ddof 0) of 5 runs < 6\n'
  )


def test_csv_reads_back():
  rows = list(csv.reader(io.StringIO(tables.to_csv(TABLE))))
  assert rows == [list(TABLE.columns), *map(list, TABLE.rows)]


def test_table_without_rows_has_its_columns():
  table = tables.Table('t', ('a', 'b'), [])
  assert tables.to_csv(table) == 'a,b\n'
  assert '| a   | b   |' in tables.to_markdown(table)
  assert tables.to_html(table).count('scope="col"') == 2


@pytest.mark.parametrize(
  ('cells', 'right'),
  [
    (['1', '-2.5e-3', '12%', '3 ± 1', '-', ''], True),
    (['1', 'one'], False),
    (['', ''], False),
    (['yes 1'], False),
  ],
)
def test_only_columns_of_numbers_are_right_aligned(cells, right):
  table = tables.Table('t', ('row', 'x'), [('r', cell) for cell in cells])
  assert ('class="number"' in tables.to_html(table)) == right


def test_bad_tables_are_named():
  with pytest.raises(ValueError, match=r"'t': row 1 has 1 cells for 2"):
    tables.Table('t', ('a', 'b'), [(1, 2), (1,)])
  with pytest.raises(ValueError, match='no columns'):
    tables.Table('t', (), [])
