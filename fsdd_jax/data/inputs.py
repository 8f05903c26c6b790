"""What a step works in and against: a random network and target images.

The stages that optimise on a target set differ in which network each step
uses; what the step is computed against is either the statistics of all target
images in that network, or a batch of real images.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import krr, objective
from fsdd_jax.data import passes, subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import (
  Normalization,
  normalize,
  whitened_once,
)
from fsdd_jax.runtime import metrics, progress
from fsdd_jax.runtime.devices import ALONE, Devices, devices_for
from fsdd_jax.types import LABEL_CODINGS, LabeledSet, labeled_set

# Maps the numbers of a network and of a draw to variables and a target.
InputsFn = Callable[[int, int], tuple[Any, Any]]
DrawFn = Callable[[int], Any]


def coded_labels(dataset: Dataset, label_coding: str) -> np.ndarray:
  """Label vectors `[n, k]` of a data set, coded as `LABEL_CODINGS` names it.

  Example:
    >>> import toy
    >>> coded_labels(toy.problem()[1], 'onehot')[0].tolist()
    [1.0, 0.0, 0.0]
  """
  encode = LABEL_CODINGS[label_coding]
  return np.asarray(encode(jnp.asarray(dataset.labels), dataset.num_classes))


def from_statistics(
  features_of: objective.FeatureFn,
  draw: DrawFn,
  dataset: Dataset,
  normalization: Normalization,
  *,
  label_coding: str,
  num_networks: int,
  keep: int,
  clock: metrics.StageClock,
  part: str = 'statistics',
) -> InputsFn:
  """Inputs of a step: a network and the whole target set's statistics.

  Alg. 3, line 9, and Alg. 4, line 9: one pass over the target images a
  network.

  Args:
    features_of: the feature map f.
    draw: draws the network of a number.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    label_coding: a name in `LABEL_CODINGS`.
    num_networks: how many there are, for the progress bar.
    keep: how many networks to keep, with their `[d, d]` statistics.
    clock: gets the time of the passes.
    part: the name of that time.

  Returns:
    A function of a network's number, which ignores the number of the draw.

  Example:
    >>> import toy
    >>> from fsdd_jax.core import objective
    >>> from fsdd_jax.runtime import metrics
    >>> network, dataset, transform = toy.problem()
    >>> inputs_of = from_statistics(
    ...   objective.feature_fn(network),
    ...   toy.theta,
    ...   dataset,
    ...   transform,
    ...   label_coding='centered',
    ...   num_networks=1,
    ...   keep=1,
    ...   clock=metrics.StageClock(),
    ... )
    >>> variables, stats = inputs_of(0, 0)
    >>> stats.count.item()
    24.0
  """
  labels = coded_labels(dataset, label_coding)

  @functools.cache
  def prepared() -> tuple[np.ndarray, Normalization | None]:
    return whitened_once(dataset.images, normalization)

  @functools.lru_cache(maxsize=keep)
  def inputs(index: int) -> tuple[Any, krr.Statistics]:
    variables = draw(index)
    name = f'statistics of network {index + 1}/{num_networks}'
    bar = progress.Bar(len(labels), name, unit='image', leave=False)
    with clock.part(part), bar:
      stats = passes.target_statistics(
        features_of,
        variables,
        prepared()[0],
        labels,
        prepared()[1],
        on_batch=bar.update,
        devices=devices_for(),
      )
      return variables, jax.block_until_ready(stats)

  return lambda index, step: inputs(index)


def devices_for_batch(size: int) -> Devices:
  """The devices that share a batch of real images, for one set or network.

  Several processes each do the whole step, as its sums are small.

  Example:
    >>> devices_for_batch(3).count
    1
  """
  return devices_for(size) if jax.process_count() == 1 else ALONE


def from_batches(
  key: jax.Array,
  draw: DrawFn,
  dataset: Dataset,
  normalization: Normalization,
  *,
  label_coding: str,
  size: int,
  keep: int,
  devices: Devices = ALONE,
) -> InputsFn:
  """Inputs of a step: a network and a class-balanced batch of real images.

  Args:
    key: consumed; draw i uses `fold_in(key, i)`.
    draw: draws the network of a number.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    label_coding: a name in `LABEL_CODINGS`.
    size: images a batch.
    keep: how many networks to keep.
    devices: what shares the images of a batch; of one process.

  Returns:
    A function of the numbers of a network and of a draw.

  Example:
    >>> import jax
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> inputs_of = from_batches(
    ...   jax.random.key(0),
    ...   toy.theta,
    ...   dataset,
    ...   transform,
    ...   label_coding='centered',
    ...   size=6,
    ...   keep=1,
    ... )
    >>> variables, target = inputs_of(0, 0)
    >>> target.images.shape
    (6, 8, 8, 3)
  """
  labels = coded_labels(dataset, label_coding)
  table = subsets.class_table(dataset.labels, dataset.num_classes)
  draw_cached = functools.lru_cache(maxsize=keep)(draw)
  sample_rows = jax.jit(subsets.balanced_batch, static_argnums=2)

  def inputs(index: int, step: int) -> tuple[Any, LabeledSet]:
    rows = np.asarray(sample_rows(jax.random.fold_in(key, step), table, size))
    images = normalize(dataset.images[rows], normalization)
    target = labeled_set(images, jnp.asarray(labels[rows]))
    return draw_cached(index), devices.shard(target)

  return inputs
