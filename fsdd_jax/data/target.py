"""The target set: images, how networks see them, and how labels are coded.

Every stage that optimises on a data set takes one `TargetSet`. It keeps what
is the same at each use: coded labels, the table of classes, whitened images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import krr_errors, losses
from fsdd_jax.data import passes, resolution, subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import (
  Normalization,
  describe_normalization,
  normalize,
  whitened_once,
)
from fsdd_jax.networks import random_networks
from fsdd_jax.options import whole
from fsdd_jax.runtime import metrics, progress, residence
from fsdd_jax.runtime.devices import ALONE, Devices, devices_for
from fsdd_jax.types import LABEL_CODINGS, LabeledSet, labeled_set

# Draws the variables of the network with a number.
DrawFn = Callable[[int], Any]
# Variables of the network with a number, and the target set's statistics in it.
NetworksFn = Callable[[int], tuple[Any, krr_errors.Target]]

# Compiled once, for all target sets.
_balanced_rows = jax.jit(subsets.balanced_batch, static_argnums=2)


@functools.partial(jax.jit, static_argnums=5)
def _balanced_inputs(
  key: jax.Array,
  table: subsets.ClassTable,
  images: jax.Array,
  labels: jax.Array,
  normalization: Normalization,
  size: int,
) -> LabeledSet:
  rows = subsets.balanced_batch(key, table, size)
  return labeled_set(normalize(images[rows], normalization), labels[rows])


def drawn(
  key: jax.Array, network: nn.Module, image_shape: tuple[int, ...]
) -> DrawFn:
  """Draws network i by `fold_in(key, i)` (Alg. 3, line 22; Alg. 4, line 8)."""

  def draw(index: int) -> Any:
    own = jax.random.fold_in(key, index)
    return random_networks.sample(own, network, image_shape)

  return draw


def devices_for_batch(size: int) -> Devices:
  """The devices that share a batch of real images, for one set or network.

  Several processes each do the whole step, as its sums are small.
  """
  return devices_for(size) if jax.process_count() == 1 else ALONE


@dataclasses.dataclass(frozen=True)
class TargetSet:
  """The target set (X_T, Y_T) that sets are distilled from.

  Attributes:
    dataset: images and labels.
    normalization: how the images become network inputs.
    label_coding: how labels become vectors, a name in `LABEL_CODINGS`. A
      stage whose config names another coding uses that one.

  Example:
    >>> import jax
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> target = TargetSet(dataset, transform, 'onehot')
    >>> target.image_shape, target.labels[0].tolist()
    ((8, 8, 3), [1.0, 0.0, 0.0])
    >>> target.random_real(jax.random.key(0), ipc=2).images.shape
    (6, 8, 8, 3)
  """

  dataset: Dataset
  normalization: Normalization
  label_coding: str = 'centered'

  def __post_init__(self) -> None:
    if self.label_coding not in LABEL_CODINGS:
      raise ValueError(
        f'Unknown label_coding {self.label_coding!r}; choose among '
        f'{", ".join(LABEL_CODINGS)}.'
      )

  @property
  def image_shape(self) -> tuple[int, ...]:
    """`(h, w, c)` of its images."""
    return self.dataset.images.shape[1:]

  @property
  def num_classes(self) -> int:
    """The number of classes, k."""
    return self.dataset.num_classes

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """Label vectors `[n, k]`."""
    return np.asarray(self._coded(self.dataset.labels))

  def _coded(self, labels: np.ndarray) -> jax.Array:
    encode = LABEL_CODINGS[self.label_coding]
    return encode(jnp.asarray(labels), self.num_classes)

  @functools.cached_property
  def class_table(self) -> subsets.ClassTable:
    """The rows of each class."""
    return subsets.class_table(self.dataset.labels, self.num_classes)

  @functools.cached_property
  def facts(self) -> dict[str, Any]:
    """What a work directory notes of it, JSON values."""
    return {
      'dataset_fingerprint': self.dataset.fingerprint(),
      'normalization': describe_normalization(self.normalization),
    }

  def coded(self, label_coding: str) -> 'TargetSet':
    """The same set with another coding of labels, or itself."""
    if label_coding == self.label_coding:
      return self
    return dataclasses.replace(self, label_coding=label_coding)

  def at_most(self, image_shape: tuple[int, ...]) -> 'TargetSet':
    """The set with its images scaled down to a shape, or itself."""
    reduced = resolution.reduce_resolution(self.dataset, image_shape)
    if reduced is self.dataset:
      return self
    return dataclasses.replace(self, dataset=reduced)

  def inputs(self, rows: np.ndarray) -> LabeledSet:
    """The images of some rows as network inputs, with their label vectors."""
    images = normalize(self.dataset.images[rows], self.normalization)
    return labeled_set(images, self._coded(self.dataset.labels[rows]))

  def batch(self, key: jax.Array, size: int) -> LabeledSet:
    """A class-balanced batch of real images; consumes the key."""
    table = self.class_table
    if self._near is None:
      return self.inputs(np.asarray(_balanced_rows(key, table, size)))
    # Rows on the host would be there only after all steps under way.
    return _balanced_inputs(key, table, *self._near, self.normalization, size)

  @functools.cached_property
  def _near(self) -> tuple[jax.Array, jax.Array] | None:
    """Images and labels in the device's own memory, where they fit."""
    images = self.dataset.images
    if not residence.fits(images.nbytes):
      return None
    return jax.device_put((np.asarray(images), self.labels))

  def check_ipc(self, ipc: int, short_classes: str = 'error') -> None:
    """Raises the ValueError of `random_real` for a class with few images."""
    ipc = whole('ipc', ipc, least=1)
    counts = np.asarray(self.class_table.counts)
    if short_classes == 'error' and counts.min() < ipc:
      name = self.dataset.class_names[int(counts.argmin())]
      raise ValueError(
        f'Class {name!r} has {counts.min()} images, fewer than ipc = {ipc}; '
        'take a smaller ipc, or set short_classes to repeat or noise.'
      )

  def random_real(
    self, key: jax.Array, *, ipc: int, short_classes: str = 'error'
  ) -> LabeledSet:
    """Random images of each class: the start of Alg. 4 (lines 1-6), and a row.

    Args:
      key: consumed.
      ipc: images per class, I.
      short_classes: of a class with fewer than `ipc` images: `error`, `repeat`
        (they recur in turn), or `noise` (normal pixels beyond them).

    Returns:
      `ipc * k` images, class by class.

    Raises:
      ValueError: naming the class that has fewer than `ipc` images.
    """
    ipc = whole('ipc', ipc, least=1)
    self.check_ipc(ipc, short_classes)
    counts = np.asarray(self.class_table.counts)
    rows = subsets.sample_ipc_in_turn(key, self.class_table, ipc)
    real = self.inputs(np.asarray(rows))
    if short_classes != 'noise' or counts.min() >= ipc:
      return real
    missing = np.tile(np.arange(ipc), len(counts)) >= np.repeat(counts, ipc)
    noise = jax.random.normal(
      jax.random.fold_in(key, 1), real.images.shape, jnp.float32
    )
    images = jnp.where(missing[:, None, None, None], noise, real.images)
    return dataclasses.replace(real, images=images)

  @functools.cached_property
  def _prepared(self) -> tuple[np.ndarray, Normalization | None]:
    return whitened_once(self.dataset.images, self.normalization)

  def statistics(
    self,
    features_of: losses.FeatureFn,
    variables: Any,
    *,
    error: str = 'squared',
    description: str = 'statistics',
  ) -> krr_errors.Target:
    """The statistics of all images in a network, which all devices share.

    Alg. 3, line 9, and Alg. 4, line 9: one pass over the images a network. They
    stay features, on one device, where `passes.keeps_features` says so.

    Args:
      features_of: the feature map f.
      variables: of the network.
      error: a name in `krr_errors.ERRORS`, for which they are to serve.
      description: what the progress bar calls the pass.
    """
    images, normalization = self._prepared
    devices = devices_for()
    count = passes.num_features(features_of, variables, self.image_shape)
    pass_over: Callable[..., krr_errors.Target] = functools.partial(
      passes.target_statistics, devices=devices
    )
    if passes.keeps_features(len(images), count, devices, error=error):
      pass_over = passes.target_features
    bar = progress.Bar(len(images), description, unit='image', leave=False)
    with bar:
      stats = pass_over(
        features_of,
        variables,
        images,
        self.labels,
        normalization,
        on_batch=bar.update,
      )
      return jax.block_until_ready(stats)

  def networks(
    self,
    features_of: losses.FeatureFn,
    draw: DrawFn,
    *,
    error: str = 'squared',
    num_networks: int = 1,
    keep: int = 1,
    clock: metrics.StageClock | None = None,
    part: str = 'statistics',
  ) -> NetworksFn:
    """Networks, each with the statistics of all images in it.

    Args:
      features_of: the feature map f.
      draw: draws the network of a number.
      error: as for `statistics`.
      num_networks: how many there are, for the progress bar.
      keep: how many networks to keep, with their `[d, d]` statistics or
        `[n, d]` features.
      clock: gets the time of the passes.
      part: the name of that time.

    Returns:
      A function of a network's number, which sums the statistics at the first
      call with it.
    """
    clock = clock or metrics.StageClock()

    @functools.lru_cache(maxsize=keep)
    def network(index: int) -> tuple[Any, krr_errors.Target]:
      variables = draw(index)
      name = f'statistics of network {index + 1}/{num_networks}'
      with clock.part(part):
        return variables, self.statistics(
          features_of, variables, error=error, description=name
        )

    return network
