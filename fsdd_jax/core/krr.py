"""Closed-form kernel ridge regression on network features.

All four algorithms of the paper score a distilled set (X_S, Y_S) in a network
f by the linear map that fits it, w = F'(F F' + ridge)^-1 Y with F = f(X_S)
(Alg. 1, line 15), and by that map's error on the target set (`krr_errors`).

`n` denotes the number of images, `d` of features, `k` of label columns.
Matrix products and factorisations run in float32 at the highest precision of
the platform: TF32 or bfloat16 Gram matrices move predictions by percents.
"""

import jax
import jax.numpy as jnp

_PRECISION = 'highest'


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
  as those of constant or diverged images under some norms, say nothing: the
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
  features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
  kept = jnp.ones(n, features.dtype) if mask is None else mask
  features = features * kept[:, None]
  if n <= d:
    return _by_images(features, labels, kept, ridge)
  if mask is None:
    return _by_features(features, labels, kept, ridge)
  # Of few images among much padding, the second form has the rank of the images
  # and a level below rounding.
  few = kept.sum() <= d
  return jax.lax.cond(
    few, _by_few_images, _by_features, features, labels, kept, ridge
  )


def _by_images(
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  ridge: float | jax.Array,
) -> jax.Array:
  """`solve` by the kernel of the images, `[n, n]`."""
  kernel = matmul(features, features.T)
  return matmul(
    features.T, solve_kernel(kernel, labels, ridge=ridge, mask=mask)
  )


def _by_few_images(
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  ridge: float | jax.Array,
) -> jax.Array:
  """As `_by_images`, of at most d images, wherever they are."""
  first = jnp.argsort(mask == 0)[: features.shape[1]]  # A stable sort.
  return _by_images(features[first], labels[first], mask[first], ridge)


def _by_features(
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  ridge: float | jax.Array,
) -> jax.Array:
  """`solve` by the Gram matrix of the features, `[d, d]`."""
  gram, right = matmul(features.T, features), matmul(features.T, labels)
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

  What `solve` does for images of which only the kernel is known, as in an
  infinitely wide network; `predict` and the errors take rows of the kernel
  against these images instead of features.

  Args:
    kernel: `[n, n]` of the images with each other.
    labels: `[n, k]`.
    ridge: see `solve`.
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
  # By labels, so that the gradient by weights, a sum over images, needs no
  # transposed features: XLA's CPU compiler takes up to five times as long so.
  by_label = jax.lax.optimization_barrier(weights.T)
  return jax.lax.optimization_barrier(matmul(by_label, features.T)).T


def condition_number(
  features: jax.Array, *, ridge: float, mask: jax.Array | None = None
) -> jax.Array:
  """Ratio of the extreme eigenvalues of the regularised kernel, `[]`.

  A diagnosis for reports, not part of any loss. Infinite where rounding has
  made the smallest eigenvalue zero or negative.
  """
  keep = slice(None) if mask is None else mask > 0
  rows = features[keep]
  kernel = matmul(rows, rows.T)
  values = jnp.linalg.eigvalsh(kernel) + ridge * jnp.trace(kernel) / len(rows)
  return jnp.where(values[0] > 0, values[-1] / values[0], jnp.inf)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """A matrix product at the precision of all regressions."""
  return jnp.matmul(a, b, precision=_PRECISION)


def _keep_factor(factor: jax.Array, matrix: jax.Array) -> jax.Array:
  del matrix
  return factor


def _factor_again(factor: jax.Array, matrix: jax.Array) -> jax.Array:
  del factor
  return jnp.linalg.cholesky(matrix)


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
  # Functions of the module, not of this call, so that eager calls compile once.
  factor = jax.lax.cond(
    regular, _keep_factor, _factor_again, factor, constant + used * identity
  )
  matrix = matrix + jnp.where(regular, level, floor) * identity

  def solve_with_factor(_: object, b: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve((factor, True), b)

  return jax.lax.custom_linear_solve(
    lambda x: matmul(matrix, x), right, solve_with_factor, symmetric=True
  )
