"""Settings of the documentation; build it as CONTRIBUTING.md says."""

import pathlib
import re
import sys
import tomllib
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

_DOCS = pathlib.Path(__file__).resolve().parent
_ROOT = _DOCS.parent
sys.path[:0] = [str(_ROOT), str(_DOCS)]

import generate  # noqa: E402

_METADATA = tomllib.loads((_ROOT / 'pyproject.toml').read_text())['project']

project = 'fsdd_jax'
author = copyright = 'The fsdd_jax authors'
release = version = _METADATA['version']

extensions = [
  'myst_nb',  # Pages, and the notebook with the outputs that it has.
  'sphinx.ext.autodoc',
  'sphinx.ext.mathjax',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'sphinx_copybutton',
  'sphinx_design',
]
exclude_patterns = ['_generated']

nb_execution_mode = 'off'
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3
smartquotes = False  # It would make one dash of the two of a flag.

autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
napoleon_use_ivar = True
python_maximum_signature_line_length = 80

copybutton_prompt_text = '>>> '

html_theme = 'furo'
html_title = f'fsdd_jax {release}'
html_static_path = ['_static']
html_css_files = ['style.css']
html_show_sphinx = False
_REPOSITORY = _METADATA.get('urls', {}).get('Repository')
if _REPOSITORY:
  html_theme_options = {
    'source_repository': _REPOSITORY,
    'source_branch': 'main',
    'source_directory': 'docs/',
  }

_LOGGER = logging.getLogger(__name__)


def _write_pages(app: Sphinx) -> None:
  """Writes what is made from the code, and checks the commands of all pages."""
  del app
  known = generate.write_pages()
  pages = [*_ROOT.glob('*.md'), *sorted(_DOCS.rglob('*.md'))]
  for page, fault in generate.unknown_flags(pages, known):
    _LOGGER.warning('%s: %s', page.relative_to(_ROOT), fault)


def _mark_code(
  app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
  """Turns the docstrings' single backticks into what reStructuredText reads."""
  del app, what, name, value, options
  text = re.sub(r'(?<!`)`([^`]+)`(?!`)', r'``\1``', '\n'.join(lines))
  # A literal ends before a space: ``\\ `` is one that does not show.
  lines[:] = re.sub(r'(?<=\w``)(?=\w)', r'\\ ', text).split('\n')


def setup(app: Sphinx) -> dict[str, Any]:
  """Called by Sphinx."""
  app.connect('builder-inited', _write_pages)
  # Before Napoleon, which has the priority 500.
  app.connect('autodoc-process-docstring', _mark_code, priority=400)
  return {'parallel_read_safe': True}
