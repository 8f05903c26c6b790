"""Passes over a whole data set: batches of one size, sums, and features."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import krr_errors, losses
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.runtime.devices import ALONE, Devices, local

_PIXELS_A_BATCH = 2**18


def default_batch_size(images: np.ndarray) -> int:
  """As many images as have 2^18 pixels (256 at 32 x 32), at least one.

  That bounds the memory of feature maps at any resolution.

  Example:
    >>> import numpy as np
    >>> default_batch_size(np.zeros((1, 64, 64, 3)))
    64
  """
  return max(1, _PIXELS_A_BATCH // int(np.prod(images.shape[1:3])))


def batches(
  images: np.ndarray,
  labels: np.ndarray,
  batch_size: int | None = None,
  *,
  multiple_of: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Splits a set into batches of one size, the last one padded with zeros.

  Args:
    images: `[n, h, w, c]`.
    labels: `[n, ...]`.
    batch_size: rows a batch; a smaller set makes one batch of its own size.
      By default `default_batch_size`.
    multiple_of: rows a batch are rounded up to a multiple of this.

  Yields:
    Images, labels and a float32 mask of `min(batch_size, n)` rows each, but
    for the rounding.

  Example:
    >>> import numpy as np
    >>> images, labels = np.zeros((5, 8, 8, 3)), np.arange(5)
    >>> [mask.tolist() for _, _, mask in batches(images, labels, 3)]
    [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
  """
  size = min(batch_size or default_batch_size(images), len(images))
  size += -size % multiple_of
  for start in range(0, len(images), size):
    part = images[start : start + size], labels[start : start + size]
    mask = np.ones(len(part[0]), np.float32)
    rows = [*part, mask]
    if missing := size - len(mask):
      rows = [np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in rows]
    yield rows[0], rows[1], rows[2]


def num_features(
  features_of: losses.FeatureFn, variables: Any, image_shape: tuple[int, ...]
) -> int:
  """The number of features d of an image `[h, w, c]`."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return jax.eval_shape(features_of, variables, image).shape[1]


@functools.partial(
  jax.jit, static_argnames=('features_of', 'devices'), donate_argnames='total'
)
def _add_batch(
  total: krr_errors.Statistics,
  features_of: losses.FeatureFn,
  devices: Devices,
  whole: tuple[Any, Normalization | None],
  batch: tuple[jax.Array, jax.Array, jax.Array],
) -> krr_errors.Statistics:
  """Adds each device's rows of a batch to its own sums `[devices, ...]`."""

  def statistics(whole: Any, rows: Any) -> krr_errors.Statistics:
    (variables, normalization), (images, labels, mask) = whole, rows
    features = _features(features_of, variables, normalization, images)
    return krr_errors.statistics(features, labels, mask)

  return jax.tree.map(jnp.add, total, devices.each(statistics)(whole, batch))


@functools.partial(jax.jit, static_argnums=0)
def _features(
  features_of: losses.FeatureFn,
  variables: Any,
  normalization: Normalization | None,
  images: jax.Array,
) -> jax.Array:
  if normalization is not None:
    images = normalize(images, normalization)
  return features_of(variables, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zero_sums(
  num_features: int, num_classes: int, devices: Devices
) -> krr_errors.Statistics:
  one = krr_errors.zero_statistics(num_features, num_classes)
  return devices.split(
    jax.tree.map(lambda x: jnp.stack([x] * devices.count), one)
  )


@functools.partial(jax.jit, static_argnums=1)
def _add_up(
  total: krr_errors.Statistics, devices: Devices
) -> krr_errors.Statistics:
  return devices.sum_of_each(total)


def target_statistics(
  features_of: losses.FeatureFn,
  variables: Any,
  images: np.ndarray,
  labels: np.ndarray,
  normalization: Normalization | None,
  *,
  batch_size: int | None = None,
  on_batch: Callable[[int], None] | None = None,
  devices: Devices = ALONE,
) -> krr_errors.Statistics:
  """Sums the statistics of a data set in one network (Alg. 4, line 9).

  Each device sums over its own rows of the batches; at the end, the sums are
  added (up to rounding, that is the sum on one device).

  Args:
    features_of: the feature map f.
    variables: its weights, theta.
    images: `[n, h, w, c]` uint8, kept on the host but for one batch.
    labels: `[n, k]` float32.
    normalization: how uint8 images become network inputs; None if the images
      are network inputs, float32.
    batch_size: images on a device at once; by default
      `default_batch_size`.
    on_batch: called with the number of images added, for a progress bar.
    devices: what shares the images; all their processes call this together.

  Returns:
    Statistics of all n images, on the first device of each process.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> import toy
    >>> from fsdd_jax.networks import random_networks
    >>> network, dataset, transform = toy.problem()
    >>> theta = random_networks.sample(jax.random.key(0), network, (8, 8, 3))
    >>> labels = np.eye(3, dtype=np.float32)[dataset.labels]
    >>> features_of = losses.feature_fn(network)
    >>> stats = target_statistics(
    ...   features_of, theta, dataset.images, labels, transform
    ... )
    >>> stats.gram.shape, stats.count.item()
    ((64, 64), 24.0)
  """
  size = (batch_size or default_batch_size(images)) * devices.count
  whole = devices.replicate((variables, normalization))
  count = num_features(features_of, variables, images.shape[1:])
  total = _zero_sums(count, labels.shape[1], devices)
  for batch in batches(images, labels, size, multiple_of=devices.count):
    total = _add_batch(
      total, features_of, devices, whole, devices.scatter(batch)
    )
    if on_batch is not None:
      on_batch(int(batch[2].sum()))
  return local(_add_up(total, devices))


def target_features(
  features_of: losses.FeatureFn,
  variables: Any,
  images: np.ndarray,
  labels: np.ndarray,
  normalization: Normalization | None,
  *,
  batch_size: int | None = None,
  on_batch: Callable[[int], None] | None = None,
) -> krr_errors.FeatureSet:
  """The features of a data set in one network (Alg. 4, line 9, literally).

  Where there are fewer images than features, they take less memory than
  `target_statistics`, and a step on them costs less.

  Args:
    features_of: the feature map f.
    variables: its weights, theta.
    images: see `target_statistics`, like `normalization` and `on_batch`.
    labels: `[n, k]` float32.
    normalization: how uint8 images become network inputs.
    batch_size: images on the device at once.
    on_batch: called with the number of images that passed.

  Returns:
    Features of all n images, float32, with their labels.
  """
  parts = []
  for batch, _, mask in batches(images, labels, batch_size):
    count = int(mask.sum())
    found = _features(features_of, variables, normalization, batch)
    parts.append(found[:count])
    if on_batch is not None:
      on_batch(count)
  return krr_errors.FeatureSet(
    jnp.concatenate(parts),
    jnp.asarray(labels),
    jnp.ones(len(images), jnp.float32),
  )


def keeps_features(
  num_images: int,
  num_features: int,
  devices: Devices = ALONE,
  *,
  error: str = 'squared',
) -> bool:
  """Whether a network keeps a target set's features instead of their sums.

  It does for an error that is not one of sums; one device also where they take
  at most half of the memory: 2,000 images of 128 x 128 have 8,192 features, and
  their outer product has 270 MB. Several would have to send features.
  """
  if error not in krr_errors.OF_SUMS:
    return True
  return devices is ALONE and 2 * num_images <= num_features
