"""Packages and the index's description; other metadata: pyproject.toml."""

import pathlib
import re
import tomllib

import setuptools

_ROOT = pathlib.Path(__file__).parent


def description() -> str:
  """README.md with links that work on the package index.

  Links into the repository become absolute by `project.urls.Repository` of
  pyproject.toml. Without one they become plain text and pictures go, as there
  they would lead nowhere.
  """
  project = tomllib.loads((_ROOT / 'pyproject.toml').read_text())['project']
  repository = project.get('urls', {}).get('Repository')

  def absolute(found: re.Match[str]) -> str:
    mark, text, target = found.groups()
    if repository is None:
      return '' if mark else text
    view = 'raw' if mark else 'blob'
    return f'{mark}[{text}]({repository}/{view}/main/{target})'

  readme = (_ROOT / 'README.md').read_text()
  # [text](path), where the text may be a badge, and the path no address.
  link = r'(!?)\[((?:!\[[^]]*\]\([^)]*\)|[^][])+)\]\((?!\w+:|#)([^)]+)\)'
  return re.sub(link, absolute, readme)


if __name__ == '__main__':
  # Beside the library the binaries, as they are: the command fsdd runs their
  # files, and they find the workbench and the recipes beside themselves.
  setuptools.setup(
    long_description=description(),
    long_description_content_type='text/markdown',
    packages=[
      *setuptools.find_packages(include=['fsdd_jax', 'fsdd_jax.*']),
      'fsdd_experiments',
      'fsdd_experiments.benchmarks',
      'fsdd_experiments.measures',
      'fsdd_experiments.workbench',
    ],
    package_dir={'fsdd_experiments': 'experiments'},
  )
