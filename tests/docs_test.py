"""What the README and the documentation point to is there."""

import ast
import functools
import itertools
import pathlib
import re
import runpy
import tomllib

import pytest

import fsdd_jax
from workbench import flagfiles

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = [
  *_ROOT.glob('*.md'),
  *(
    path
    for path in (_ROOT / 'docs').rglob('*.md')
    if not {'_generated', 'api'} & set(path.parts)  # Made by a build.
  ),
]
_LINK = re.compile(r'\]\((?!\w+:|#)([^)#]+)')
_pages = pytest.mark.parametrize(
  'page', _PAGES, ids=lambda path: str(path.relative_to(_ROOT))
)


@_pages
def test_links_lead_somewhere(page):
  text = re.sub(r'<!--.*?-->', '', page.read_text(), flags=re.S)
  missing = [
    target
    for target in _LINK.findall(text)
    if not (page.parent / target).exists() and not target.startswith('api/')
  ]
  assert not missing


@_pages
def test_flagfiles_and_binaries_are_there(page):
  named = re.findall(r'experiments/[\w/]+\.(?:flags|py|sh)\b', page.read_text())
  missing = [x for x in set(named) if not (_ROOT / x).exists()]
  assert not missing


@_pages
def test_flags_of_commands_come_after_flagfiles_that_set_them(page):
  text = page.read_text().replace('\\\n', ' ')
  for line in re.findall(r'python experiments/[^`\n]*', text):
    words = [word.strip('\'"') for word in line.split()]
    paths = [word for word in words if word.startswith('--flagfile=')]
    if all('<' not in path for path in paths):
      flagfiles.check_order(flagfiles.with_shipped(words))


@_pages
def test_headings_skip_no_level(page):
  text = re.sub(r'```.*?```', '', page.read_text(), flags=re.S)
  levels = [len(marks) for marks in re.findall(r'^(#+) ', text, flags=re.M)]
  assert all(then <= now + 1 for now, then in itertools.pairwise(levels))


def test_the_readme_is_short():
  assert len((_ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize('repository', [None, 'https://example.org/x'])
def test_links_of_the_index_are_absolute(repository, tmp_path):
  for name in ('setup.py', 'README.md', 'pyproject.toml'):
    (tmp_path / name).write_bytes((_ROOT / name).read_bytes())
  if repository:
    with (tmp_path / 'pyproject.toml').open('a') as file:
      file.write(f"\n[project.urls]\nRepository = '{repository}'\n")
  text = runpy.run_path(str(tmp_path / 'setup.py'))['description']()
  assert not _LINK.findall(text)
  assert (f'[Contributing]({repository}/' in text) == bool(repository)
  assert text.count('Contributing') == 1
  assert 'https://img.shields.io' in text


@functools.cache
def _defined(path):
  """Names of functions, classes and constants of a file or of a folder."""
  names = set()
  for file in [path] if path.is_file() else path.rglob('*.py'):
    for node in ast.parse(file.read_text()).body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names.add(node.name)
      elif isinstance(node, ast.Assign):
        names |= {x.id for x in node.targets if isinstance(x, ast.Name)}
  return names


def test_functions_that_follow_the_paper_are_there():
  page = (_ROOT / 'docs' / 'paper.md').read_text()
  found = re.findall(r'`([\w/]+(?:\.py)?)::(\w+)`', page)
  assert len(found) > 30
  package = _ROOT / 'fsdd_jax'
  missing = [
    f'{path}::{name}'
    for path, name in found
    if not (package / path).exists() or name not in _defined(package / path)
  ]
  assert not missing


def _constants(path):
  return {
    node.value
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  }


def test_the_test_split_is_read_where_the_documentation_says():
  page = ' '.join((_ROOT / 'docs/howto/own_data.md').read_text().split())
  said = 'is read by `evaluate.py`, by the quickstart and by `compare.py'
  assert said in page
  naming = {
    path.name
    for path in (_ROOT / 'experiments').rglob('*.py')
    if 'test' in _constants(path)
  }
  # evaluate.py asks its config for the split; estimates are of its size alone.
  assert naming == {'quickstart.py', 'compare.py', 'score_estimates.py'}
  stages = {
    path.name
    for path in (_ROOT / 'fsdd_jax' / 'algorithms').rglob('*.py')
    if 'test' in _constants(path)
  }
  assert stages == {'configs.py'}  # The choices of `EvaluationConfig`.


def test_extras_that_install_tensorflow_and_platforms_are_told():
  project = tomllib.loads((_ROOT / 'pyproject.toml').read_text())['project']
  page = (_ROOT / 'docs' / 'start.md').read_text()
  rows = dict(re.findall(r'^\| `\.\[(\w+)\]` \| (.*) \|$', page, re.M))
  extras = project['optional-dependencies']
  assert rows.keys() == extras.keys()
  for name, needed in extras.items():
    kernels = any('neural-tangents' in x or '[kernels]' in x for x in needed)
    assert ('TensorFlow' in rows[name]) == kernels, name
  assert 'array-record has no wheel for Windows and Intel' in ' '.join(
    page.split()
  )


def test_topics_list_what_is_exported():
  topics = runpy.run_path(str(_ROOT / 'docs' / 'generate.py'))['_TOPICS']
  listed = [name for names in topics.values() for name in names]
  assert sorted(listed) == sorted(fsdd_jax.__all__)
