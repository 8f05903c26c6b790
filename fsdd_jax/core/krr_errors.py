"""Errors of a fitted map on target images, or on sums over them.

The squared error over *all* target images needs no target features at hand:
with P = f(X_T), ||P w - Y||^2 = tr(w' G w) - 2 tr(w' B) + ||Y||^2, where
G = P'P and B = P'Y are summed once a network (`statistics`) over any number of
images.

`n` denotes the number of images, `d` of features, `k` of label columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from fsdd_jax.core.krr import matmul, predict
from fsdd_jax.core.platt import platt_error

_TINY = 1e-12


@flax.struct.dataclass
class Statistics:
  """Sufficient statistics of a target set in one network; they add.

  Attributes:
    gram: `[d, d]` sum of outer products of features, G = P'P.
    cross: `[d, k]` sum of outer products of features and labels, B = P'Y.
    energy: `[]` sum of squared labels, ||Y||^2.
    count: `[]` number of images.
  """

  gram: jax.Array  # [d, d]
  cross: jax.Array  # [d, k]
  energy: jax.Array  # []
  count: jax.Array  # []


@flax.struct.dataclass
class FeatureSet:
  """Target images by their features in one network.

  Attributes:
    features: `[n, d]` float32, or float16 as a bank keeps them.
    labels: `[n, k]` label vectors.
    mask: `[n]`, 1 for an image and 0 for padding.
  """

  features: jax.Array  # [n, d]
  labels: jax.Array  # [n, k]
  mask: jax.Array  # [n]


# What a map is scored on when no target image passes the network.
Target = FeatureSet | Statistics


def mean_squared_error(
  weights: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Squared error of a map, summed over labels, mean over images.

  Alg. 1, line 16, divided by the number of target images, so that learning
  rates do not depend on it. With centred labels of k classes, predicting zero
  scores 1 - 1/k.

  Args:
    weights: `[d, k]` from `solve`.
    features: `[n, d]` of the target images.
    labels: `[n, k]`.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` float32.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[1.0], [2.0]])
    >>> weights = jnp.array([[2.0]])
    >>> mean_squared_error(weights, features, jnp.zeros((2, 1))).item()
    10.0
  """
  errors = jnp.sum((predict(features, weights) - labels) ** 2, axis=1)
  if mask is None:
    return errors.mean()
  return jnp.sum(errors * mask) / jnp.maximum(mask.sum(), 1.0)


def statistics(
  features: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> Statistics:
  """Sufficient statistics of one batch of target images.

  Args:
    features: `[n, d]` float32.
    labels: `[n, k]` float32.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    Statistics of the batch; those of a data set are the sum over its batches.
  """
  if mask is None:
    mask = jnp.ones(len(features), features.dtype)
  features = features * mask[:, None]
  labels = labels * mask[:, None]
  return Statistics(
    gram=matmul(features.T, features),
    cross=matmul(features.T, labels),
    energy=jnp.sum(labels**2),
    count=mask.sum(),
  )


def zero_statistics(num_features: int, num_labels: int) -> Statistics:
  """The statistics of no images, to add batches to."""
  return Statistics(
    gram=jnp.zeros((num_features, num_features), jnp.float32),
    cross=jnp.zeros((num_features, num_labels), jnp.float32),
    energy=jnp.zeros((), jnp.float32),
    count=jnp.zeros((), jnp.float32),
  )


def mean_squared_error_from_statistics(
  weights: jax.Array, stats: Statistics
) -> jax.Array:
  """`mean_squared_error` over all images that went into the statistics.

  With b images a batch and s batches, the float32 error is at most
  `(b + s + 2 d) 2^-24 (|w|'|P|'|P||w| + 2 |w|'|P|'|Y| + ||Y||^2) / count`
  (absolute values entry by entry, traces over labels); in practice the error
  grows like the square root of the first factor.

  Args:
    weights: `[d, k]` from `solve`.
    stats: summed statistics of the target set.

  Returns:
    `[]` float32.
  """
  quadratic = jnp.sum(weights * matmul(stats.gram, weights))
  linear = jnp.sum(weights * stats.cross)
  return (quadratic - 2.0 * linear + stats.energy) / stats.count


def scale_free_error(
  weights: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Squared error of the best multiple of a map's predictions.

  With P the predictions, min over a of ||a P - Y||^2 is
  ||Y||^2 - <P, Y>^2 / ||P||^2. Where <P, Y> is negative, the second term is
  added instead, so that predictions that point away from Y are led back.

  A distilled set of few images fits a map whose predictions in an unseen
  network are far too large; the squared error then rewards shrinking them
  first, which changes no decision. This error sees their direction alone. Not
  in the paper, whose loss is `mean_squared_error`.

  Args:
    weights: `[d, k]` from `solve`.
    features: `[n, d]` of the target images.
    labels: `[n, k]`.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` float32, mean over images. Predictions without any relation to the
    labels have ||Y||^2 / n, which is 1 - 1/k with centred labels of k classes.
  """
  mask = jnp.ones(len(features), features.dtype) if mask is None else mask
  predictions = predict(features, weights) * mask[:, None]
  labels = labels * mask[:, None]
  return _best_multiple(
    quadratic=jnp.sum(predictions**2),
    linear=jnp.sum(predictions * labels),
    energy=jnp.sum(labels**2),
    count=jnp.maximum(mask.sum(), 1.0),
  )


def scale_free_error_from_statistics(
  weights: jax.Array, stats: Statistics
) -> jax.Array:
  """`scale_free_error` over all images that went into the statistics.

  Args:
    weights: `[d, k]` from `solve`.
    stats: summed statistics of the target set.

  Returns:
    `[]` float32.
  """
  return _best_multiple(
    quadratic=jnp.sum(weights * matmul(stats.gram, weights)),
    linear=jnp.sum(weights * stats.cross),
    energy=stats.energy,
    count=stats.count,
  )


def _best_multiple(
  *,
  quadratic: jax.Array,
  linear: jax.Array,
  energy: jax.Array,
  count: jax.Array,
) -> jax.Array:
  # The tiny number keeps value and gradient finite where all predictions are 0.
  gain = linear * jnp.abs(linear) / (quadratic + _TINY * energy)
  return (energy - gain) / count


class Error(NamedTuple):
  """An error of a map on target images, and the same by their statistics.

  None stands for an error that needs the features of each image.
  """

  on_images: Callable[..., jax.Array]
  on_statistics: Callable[..., jax.Array] | None


ERRORS = {
  'squared': Error(mean_squared_error, mean_squared_error_from_statistics),
  'scale_free': Error(scale_free_error, scale_free_error_from_statistics),
  'platt': Error(platt_error, None),
}

# Those that statistics suffice for.
OF_SUMS = tuple(
  name for name, error in ERRORS.items() if error.on_statistics is not None
)


def error_on(error: str, weights: jax.Array, target: Target) -> jax.Array:
  """The error of a map on a target that is given by features or statistics.

  Args:
    error: a name in `ERRORS`.
    weights: `[d, k]` from `solve`.
    target: features of its images, or their sums.

  Returns:
    `[]` float32, mean over images.

  Raises:
    ValueError: if the error needs features, and the target has sums alone.
  """
  functions = ERRORS[error]
  if isinstance(target, Statistics):
    if functions.on_statistics is None:
      raise ValueError(
        f'The error {error!r} needs the features of each target image, not '
        f'their sums; take one of {", ".join(OF_SUMS)}.'
      )
    return functions.on_statistics(weights, target)
  features = target.features.astype(jnp.float32)
  return functions.on_images(weights, features, target.labels, target.mask)
