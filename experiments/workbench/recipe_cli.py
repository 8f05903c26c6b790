"""What the binaries of tables and figures share: flags, and files to write."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from fsdd_jax.reporting import tables
from fsdd_jax.reporting.tables import Picture, Table
from fsdd_jax.runtime import files
from fsdd_jax.storage import distilled_set
from workbench import cli
from workbench.columns import Recipe


def define_flags(*, ipcs: Sequence[int]) -> None:
  """Defines the flags of a `Recipe`, and the folder of results.

  Args:
    ipcs: the default images per class.
  """
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of results, and of tasks, which tables and figures may share.',
    required=True,
  )
  flags.DEFINE_string('scale', 'cpu', 'cpu or paper, or yours in --recipes.')
  flags.DEFINE_string(
    'recipes', '', "Folder of flagfiles; empty: the binary's."
  )
  flags.DEFINE_list('ipcs', list(map(str, ipcs)), 'Images per class.')
  flags.DEFINE_list('protocols', ['krr'], 'Protocols: krr, frepo, dc.')
  flags.DEFINE_integer('repeats', 3, 'Fresh networks a score.')
  flags.DEFINE_multi_string(
    'target_flag', [], 'Further flag of all that distils, e.g. --seed=1.'
  )


def recipe_from_flags(binary: str) -> Recipe:
  """The recipe that the flags tell, for a binary beside the others.

  Args:
    binary: path of the binary that runs.
  """
  folder, values = pathlib.Path(binary).parent, flags.FLAGS
  return Recipe(
    binaries=str(folder),
    folder=str(files.resolve(values.recipes or folder / 'recipes')),
    scale=values.scale,
    ipcs=cli.integers('ipcs'),
    protocols=tuple(values.protocols),
    repeats=values.repeats,
    flags=tuple(values.target_flag),
  )


def write(
  workdir: pathlib.Path,
  name: str,
  table: Table,
  records: Any,
  recipe: Recipe,
  *,
  pictures: Sequence[tuple[str, Picture]] = (),
) -> None:
  """Writes a table as Markdown, CSV, LaTeX, JSON and HTML; prints it.

  Args:
    workdir: the folder of results.
    name: of the files.
    table: what to show.
    records: the numbers behind it, JSON values.
    recipe: how it was made.
    pictures: captions and pictures for the HTML page.

  Example:
    >>> import tempfile
    >>> workdir = pathlib.Path(tempfile.mkdtemp())
    >>> recipe = Recipe('experiments', 'recipes', 'cpu', ipcs=(1,))
    >>> write(workdir, 'mine', Table('Mine', ['a'], [['1']]), [], recipe)
    ... # doctest: +ELLIPSIS
    ### Mine
    ...
    >>> sorted(path.name for path in workdir.iterdir())
    ['mine.csv', 'mine.html', 'mine.json', 'mine.md', 'mine.tex']
  """
  settings = {**distilled_set.library_versions(), 'scale': recipe.scale}
  text = json.dumps({'settings': settings, 'records': records}, indent=2)
  for ending, content in (
    ('md', tables.to_markdown(table)),
    ('csv', tables.to_csv(table)),
    ('tex', tables.to_latex(table)),
    ('json', f'{text}\n'),
  ):
    files.write_bytes_atomic(workdir / f'{name}.{ending}', content.encode())
  tables.write_report(
    workdir / f'{name}.html',
    title=table.title,
    tables=[table],
    pictures=pictures,
    settings=settings,
  )
  print(tables.to_markdown(table))
  print(f'Wrote {name}.md, .csv, .tex, .json and .html to {workdir}.')
