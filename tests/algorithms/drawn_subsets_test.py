"""Draws by number, and a draw without its padding."""

import jax
import numpy as np
import pytest

from fsdd_jax import types
from fsdd_jax.algorithms import drawn_subsets
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data import subsets

_CONFIG = CachingConfig(
  min_classes=2, max_classes=3, max_images=13, max_synthetic=7
)


@pytest.fixture(scope='module')
def table(tiny_dataset):
  """The rows of three classes of 20 images."""
  return subsets.class_table(tiny_dataset.labels, 3)


def test_a_draw_depends_on_its_number_alone(table):
  together = drawn_subsets.draw(table, [4, 2, 9], config=_CONFIG)
  alone = drawn_subsets.draw(table, [9], config=_CONFIG)
  assert together.numbers.tolist() == [4, 2, 9]
  for a, b in zip(
    *(jax.tree.leaves((d.target, d.initial, d.ipc)) for d in (together, alone)),
    strict=True,
  ):
    np.testing.assert_array_equal(a[2], b[0])
  keys = jax.random.key_data(together.keys)
  assert len(np.unique(keys, axis=0)) == 3
  np.testing.assert_array_equal(keys[2], jax.random.key_data(alone.keys)[0])


@pytest.mark.parametrize('number', range(6))
def test_without_padding_only_what_was_drawn_is_left(
  table, tiny_dataset, number
):
  padded = drawn_subsets.draw(table, [number], config=_CONFIG)
  draws = drawn_subsets.unpad(padded)
  (c,), (i,) = draws.num_classes.tolist(), draws.ipc.tolist()
  for subset, per_class in ((draws.target, 13 // c), (draws.initial, i)):
    assert subset.rows.shape == (1, c * per_class)
    assert (np.asarray(subset.mask) == 1).all()
    np.testing.assert_allclose(
      subset.labels[0],
      types.centered_one_hot(np.repeat(np.arange(c), per_class), c),
      atol=1e-6,
    )
    classes = tiny_dataset.labels[np.asarray(subset.rows[0])]
    assert (np.diff(classes.reshape(c, per_class)) == 0).all()
  assert padded.target.rows.shape == (1, 13)
  assert padded.initial.labels.shape == (1, 7, 3)


def test_a_set_too_small_is_refused(table):
  config = CachingConfig(
    min_classes=2, max_classes=3, max_images=42, max_synthetic=7
  )
  with pytest.raises(ValueError, match='Class 0 has 20 images'):
    drawn_subsets.check(table, config)
