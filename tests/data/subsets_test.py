"""Tests of the class-balanced draws."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from fsdd_jax.data import subsets

_LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 30))
_LABELS = np.concatenate([_LABELS, [2, 2, 5]])  # Classes of unequal sizes.
_TABLE = subsets.class_table(_LABELS, 6)


def test_class_table_lists_each_row_once():
  counts = np.bincount(_LABELS)
  np.testing.assert_array_equal(_TABLE.counts, counts)
  for c in range(6):
    np.testing.assert_array_equal(
      _TABLE.rows[c, : counts[c]], np.flatnonzero(_LABELS == c)
    )
    assert not np.any(_TABLE.rows[c, counts[c] :])


@pytest.mark.parametrize(
  ('labels', 'match'),
  [([0, 2], 'Class 1 has no'), ([0, 3], '\\[0, 3\\]'), ([-1, 0], '-1')],
)
def test_class_table_refuses_bad_labels(labels, match):
  with pytest.raises(ValueError, match=match):
    subsets.class_table(np.asarray(labels), 3)


def test_class_table_refuses_no_labels():
  with pytest.raises(ValueError, match='non-empty'):
    subsets.class_table(np.zeros(0, np.int32), 3)


def test_class_ranks_are_a_fixed_permutation_of_each_class():
  ranks = subsets.class_ranks(_LABELS)
  for c in range(6):
    in_class = ranks[_LABELS == c]
    assert sorted(in_class) == list(range(len(in_class)))
    assert list(in_class) != list(range(len(in_class)))
  # Another class's images do not matter.
  np.testing.assert_array_equal(
    subsets.class_ranks(_LABELS[_LABELS < 3]), ranks[_LABELS < 3]
  )


@hypothesis.given(seed=st.integers(0, 2**31), ipc=st.integers(1, 30))
@hypothesis.settings(max_examples=15)
def test_sample_ipc_is_class_by_class_without_replacement(seed, ipc):
  rows = np.asarray(subsets.sample_ipc(jax.random.key(seed), _TABLE, ipc))
  np.testing.assert_array_equal(_LABELS[rows], np.repeat(np.arange(6), ipc))
  assert len(set(rows)) == 6 * ipc


def test_sample_ipc_depends_on_its_key_only():
  first, again, other = (
    np.asarray(subsets.sample_ipc(jax.random.key(i), _TABLE, 5))
    for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_sample_ipc_reaches_every_image_about_equally():
  keys = jax.random.split(jax.random.key(0), 2000)
  draw = jax.vmap(lambda key: subsets.sample_ipc(key, _TABLE, 3))
  counts = np.bincount(np.asarray(draw(keys)).ravel(), minlength=len(_LABELS))
  expected = 2000 * 3 / np.bincount(_LABELS)[_LABELS]  # About 200.
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_sample_ipc_names_the_class_with_too_few_images():
  table = subsets.class_table(np.asarray([0, 0, 0, 1, 1, 2, 2, 2]), 3)
  with pytest.raises(ValueError, match=r'Class 1 has 2 images.*the 3 to be'):
    subsets.sample_ipc(jax.random.key(0), table, 3)
  with pytest.raises(ValueError, match='at least 1'):
    subsets.sample_ipc(jax.random.key(0), table, 0)


@pytest.mark.parametrize('size', [1, 6, 20, 64, 400])
def test_balanced_batch_has_equally_many_of_each_class(size):
  batch = jax.jit(subsets.balanced_batch, static_argnums=2)
  rows = np.asarray(batch(jax.random.key(size), _TABLE, size))
  assert rows.shape == (size,)
  per_class = np.bincount(_LABELS[rows], minlength=6)
  assert per_class.max() - per_class.min() <= 1
  for c in range(6):
    uses = np.bincount(rows[_LABELS[rows] == c], minlength=len(_LABELS))
    uses = uses[_LABELS == c]
    assert uses.max() - uses.min() <= 1  # No image recurs before all are used.


def test_balanced_batch_gives_odd_images_to_random_classes():
  keys = jax.random.split(jax.random.key(0), 300)
  draw = jax.vmap(lambda key: subsets.balanced_batch(key, _TABLE, 1))
  counts = np.bincount(_LABELS[np.asarray(draw(keys)).ravel()], minlength=6)
  assert counts.min() > 20
