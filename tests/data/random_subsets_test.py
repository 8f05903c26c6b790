"""Random subsets against Alg. 1."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fsdd_jax import types
from fsdd_jax.data import subsets
from fsdd_jax.data.random_subsets import sample_subset

_LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 30))
_LABELS = np.concatenate([_LABELS, [2, 2, 5]])  # Classes of unequal sizes.
_TABLE = subsets.class_table(_LABELS, 6)
_RANGES = {
  'min_classes': 2,
  'max_classes': 5,
  'max_images': 42,
  'max_synthetic': 12,
}


def _used(subset):
  keep = np.asarray(subset.mask) > 0
  return np.asarray(subset.rows)[keep], np.asarray(subset.labels)[keep]


@hypothesis.given(
  seed=st.integers(0, 2**31), name=st.sampled_from(['centered', 'onehot'])
)
@hypothesis.settings(max_examples=25)
def test_sample_subset_follows_algorithm_1(seed, name):
  coding = types.LABEL_CODINGS[name]
  drawn = sample_subset(jax.random.key(seed), _TABLE, **_RANGES, coding=coding)
  target, synthetic = drawn.target, drawn.initial
  c, i = int(drawn.num_classes), int(drawn.ipc)
  assert 2 <= c <= 5
  assert 1 <= i <= 12 // c
  for subset, per_class, size in ((target, 42 // c, 42), (synthetic, i, 12)):
    assert subset.rows.shape == (size,)
    assert subset.labels.shape == (size, 5)
    np.testing.assert_array_equal(subset.mask, np.arange(size) < c * per_class)
    padded = np.asarray(subset.mask) == 0
    assert not np.any(np.asarray(subset.labels)[padded])
    assert not np.any(np.asarray(subset.rows)[padded])
    rows, labels = _used(subset)
    assert len(set(rows)) == c * per_class
    classes = _LABELS[rows].reshape(c, per_class)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0])) == c
    expected = np.repeat(np.eye(5)[:c], per_class, axis=0)
    if name == 'centered':
      expected[:, :c] -= 1 / c
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    assert not np.any(labels[:, c:])  # Exactly 0.
  first = _used(target)[0].reshape(c, -1)[:, :i]
  np.testing.assert_array_equal(drawn.classes[:c], _LABELS[first[:, 0]])
  assert (np.asarray(drawn.classes[c:]) == -1).all()
  np.testing.assert_array_equal(_used(synthetic)[0].reshape(c, i), first)


def test_sample_subset_compiles_once_and_agrees_with_eager():
  traces = []

  @jax.jit
  def draw(key):
    traces.append(key)
    return sample_subset(key, _TABLE, **_RANGES)

  seen = set()
  for seed in range(12):
    key = jax.random.key(seed)
    drawn = draw(key)
    seen.add((int(drawn.num_classes), int(drawn.ipc)))
    if seed < 2:
      eager = sample_subset(key, _TABLE, **_RANGES)
      for a, b, c in zip(
        *map(jax.tree.leaves, (drawn, eager, draw(key))), strict=True
      ):
        np.testing.assert_allclose(a, b, atol=1e-7)
        np.testing.assert_array_equal(a, c)
  assert len(seen) > 3
  assert len(traces) == 1


def test_sample_subset_under_vmap_has_uniform_classes_and_ipc():
  @jax.jit
  def draw(keys, table):  # Counts are unknown here: nothing is checked.
    return jax.vmap(lambda k: sample_subset(k, table, **_RANGES))(keys)

  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.device_get(draw(keys, _TABLE))
  target, num_classes, ipc = drawn.target, drawn.num_classes, drawn.ipc
  counts = np.bincount(num_classes)
  assert list(np.flatnonzero(counts)) == [2, 3, 4, 5]
  assert np.all(np.abs(counts[2:] - 1000) < 150)
  of_two = np.bincount(ipc[num_classes == 2])[1:]
  assert len(of_two) == 6
  assert np.all(np.abs(of_two - of_two.mean()) < 5 * np.sqrt(of_two.mean()))
  # Each class of the data set opens a draw about equally often.
  firsts = np.bincount(_LABELS[target.rows[:, 0]], minlength=6)
  assert np.all(np.abs(firsts - 4000 / 6) < 5 * np.sqrt(4000 / 6))
  alone = sample_subset(keys[7], _TABLE, **_RANGES).target
  np.testing.assert_array_equal(alone.rows, target.rows[7])


def test_sample_subset_keeps_to_the_allowed_classes_and_to_all_images():
  ranges = {**_RANGES, 'max_images': 0}
  allowed = jnp.asarray([True, False, True, False, True, False])
  keys = jax.random.split(jax.random.key(0), 200)
  drawn = jax.vmap(
    lambda key: sample_subset(key, _TABLE, **ranges, allowed=allowed)
  )(keys)
  assert drawn.target.rows.shape == (200, 0)
  assert set(np.unique(drawn.classes)) == {-1, 0, 2, 4}
  assert set(np.unique(drawn.num_classes)) == {2, 3}
  rows = np.asarray(drawn.initial.rows)[np.asarray(drawn.initial.mask) > 0]
  assert set(_LABELS[rows]) == {0, 2, 4}


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'min_classes': 0}, 'min_classes'),
    ({'max_classes': 7, 'max_synthetic': 20}, 'min_classes.*<= 6'),
    ({'max_synthetic': 4}, 'max_synthetic'),
    ({'max_images': 11}, 'max_images'),
    ({'max_images': 62}, 'Class 0 has 30 images.*the 31'),
  ],
)
def test_sample_subset_refuses_impossible_ranges(change, match):
  with pytest.raises(ValueError, match=match):
    sample_subset(jax.random.key(0), _TABLE, **{**_RANGES, **change})
