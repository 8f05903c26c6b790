"""The paper's one loss: fit on the distilled set, score on the target set.

A `FeatureFn` maps `(variables, images [n, h, w, c])` to features `[n, d]`;
`feature_fn` makes one of a network. Everything else here takes such a function,
so that kernels and other feature maps fit in.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import krr
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.networks import extractors
from fsdd_jax.runtime.devices import ALONE, Devices, local
from fsdd_jax.types import LabeledSet

FeatureFn = Callable[[Any, jax.Array], jax.Array]
ErrorFn = Callable[..., jax.Array]

_PIXELS_A_BATCH = 2**18


@functools.cache
def feature_fn(network: nn.Module) -> FeatureFn:
  """The feature map of a network that returns `(logits, features)`.

  Equal modules give the same function object, so nothing compiles twice.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax.networks import random_networks
    >>> network, _, _ = toy.problem()
    >>> theta = random_networks.sample(jax.random.key(0), network, (8, 8, 3))
    >>> feature_fn(network)(theta, jnp.zeros((5, 8, 8, 3))).shape
    (5, 64)
  """

  def extract(variables: Any, images: jax.Array) -> jax.Array:
    _, features = extractors.outputs(network.apply(variables, images), images)
    return jnp.asarray(features)

  return extract


def _fit(
  features_of: FeatureFn, variables: Any, synthetic: LabeledSet, ridge: float
) -> jax.Array:
  """The map fitted to the distilled set (Alg. 1, line 15)."""
  return krr.solve(
    features_of(variables, synthetic.images),
    synthetic.labels,
    ridge=ridge,
    mask=synthetic.mask,
  )


def krr_loss(
  features_of: FeatureFn,
  variables: Any,
  synthetic: LabeledSet,
  target: LabeledSet,
  *,
  ridge: float,
  error_fn: ErrorFn = krr.mean_squared_error,
) -> jax.Array:
  """Error on target images of the map fitted to the distilled set.

  Alg. 1, lines 15-16; Alg. 2, lines 8-9 (without the translator).

  Args:
    features_of: the feature map f.
    variables: its weights, theta.
    synthetic: the distilled set (X_S, Y_S).
    target: a batch of the target set (X_T, Y_T).
    ridge: relative ridge of `krr.solve`.
    error_fn: of `(weights, features, labels, mask)`; the paper's by default.

  Returns:
    `[]` mean over images of the squared error summed over labels.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> features_of = lambda scale, x: scale * x.reshape(len(x), -1)
    >>> x = types.labeled_set(jnp.eye(4)[:2].reshape(2, 2, 2, 1), jnp.eye(2))
    >>> y = types.labeled_set(jnp.ones((3, 2, 2, 1)), jnp.ones((3, 2)))
    >>> loss = lambda s: krr_loss(features_of, s, x, y, ridge=1e-2)
    >>> networks = jnp.arange(1.0, 4.0)
    >>> jax.jit(jax.vmap(jax.grad(loss)))(networks).shape
    (3,)
  """
  weights = _fit(features_of, variables, synthetic, ridge)
  features = features_of(variables, target.images)
  return error_fn(weights, features, target.labels, target.mask)


def krr_loss_from_statistics(
  features_of: FeatureFn,
  variables: Any,
  synthetic: LabeledSet,
  stats: krr.Statistics,
  *,
  ridge: float,
  error_fn: ErrorFn = krr.mean_squared_error_from_statistics,
) -> jax.Array:
  """`krr_loss` over a whole target set whose statistics were summed before.

  Alg. 3, lines 11-13, and Alg. 4, lines 11-14: the cost does not depend on the
  number of target images.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> from fsdd_jax.core import krr
    >>> features_of = lambda scale, x: scale * x.reshape(len(x), -1)
    >>> x = types.labeled_set(jnp.eye(4)[:2].reshape(2, 2, 2, 1), jnp.eye(2))
    >>> stats = krr.statistics(2.0 * jnp.eye(4)[:2], jnp.eye(2))
    >>> loss = krr_loss_from_statistics(features_of, 2.0, x, stats, ridge=0.0)
    >>> round(float(loss), 4)
    0.0
  """
  return error_fn(_fit(features_of, variables, synthetic, ridge), stats)


class KrrLoss(NamedTuple):
  """A loss against target images, and the same against their statistics.

  Example:
    >>> LOSSES['squared'].on_statistics.func.__name__
    'krr_loss_from_statistics'
  """

  on_images: Callable[..., jax.Array]
  on_statistics: Callable[..., jax.Array]


# By the name of the error in `krr.ERRORS`. Made once, as functions that are
# equal but not the same would compile anew.
LOSSES = {
  name: KrrLoss(
    functools.partial(krr_loss, error_fn=error.on_images),
    functools.partial(krr_loss_from_statistics, error_fn=error.on_statistics),
  )
  for name, error in krr.ERRORS.items()
}


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
      By default as of `default_batch_size`.
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


@functools.partial(
  jax.jit, static_argnames=('features_of', 'devices'), donate_argnames='total'
)
def _add_batch(
  total: krr.Statistics,
  features_of: FeatureFn,
  devices: Devices,
  whole: tuple[Any, Normalization | None],
  batch: tuple[jax.Array, jax.Array, jax.Array],
) -> krr.Statistics:
  """Adds each device's rows of a batch to its own sums `[devices, ...]`."""

  def statistics(whole: Any, rows: Any) -> krr.Statistics:
    (variables, normalization), (images, labels, mask) = whole, rows
    if normalization is not None:
      images = normalize(images, normalization)
    return krr.statistics(features_of(variables, images), labels, mask)

  return jax.tree.map(jnp.add, total, devices.each(statistics)(whole, batch))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zero_sums(
  num_features: int, num_classes: int, devices: Devices
) -> krr.Statistics:
  one = krr.zero_statistics(num_features, num_classes)
  return devices.split(
    jax.tree.map(lambda x: jnp.stack([x] * devices.count), one)
  )


@functools.partial(jax.jit, static_argnums=1)
def _add_up(total: krr.Statistics, devices: Devices) -> krr.Statistics:
  return devices.sum_of_each(total)


def target_statistics(
  features_of: FeatureFn,
  variables: Any,
  images: np.ndarray,
  labels: np.ndarray,
  normalization: Normalization | None,
  *,
  batch_size: int | None = None,
  on_batch: Callable[[int], None] | None = None,
  devices: Devices = ALONE,
) -> krr.Statistics:
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
    batch_size: images on a device at once; by default as of
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
    >>> stats = target_statistics(
    ...   feature_fn(network), theta, dataset.images, labels, transform
    ... )
    >>> stats.gram.shape, stats.count.item()
    ((64, 64), 24.0)
  """
  shape = jax.eval_shape(
    features_of,
    variables,
    jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
  )
  size = (batch_size or default_batch_size(images)) * devices.count
  whole = devices.replicate((variables, normalization))
  total = _zero_sums(shape.shape[1], labels.shape[1], devices)
  for batch in batches(images, labels, size, multiple_of=devices.count):
    total = _add_batch(
      total, features_of, devices, whole, devices.scatter(batch)
    )
    if on_batch is not None:
      on_batch(int(batch[2].sum()))
  return local(_add_up(total, devices))
