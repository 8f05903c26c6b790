"""Real images as a distilled set: the rows that each paper shows first.

Random real images are `TargetSet.random_real`; herding and k-centre choose by
features, here those of a random network.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from fsdd_jax.core import losses
from fsdd_jax.data import passes
from fsdd_jax.data.normalization import normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import finite
from fsdd_jax.types import LabeledSet

# Maps features [n, d] of a class and a number to rows.
SelectFn = Callable[[np.ndarray, int], np.ndarray]


def herding(features: np.ndarray, count: int) -> np.ndarray:
  """Rows whose mean follows that of all, one after another (Welling, 2009).

  Args:
    features: `[n, d]`, n >= count.
    count: how many.

  Returns:
    `[count]` rows, each once.
  """
  mean, total = features.mean(axis=0), np.zeros(features.shape[1])
  chosen = np.zeros(len(features), bool)
  rows = []
  for number in range(1, count + 1):
    means = (total + features) / number
    distances = np.sum((means - mean) ** 2, axis=1)
    rows.append(int(np.argmin(np.where(chosen, np.inf, distances))))
    chosen[rows[-1]] = True
    total += features[rows[-1]]
  return np.array(rows)


def k_centre(features: np.ndarray, count: int) -> np.ndarray:
  """Rows far from each other, from the one next to the mean on.

  The greedy 2-approximation of Sener and Savarese (2018): each row is the one
  whose distance to those before it is largest.

  Args:
    features: `[n, d]`, n >= count.
    count: how many.

  Returns:
    `[count]` rows, each once where that many differ.
  """
  rows = [int(np.argmin(np.sum((features - features.mean(axis=0)) ** 2, 1)))]
  nearest = np.full(len(features), np.inf)
  while len(rows) < count:
    distances = np.sum((features - features[rows[-1]]) ** 2, axis=1)
    nearest = np.minimum(nearest, distances)
    nearest[rows] = -1.0
    rows.append(int(np.argmax(nearest)))
  return np.array(rows)


def check_ipc(target: TargetSet, ipc: int) -> None:
  """Raises a ValueError if a class has fewer than `ipc` images."""
  counts = np.asarray(target.class_table.counts)
  if counts.min() < ipc:
    name = target.dataset.class_names[int(counts.argmin())]
    raise ValueError(
      f'Class {name!r} has {counts.min()} images, fewer than ipc = {ipc}. '
      'Choose a smaller ipc, or more images.'
    )


def select(
  key: jax.Array,
  network: nn.Module,
  target: TargetSet,
  *,
  select_fn: SelectFn,
  ipc: int,
) -> LabeledSet:
  """Real images of each class, chosen by the features of a random network.

  Args:
    key: consumed; draws the network.
    network: the feature extractor f.
    target: the target set.
    select_fn: such as `herding`.
    ipc: images per class, I.

  Returns:
    `ipc * k` images, class by class.

  Raises:
    ValueError: if a class has fewer than `ipc` images.
  """
  dataset, normalization = target.dataset, target.normalization
  check_ipc(target, ipc)
  variables = random_networks.sample(key, network, dataset.images.shape[1:])
  features_of = jax.jit(losses.feature_fn(network))
  rows: list[np.ndarray] = []
  for label in range(dataset.num_classes):
    own = np.flatnonzero(dataset.labels == label)
    found = [
      np.asarray(features_of(variables, normalize(images, normalization)))
      for images, _, _ in passes.batches(dataset.images[own], own)
    ]
    features = np.concatenate(found)[: len(own)]
    finite.check(
      features,
      f'Features of class {dataset.class_names[label]!r}',
      'Choose another network.',
    )
    rows.append(own[select_fn(features, ipc)])
  return target.inputs(np.concatenate(rows))
