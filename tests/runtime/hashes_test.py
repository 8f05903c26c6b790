"""Digests of arrays and of programs."""

import pathlib
import re

import numpy as np
import pytest

import fsdd_jax
from fsdd_jax.data import decoding, feature_bank, sources
from fsdd_jax.runtime import hashes


def test_names_types_shapes_and_values_count():
  arrays = {'x': np.zeros((2, 3), np.float32)}
  digests = {
    hashes.hash_arrays(other)
    for other in (
      arrays,
      {'y': arrays['x']},
      {'x': arrays['x'].reshape(3, 2)},
      {'x': arrays['x'].astype(np.float64)},
      {'x': arrays['x'] + 1},
    )
  }
  assert len(digests) == 5
  assert hashes.hash_arrays(arrays) in digests
  assert hashes.hash_tree({'a': [np.ones(2)]}) != hashes.hash_tree([np.ones(2)])


def test_code_counts_but_no_comment(tmp_path):
  path = tmp_path / 'a.py'

  def digest(text):
    path.write_text(text)
    return hashes.hash_code([path])

  plain = digest('def f():\n  return 1\n')
  assert digest('"""A."""\n\ndef f():\n  """B."""\n  return 1  # C\n') == plain
  assert digest('def f():\n  return 2\n') != plain
  assert hashes.hash_code([tmp_path / 'none.py']) != plain


@pytest.mark.parametrize(
  'pattern', [*decoding._READERS, *feature_bank._SHAPING]
)
def test_the_programs_that_name_kept_files_are_there(pattern):
  assert list(pathlib.Path(fsdd_jax.__file__).parent.glob(pattern))


def test_every_source_of_pictures_names_them():
  readers = {pathlib.Path(path).stem for path in decoding._READERS}
  text = pathlib.Path(sources.__file__).read_text()
  (names,) = re.findall(r'^from fsdd_jax.data import (.*)$', text, re.M)
  # Fractals are no files.
  assert set(names.split(', ')) - {'fractals'} <= readers


def test_code_of_the_package_is_found_by_patterns():
  own = hashes.package_code('runtime/hashes.py')
  assert own != hashes.package_code('runtime/*.py')
  assert own != hashes.package_code('runtime/no_such_file.py')
