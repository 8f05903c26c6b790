"""Features on the device are those of the bank on disk."""

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.data import feature_bank, near_features
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.runtime import residence

_ROWS = np.array([5, 0, 5, 23])


@pytest.fixture
def source(tmp_path):
  return BankSource(
    *(toy.problem()[0], toy.theta(1), toy.target(), {'seed': 1}),
    augmentation={'strategy': 'dsa', 'seed': 0, 'copy': 2},
    root=tmp_path,
  )


@pytest.fixture
def on_accelerator(monkeypatch):
  """What is asked for, in bytes; it fits."""
  asked = []
  monkeypatch.setattr(
    residence, 'fits', lambda size: asked.append(size) or True
  )
  return asked


@pytest.mark.parametrize('rows', [None, _ROWS])
def test_they_are_the_same_on_the_device(source, rows, on_accelerator):
  expected = feature_bank.feature_rows(source, rows)
  found = near_features.features(source, rows, banks=3)
  assert isinstance(found, jax.Array)
  assert found.dtype == np.float16
  np.testing.assert_array_equal(found, expected)
  assert on_accelerator == [3 * expected.nbytes]


def test_a_cpu_keeps_the_memory_map(source):
  assert isinstance(near_features.features(source), np.memmap)


def test_pieces_are_augmented_as_on_disk(source, monkeypatch):
  monkeypatch.setattr(feature_bank, 'IMAGES_A_PIECE', 7)
  np.testing.assert_array_equal(
    near_features.on_device(source), feature_bank.feature_rows(source)
  )


def test_what_is_not_finite_is_refused(source):
  huge = jax.tree.map(lambda x: 1e6 * x, toy.theta(1))
  source = source._replace(variables=huge)
  with pytest.raises(FloatingPointError, match='too large for float16'):
    near_features.on_device(source)


def test_rows_and_classes_of_either_are_the_same(source):
  on_disk, near = (
    feature_bank.feature_rows(source),
    near_features.on_device(source),
  )
  rows = near_features.rows_of(near, _ROWS)
  np.testing.assert_array_equal(rows, on_disk[_ROWS])
  np.testing.assert_array_equal(near_features.rows_of(on_disk, _ROWS), rows)
  classes = np.array([2, 0, -1])
  found = [
    near_features.class_rows(bank.reshape(3, 8, -1), classes)
    for bank in (on_disk, near)
  ]
  assert isinstance(found[1], jax.Array)
  np.testing.assert_array_equal(found[1], found[0])
  np.testing.assert_array_equal(found[0][:8], on_disk[16:])
  assert not found[0][16:].any()
