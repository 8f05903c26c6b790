import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.storage.cache.records import CacheEntry, from_record, to_record
from fsdd_jax.types import LabeledSet, Subset


def make_manifest(**fields):
  sizes = {
    'num_subsets': 4,
    'num_heldout': 1,
    'num_shards': 2,
    'target_size': 6,
    'synthetic_size': 4,
    'label_size': 3,
    'image_shape': (2, 2, 1),
  }
  return Manifest('digits', 'abc', {}, 0, {}, {}, **(sizes | fields))


def pad(array, *shape):
  out = np.zeros(shape, array.dtype)
  out[tuple(map(slice, array.shape))] = array
  return out


def make_entry(manifest, seed=0, m=3, n=2, k=2, t=2):
  """An entry with m, n and k used of the manifest's rows and columns."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  rows, columns = manifest.target_size, manifest.label_size
  size = manifest.synthetic_size
  return CacheEntry(
    target=Subset(
      pad(rng.integers(0, 100, m).astype(np.int32), rows),
      pad(normal(m, k), rows, columns),
      pad(np.ones(m, np.float32), rows),
    ),
    synthetic=LabeledSet(
      pad(normal(n, *manifest.image_shape), size, *manifest.image_shape),
      pad(normal(n, k), size, columns),
      pad(np.ones(n, np.float32), size),
    ),
    start_rows=pad(rng.integers(0, 100, n).astype(np.int32), size),
    classes=np.arange(columns, dtype=np.int32),
    num_classes=np.asarray(k, np.int32),
    ipc=np.asarray(n, np.int32),
    losses=normal(t),
  )


def assert_same(x, y):
  jax.tree.map(
    functools.partial(np.testing.assert_array_equal, strict=True), x, y
  )


@settings(max_examples=30)
@given(
  st.tuples(*[st.integers(1, 4)] * 3, *[st.integers(1, 3)] * 3),
  st.randoms(use_true_random=False),
)
def test_any_sizes_come_back(sizes, random):
  rows, size, columns, *image_shape = sizes
  manifest = make_manifest(
    target_size=rows,
    synthetic_size=size,
    label_size=columns,
    image_shape=tuple(image_shape),
  )
  entry = make_entry(
    manifest,
    m=random.randint(0, rows),
    n=random.randint(0, size),
    k=random.randint(0, columns),
    t=random.randint(0, 3),
  )
  record = to_record(entry, manifest, 1)
  assert_same(from_record(record, manifest, 1), entry)
  assert to_record(entry, manifest, 1) == record


def test_device_arrays_give_the_bytes_of_numpy_arrays():
  manifest = make_manifest()
  entry = make_entry(manifest)
  on_device = jax.tree.map(jnp.asarray, entry)
  assert to_record(on_device, manifest, 0) == to_record(entry, manifest, 0)


def test_strided_arrays_are_written_by_value():
  manifest = make_manifest()
  entry = make_entry(manifest, k=3)
  strided = jax.tree.map(
    lambda x: np.asfortranarray(x) if x.ndim > 1 else x, entry
  )
  assert to_record(strided, manifest, 0) == to_record(entry, manifest, 0)


def test_padding_in_between_moves_to_the_end():
  manifest = make_manifest()
  entry = make_entry(manifest, m=4, n=3)
  order = np.array([0, 3, 1, 2])  # Row 3 of the distilled set is padding.
  mixed = dataclasses.replace(
    entry,
    synthetic=jax.tree.map(lambda x: x[order], entry.synthetic),
    start_rows=entry.start_rows[order],
  )
  assert mixed.synthetic.mask.tolist() == [1, 0, 1, 1]
  assert_same(from_record(to_record(mixed, manifest, 0), manifest, 0), entry)


def test_padding_takes_no_space_and_its_values_are_dropped():
  small, large = make_manifest(), make_manifest(synthetic_size=4000)
  entry, padded = make_entry(small), make_entry(large)
  sizes = [
    len(to_record(e, g, 0)) for e, g in [(entry, small), (padded, large)]
  ]
  assert sizes[0] == sizes[1]
  dirty = jax.tree.map(np.copy, entry)
  dirty.synthetic.images[-1] = 7.0
  dirty.target.rows[-1] = 7
  assert to_record(dirty, small, 0) == to_record(entry, small, 0)


@pytest.mark.parametrize(
  ('field', 'match'),
  [
    ({'target_size': 5}, r'target_rows has shape \(6,\), .*\(5,\)'),
    ({'synthetic_size': 5}, 'images has shape'),
    ({'image_shape': (2, 2, 3)}, 'images has shape'),
    ({'label_size': 9}, 'target_labels has shape'),
  ],
)
def test_sizes_other_than_the_manifests_are_refused(field, match):
  with pytest.raises(ValueError, match=match):
    to_record(make_entry(make_manifest()), make_manifest(**field), 0)


def test_bad_values_are_refused():
  manifest = make_manifest()
  for value in (np.nan, np.inf):
    entry = make_entry(manifest)
    entry.synthetic.labels[0, 0] = value
    with pytest.raises(ValueError, match=r'Entry 3: labels .* learning rate'):
      to_record(entry, manifest, 3)
  entry = make_entry(manifest)
  entry.target.mask[0] = 0.5
  with pytest.raises(ValueError, match='target_mask must hold 0 and 1'):
    to_record(entry, manifest, 0)


def test_another_number_manifest_or_format_is_refused():
  manifest = make_manifest()
  record = to_record(make_entry(manifest), manifest, 2)
  with pytest.raises(ValueError, match='holds entry 2 instead'):
    from_record(record, manifest, 1)
  with pytest.raises(ValueError, match='another manifest'):
    from_record(record, make_manifest(num_shards=1), 2)
  with pytest.raises(ValueError, match='not a record'):
    from_record(record[:-4], manifest, 2)
  with pytest.raises(ValueError, match='not a record'):
    from_record(b'', manifest, 2)
