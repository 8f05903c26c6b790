"""Features of a large data set in one network, computed once and kept on disk.

A loss on a subset of the data needs rows of f(Z) or, for all images of some
classes, sums over these classes. With either at hand no image of Z passes the
network twice: a step costs the pass of the distilled images alone.

`n` denotes images, `d` features, `k` classes of the data set.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import augment, krr_errors, losses
from fsdd_jax.data import passes, subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import computation, extractors
from fsdd_jax.runtime import array_store, hashes, progress

IMAGES_A_PIECE = 2000
_SHAPING = (  # Programs that shape features.
  *('networks/*.py', 'core/augment.py', 'core/image_ops.py'),
  *('data/normalization.py', 'data/feature_bank.py'),
)
# Random operations, with their names.
Operations = tuple[tuple[str, augment.Operation], ...]
_NO_AUGMENTATION: Mapping[str, Any] = {'strategy': 'none', 'seed': 0, 'copy': 0}


@dataclasses.dataclass(frozen=True)
class ClassSums:
  """Sums over the images of each class, which make `krr_errors.Statistics`.

  Attributes:
    gram: `[k, d, d]` float32 sums of outer products of features.
    total: `[k, d]` float32 sums of features.
    count: `[k]` float32 numbers of images.
  """

  gram: np.ndarray
  total: np.ndarray
  count: np.ndarray


class BankSource(NamedTuple):
  """What banks are made of.

  Attributes:
    network: f.
    variables: its weights.
    large: the large set Z.
    facts: what sets these weights apart, JSON values.
    augmentation: `strategy`, `seed` and `copy`; by default none.
    root: folder of all banks; None: that of `array_store.default_root`.
  """

  network: nn.Module
  variables: Any
  large: TargetSet
  facts: Mapping[str, Any]
  augmentation: Mapping[str, Any] = _NO_AUGMENTATION
  root: pathlib.Path | None = None

  @property
  def num_features(self) -> int:
    """The number of features d."""
    features_of = losses.feature_fn(self.network)
    return passes.num_features(
      features_of, self.variables, self.large.image_shape
    )


def feature_rows(source: BankSource, rows: np.ndarray | None = None) -> Any:
  """Features of images of Z, `[n, d]` float16, a memory map.

  Args:
    source: what the bank is made of.
    rows: `[n]` rows of Z; all of them by default.

  Returns:
    Features of row i at place i.

  Raises:
    FloatingPointError: if a feature is not finite in float16.
  """
  every = np.arange(len(source.large.dataset.labels)) if rows is None else rows
  pieces = array_store.pieces_of(len(every), IMAGES_A_PIECE)

  def make(number: int) -> dict[str, np.ndarray]:
    own = every[pieces[number]]
    batches = passes.batches(source.large.dataset.images[own], own)
    parts = [
      np.asarray(features_of(source, images, number, index))[mask > 0]
      for index, (images, _, mask) in enumerate(batches)
    ]
    with np.errstate(over='ignore'):  # Infinite values are refused there.
      return {'features': np.concatenate(parts).astype(np.float16)}

  shape = (len(every), source.num_features)
  specification = {'features': (shape, 'float16')}
  return _fill(source, 'rows', rows, specification, pieces, make)['features']


def class_sums(source: BankSource) -> ClassSums:
  """Sums over all images of each class of Z, memory maps.

  They take 4 k d^2 bytes: 210 MB for 200 classes at d = 512, 3.4 GB at 2,048.

  Args:
    source: what the bank is made of.

  Returns:
    The sums.
  """
  dataset, d = source.large.dataset, source.num_features
  k = dataset.num_classes
  by_class = [np.flatnonzero(dataset.labels == c) for c in range(k)]

  def make(number: int) -> dict[str, np.ndarray]:
    own = by_class[number]
    total = krr_errors.zero_statistics(d, 1)
    ones = np.ones((len(own), 1), np.float32)
    batches = passes.batches(dataset.images[own], ones)
    for index, (images, column, mask) in enumerate(batches):
      features = features_of(source, images, number, index)
      total = _add(total, features, column, mask)
    return {
      'gram': np.asarray(total.gram)[None],
      'total': np.asarray(total.cross)[None, :, 0],
      'count': np.asarray(total.count)[None],
    }

  shapes = {'gram': (k, d, d), 'total': (k, d), 'count': (k,)}
  specification = {x: (shape, 'float32') for x, shape in shapes.items()}
  pieces = [slice(c, c + 1) for c in range(k)]
  filled = _fill(source, 'classes', None, specification, pieces, make)
  return ClassSums(**filled)


def statistics_of(
  sums: ClassSums, classes: np.ndarray, labels: np.ndarray
) -> krr_errors.Statistics:
  """Statistics of all images of some classes, NumPy arrays.

  Args:
    sums: of all classes.
    classes: `[c]` numbers of classes; -1 where unused.
    labels: `[c, l]` the label vector of each.

  Returns:
    What `krr_errors.statistics` gives for these images.
  """
  used = np.asarray(classes)[np.asarray(classes) >= 0]
  labels = np.asarray(labels)[: len(used)]
  gram = np.zeros_like(sums.gram[0])
  for c in used:  # Without a copy of them all.
    gram += sums.gram[c]
  count = sums.count[used]
  fields: dict[str, Any] = {
    'gram': gram,
    'cross': sums.total[used].T @ labels,
    'energy': np.sum(count * np.sum(labels**2, axis=1), dtype=np.float32),
    'count': np.sum(count, dtype=np.float32),
  }
  return krr_errors.Statistics(**fields)


def class_major_rows(dataset: Dataset, per_class: int) -> np.ndarray:
  """The first images of each class in a fixed random order, `[k, q]` rows.

  Args:
    dataset: the data set.
    per_class: q.

  Raises:
    ValueError: naming the class that has fewer images.
  """
  table = subsets.class_table(dataset.labels, dataset.num_classes)
  subsets.check_counts(table, per_class)
  ranks = subsets.class_ranks(dataset.labels)
  order = np.lexsort((ranks, dataset.labels))
  starts = np.searchsorted(dataset.labels[order], range(dataset.num_classes))
  return order[starts[:, None] + np.arange(per_class)]


def folder_of(
  source: BankSource, kind: str, rows: np.ndarray | None = None
) -> pathlib.Path:
  """Where a bank lies, made or not.

  Args:
    source: what the bank is made of.
    kind: 'rows' or 'classes'.
    rows: see `feature_rows`.
  """
  root = source.root or array_store.default_root() / 'banks'
  return array_store.folder_for(root, _facts(source, kind, rows))


def _facts(
  source: BankSource, kind: str, rows: np.ndarray | None
) -> dict[str, Any]:
  digest, large = None, source.large.facts
  if rows is not None:
    digest = hashlib.sha256(np.asarray(rows, '<i8').tobytes()).hexdigest()
  return {
    'kind': kind,
    'rows': digest,
    'dataset': large['dataset_fingerprint'],
    'network': extractors.describe_network(source.network),
    'computes': computation.digest(source.network, source.large.image_shape),
    'normalization': large['normalization'],
    'weights': dict(source.facts),
    'augmentation': dict(source.augmentation),
    'versions': [jax.__version__, flax.__version__, jax.default_backend()],
    'code': hashes.package_code(*_SHAPING),
  }


def _fill(
  source: BankSource,
  kind: str,
  rows: np.ndarray | None,
  specification: array_store.Specification,
  pieces: list[slice],
  make: Callable[[int], Mapping[str, np.ndarray]],
) -> array_store.Arrays:
  with progress.Bar(len(pieces), 'features', unit='part', leave=False) as bar:
    return array_store.fill(
      folder_of(source, kind, rows),
      _facts(source, kind, rows),
      specification,
      pieces,
      make,
      on_piece=lambda number: bar.update(),
    )


def features_of(
  source: BankSource, images: np.ndarray, piece: int, batch: int
) -> jax.Array:
  """Features `[b, d]` of a batch of images, which its place augments."""
  augmentation = source.augmentation
  key = jax.random.key(augmentation['seed'])
  for number in (augmentation['copy'], piece, batch):
    key = jax.random.fold_in(key, number)
  return _extract(
    source.variables,
    images,
    source.large.normalization,
    key,
    features_of=losses.feature_fn(source.network),
    operations=_operations_of(**augmentation),
  )


@functools.cache
def _operations_of(strategy: str, seed: int, copy: int) -> Operations:
  """One for all of a copy: that of a batch would tell which class it holds."""
  found = tuple(augment.select(strategy).items())
  order = jax.random.permutation(jax.random.key(seed), len(found))
  return found and (found[order[copy % len(found)]],)


@functools.partial(jax.jit, static_argnames=('features_of', 'operations'))
def _extract(
  variables: Any,
  images: jax.Array,
  normalization: Normalization,
  key: jax.Array,
  *,
  features_of: losses.FeatureFn,
  operations: Operations,
) -> jax.Array:
  x = normalize(images, normalization)
  x = augment.augment(key, x, operations=dict(operations), siamese=False)
  return features_of(variables, x)


@functools.partial(jax.jit, donate_argnums=0)
def _add(
  total: krr_errors.Statistics,
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
) -> krr_errors.Statistics:
  return jax.tree.map(
    jnp.add, total, krr_errors.statistics(features, labels, mask)
  )
