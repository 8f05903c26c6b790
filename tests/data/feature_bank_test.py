"""Banks of features against the features themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.core import augment, krr_errors, losses
from fsdd_jax.data import feature_bank
from fsdd_jax.data.normalization import normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, random_networks

_NETWORK = extractors.make(
  'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='none'
)


@pytest.fixture
def source(tiny_dataset, tiny_normalization, tmp_path):
  variables = random_networks.sample(jax.random.key(0), _NETWORK, (8, 8, 3))
  return feature_bank.BankSource(
    _NETWORK,
    variables,
    TargetSet(tiny_dataset, tiny_normalization),
    {'seed': 0},
    root=tmp_path,
  )


def _features(source):
  x = normalize(source.large.dataset.images, source.large.normalization)
  return np.asarray(losses.feature_fn(_NETWORK)(source.variables, x))


def test_rows_are_features_rounded_to_float16(source):
  bank = feature_bank.feature_rows(source)
  assert bank.dtype == np.float16
  np.testing.assert_allclose(bank, _features(source), rtol=1e-3, atol=1e-6)
  rows = np.array([5, 59, 3])
  some = feature_bank.feature_rows(source, rows)
  np.testing.assert_allclose(some, bank[rows], rtol=2e-3, atol=1e-6)


def test_class_sums_make_the_statistics_of_any_classes(source):
  sums = feature_bank.class_sums(source)
  classes, labels = np.array([2, 0, -1]), np.eye(3, dtype=np.float32)
  found = feature_bank.statistics_of(sums, classes, labels)
  of_column = {2: 0, 0: 1}
  own = source.large.dataset.labels
  keep = np.isin(own, [0, 2])
  columns = [of_column[label] for label in own[keep]]
  expected = krr_errors.statistics(_features(source)[keep], labels[columns])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )


def test_a_bank_is_read_again_and_named_by_what_it_was_made_of(source):
  feature_bank.class_sums(source)
  folder = feature_bank.folder_of(source, 'classes')
  before = (folder / 'gram.npy').stat().st_mtime_ns
  feature_bank.class_sums(source)
  assert (folder / 'gram.npy').stat().st_mtime_ns == before
  copy = {'strategy': 'dsa', 'seed': 0, 'copy': 1}
  others = [
    source._replace(facts={'seed': 1}),
    source._replace(augmentation=copy),
    source._replace(augmentation=copy | {'copy': 2}),
    source._replace(network=extractors.ConvNet(width=8)),
  ]
  folders = {feature_bank.folder_of(one, 'classes') for one in others}
  folders |= {folder, feature_bank.folder_of(source, 'rows')}
  folders |= {feature_bank.folder_of(source, 'rows', np.arange(3))}
  assert len(folders) == len(others) + 3


def test_another_code_of_networks_makes_another_bank(source, monkeypatch):
  before = feature_bank.folder_of(source, 'rows')
  asked = []

  def code(*patterns):
    asked.extend(patterns)
    return 'changed'

  monkeypatch.setattr(feature_bank.hashes, 'package_code', code)
  assert feature_bank.folder_of(source, 'rows') != before
  assert {'networks/*.py', 'data/normalization.py'} <= set(asked)


def test_augmented_copies_differ_and_come_back_the_same(source, tmp_path):
  def copy(number, root):
    augmentation = {'strategy': 'dsa', 'seed': 0, 'copy': number}
    own = source._replace(augmentation=augmentation, root=tmp_path / root)
    return np.asarray(feature_bank.feature_rows(own))

  first = copy(0, 'a')
  np.testing.assert_array_equal(first, copy(0, 'b'))
  assert np.abs(first - copy(1, 'a')).max() > 0.01


def test_classes_of_a_copy_share_the_operation(
  source, tiny_dataset, monkeypatch
):
  """Else a class could be told from how it was augmented."""

  def brighter(by):
    return augment.Operation(
      lambda images, _: images + by, lambda key, n, size: jnp.zeros(n)
    )

  numbered = {f'by {by}': brighter(by) for by in range(6)}
  monkeypatch.setitem(augment.STRATEGIES, 'numbered', numbered)
  alike = dataclasses.replace(
    tiny_dataset, images=np.full_like(tiny_dataset.images, 100)
  )
  large = dataclasses.replace(source.large, dataset=alike)
  seen = []
  for copy in range(6):
    drawn_by = {'strategy': 'numbered', 'seed': 0, 'copy': copy}
    own = source._replace(large=large, augmentation=drawn_by)
    sums = feature_bank.class_sums(own)
    means = sums.total / sums.count[:, None]
    np.testing.assert_allclose(means, means[:1].repeat(3, 0), rtol=1e-5)
    seen.append(means[0])
  distances = np.abs(np.array(seen)[:, None] - np.array(seen)).max(axis=2)
  assert (distances + np.eye(6) > 1e-3).all()


def test_class_major_rows_are_balanced_and_refuse_too_many(tiny_dataset):
  rows = feature_bank.class_major_rows(tiny_dataset, 7)
  labels = tiny_dataset.labels[rows]
  np.testing.assert_array_equal(labels, np.repeat([[0], [1], [2]], 7, axis=1))
  assert len(np.unique(rows)) == 21
  with pytest.raises(ValueError, match='Class 0 has 20 images'):
    feature_bank.class_major_rows(tiny_dataset, 21)
