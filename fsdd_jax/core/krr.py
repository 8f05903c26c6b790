"""Closed-form kernel ridge regression on network features.

All four algorithms of the paper score a distilled set (X_S, Y_S) in a network
f by the linear map that fits it, w = F'(F F' + ridge)^-1 Y with F = f(X_S),
and by that map's squared error on the target set (Alg. 1, lines 15-16).

The error over *all* target images needs no target features at hand: with
P = f(X_T), ||P w - Y||^2 = tr(w' G w) - 2 tr(w' B) + ||Y||^2, where G = P'P and
B = P'Y are summed once a network (`statistics`) over any number of images.

`n` denotes the number of images, `d` of features, `k` of label columns.
Matrix products and factorisations run in float32 at the highest precision of
the platform: TF32 or bfloat16 Gram matrices move predictions by percents.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

_PRECISION = 'highest'
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


def solve(
  features: jax.Array,
  labels: jax.Array,
  *,
  ridge: float | jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Fits the linear map from features to labels (Alg. 1, line 15).

  Factors the n x n kernel where n <= d and the d x d Gram matrix otherwise;
  both give the same map. Where float32 cannot factor the matrix at the
  requested ridge (duplicate images without a ridge, say), the ridge is raised
  to the level of rounding, 2^-23 times the trace, instead of returning NaN;
  for n images that is a relative ridge of 1.2e-7 n. Features that are all zero,
  as those of constant or diverged images under some norms, tell nothing: the
  weights are NaN, at which each stage stops.

  Args:
    features: `[n, d]` float32.
    labels: `[n, k]` float32.
    ridge: added to the diagonal, relative to the mean diagonal entry of the
      kernel; 0 is the paper's literal formula, 1e-6 the default of KIP and
      FRePo.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default. Padded
      rows have no influence, and gradients with respect to them are zero.

  Returns:
    `[d, k]` weights w.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> fit = jax.jit(solve, static_argnames='ridge')
    >>> weights = fit(features, jnp.eye(2), ridge=0.0)
    >>> predict(features, weights).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  n, d = features.shape
  mask = jnp.ones(n, features.dtype) if mask is None else mask
  features = features * mask[:, None]
  if n <= d:
    kernel = _matmul(features, features.T)
    return _matmul(
      features.T, solve_kernel(kernel, labels, ridge=ridge, mask=mask)
    )
  gram, right = _matmul(features.T, features), _matmul(features.T, labels)
  trace = jnp.trace(gram)
  level = ridge * trace / jnp.maximum(mask.sum(), 1.0)
  return _solve_regular(gram, right, level, trace)


def solve_kernel(
  kernel: jax.Array,
  labels: jax.Array,
  *,
  ridge: float | jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Fits labels in the span of a kernel, (K + ridge)^-1 Y.

  What `solve` does for images that only their kernel is known of, as in an
  infinitely wide network; `predict` and the errors take rows of the kernel
  against these images in the place of features.

  Args:
    kernel: `[n, n]` of the images with each other.
    labels: `[n, k]`.
    ridge: as of `solve`.
    mask: `[n]`, 1 for an image and 0 for padding, whose rows and columns of the
      kernel must be zero; all ones by default.

  Returns:
    `[n, k]` coefficients.
  """
  mask = jnp.ones(len(kernel), kernel.dtype) if mask is None else mask
  trace = jnp.trace(kernel)
  level = ridge * trace / jnp.maximum(mask.sum(), 1.0)
  # Ones on the padded part of the diagonal keep the kernel regular there;
  # their labels are zero, so they add nothing to the map.
  kernel, labels = kernel + jnp.diag(1.0 - mask), labels * mask[:, None]
  return _solve_regular(kernel, labels, level, trace)


def predict(features: jax.Array, weights: jax.Array) -> jax.Array:
  """Predicted labels `[n, k]` of features `[n, d]` under weights `[d, k]`.

  Example:
    >>> import jax.numpy as jnp
    >>> predict(jnp.eye(2), jnp.array([[3.0], [4.0]])).tolist()
    [[3.0], [4.0]]
  """
  return _matmul(features, weights)


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
    gram=_matmul(features.T, features),
    cross=_matmul(features.T, labels),
    energy=jnp.sum(labels**2),
    count=mask.sum(),
  )


def zero_statistics(num_features: int, num_labels: int) -> Statistics:
  """The statistics of no images, to add batches to."""
  return Statistics(
    gram=jnp.zeros((num_features, num_features)),
    cross=jnp.zeros((num_features, num_labels)),
    energy=jnp.zeros(()),
    count=jnp.zeros(()),
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
  quadratic = jnp.sum(weights * _matmul(stats.gram, weights))
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
    quadratic=jnp.sum(weights * _matmul(stats.gram, weights)),
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
  """An error of a map on target images, and the same by their statistics."""

  on_images: Callable[..., jax.Array]
  on_statistics: Callable[..., jax.Array]


ERRORS = {
  'squared': Error(mean_squared_error, mean_squared_error_from_statistics),
  'scale_free': Error(scale_free_error, scale_free_error_from_statistics),
}


def error_on(error: str, weights: jax.Array, target: Target) -> jax.Array:
  """The error of a map on a target that is given by features or statistics.

  Args:
    error: a name in `ERRORS`.
    weights: `[d, k]` from `solve`.
    target: features of its images, or their sums.

  Returns:
    `[]` float32, mean over images.
  """
  functions = ERRORS[error]
  if isinstance(target, Statistics):
    return functions.on_statistics(weights, target)
  features = target.features.astype(jnp.float32)
  return functions.on_images(weights, features, target.labels, target.mask)


def condition_number(
  features: jax.Array, *, ridge: float, mask: jax.Array | None = None
) -> jax.Array:
  """Ratio of the extreme eigenvalues of the regularised kernel, `[]`.

  A diagnosis for reports, not part of any loss. Infinite where rounding has
  made the smallest eigenvalue zero or negative.
  """
  keep = slice(None) if mask is None else mask > 0
  rows = features[keep]
  kernel = _matmul(rows, rows.T)
  values = jnp.linalg.eigvalsh(kernel) + ridge * jnp.trace(kernel) / len(rows)
  return jnp.where(values[0] > 0, values[-1] / values[0], jnp.inf)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.matmul(a, b, precision=_PRECISION)


def _solve_regular(
  matrix: jax.Array, right: jax.Array, level: jax.Array, trace: jax.Array
) -> jax.Array:
  """Solves (matrix + level I) x = right for a semi-definite matrix.

  Implicit differentiation reuses the one factor in the backward pass; nothing
  is differentiated through the Cholesky recursion.
  """
  identity = jnp.eye(len(matrix), dtype=matrix.dtype)
  constant = jax.lax.stop_gradient(matrix)
  level_now, trace = jax.lax.stop_gradient((level, trace))
  factor = jnp.linalg.cholesky(constant + level_now * identity)
  regular = jnp.all(jnp.isfinite(factor))
  floor = jnp.maximum(level_now, jnp.finfo(matrix.dtype).eps * trace)
  # Under vmap both branches run; taking the level from the first factor keeps
  # the second from running beside it, which can deadlock XLA's CPU threads.
  used = jnp.where(regular, level_now, floor)
  factor = jax.lax.cond(
    regular,
    lambda: factor,
    lambda: jnp.linalg.cholesky(constant + used * identity),
  )
  matrix = matrix + jnp.where(regular, level, floor) * identity

  def solve_with_factor(_: object, b: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve((factor, True), b)

  return jax.lax.custom_linear_solve(
    lambda x: _matmul(matrix, x), right, solve_with_factor, symmetric=True
  )
