"""Labels of a distilled set that fit many networks at once, in closed form.

The predictions of a kernel ridge regression are linear in the labels that it is
fitted to. So for given images the labels with the least squared error on a
target set, summed over networks, solve one linear system of as many rows as the
set has images. Not in the paper, whose labels stay as they were in theta.

`n` denotes the number of images, `d` of features, `k` of label columns.
"""

import flax.struct
import jax
import jax.numpy as jnp

from fsdd_jax.core import krr, krr_errors

# Weights of the distance to given labels, from nearly all to hardly any: of
# equally good ones the first is taken.
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)


@flax.struct.dataclass
class LabelSums:
  """The squared error in one network as a function of the labels; they add.

  It is `tr(Y' H Y) - 2 tr(Y' B)` and a constant, mean over target images.

  Attributes:
    quadratic: `[n, n]`, H.
    linear: `[n, k]`, B.
  """

  quadratic: jax.Array  # [n, n]
  linear: jax.Array  # [n, k]


def label_sums(
  features: jax.Array,
  mask: jax.Array,
  target: krr_errors.Target,
  *,
  ridge: float,
) -> LabelSums:
  """What one network says of the labels.

  Args:
    features: `[n, d]` of the distilled images in the network.
    mask: `[n]`, 1 for an image and 0 for padding.
    target: of the target set in the same network.
    ridge: as for `krr.solve`.

  Returns:
    Sums to add to those of other networks.
  """
  # A map fitted to Y is rows' Y, as it is linear in the labels.
  each = jnp.eye(len(features), dtype=features.dtype)
  rows = krr.solve(features, each, ridge=ridge, mask=mask).T
  if isinstance(target, krr_errors.Statistics):
    return LabelSums(
      krr.matmul(rows, krr.matmul(target.gram, rows.T)) / target.count,
      krr.matmul(rows, target.cross) / target.count,
    )
  seen = target.features.astype(jnp.float32) * target.mask[:, None]
  predictions = krr.matmul(seen, rows.T)
  count = jnp.maximum(target.mask.sum(), 1.0)
  return LabelSums(
    krr.matmul(predictions.T, predictions) / count,
    krr.matmul(predictions.T, target.labels) / count,
  )


def fit(
  sums: LabelSums,
  labels: jax.Array,
  mask: jax.Array,
  *,
  strength: float | jax.Array,
) -> jax.Array:
  """The labels of least error that stay near given ones.

  Few networks are few witnesses; what they do not tell stays as it was.

  Args:
    sums: over all networks.
    labels: `[n, k]` to stay near.
    mask: `[n]`, 1 for an image and 0 for padding.
    strength: weight of the squared distance, relative to the mean diagonal of
      the quadratic form.

  Returns:
    `[n, k]` labels; zero where padded. They stay near the best multiple of the
    given ones, and have the norm of these, as the closed form sees no scale but
    a training does.

  Example:
    >>> import jax.numpy as jnp
    >>> sums = LabelSums(jnp.eye(2), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> fit(sums, jnp.eye(2), jnp.ones(2), strength=0.0).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
  """
  labels = labels * mask[:, None]
  level = strength * jnp.trace(sums.quadratic) / jnp.maximum(mask.sum(), 1.0)
  linear, quadratic = _products(sums, labels)
  multiple = linear / quadratic
  # Labels that predict worse than nothing have no multiple to keep.
  multiple = jnp.where(multiple > 0, multiple, 1.0)
  right = sums.linear / multiple + level * labels
  # The system of a kernel whose ridge is the strength.
  found = krr.solve_kernel(sums.quadratic, right, ridge=strength, mask=mask)
  given, size = jnp.linalg.norm(labels), jnp.linalg.norm(found)
  return jnp.where((given > 0) & (size > 0), given / size, 1.0) * found


def fit_checked(
  halves: tuple[LabelSums, LabelSums], labels: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`fit` at the strength by which each half of the networks serves the other.

  Real images with one-hot labels want new labels; labels that were learned in
  many networks are best left. Half of the networks say which is the case.

  Args:
    halves: sums over one half of the networks, and over the other.
    labels: `[n, k]` to stay near.
    mask: `[n]`, 1 for an image and 0 for padding.

  Returns:
    Labels as from `fit`, and their strength `[]`, one of `STRENGTHS`.

  Example:
    >>> import jax.numpy as jnp
    >>> sums = LabelSums(jnp.eye(2), jnp.array([[0.1, 1.0], [1.0, 0.1]]))
    >>> fitted, strength = fit_checked((sums, sums), jnp.eye(2), jnp.ones(2))
    >>> round(float(strength), 2)
    0.01
  """
  strengths = jnp.array(STRENGTHS)
  one, two = halves

  def score(strength: jax.Array) -> jax.Array:
    by_one, by_two = (
      fit(half, labels, mask, strength=strength) for half in halves
    )
    return _explained(two, by_one) + _explained(one, by_two)

  # One after another, as each has a system of the set's size.
  scores = jax.lax.map(score, strengths)
  scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
  best = strengths[jnp.argmax(scores)]
  whole = jax.tree.map(jnp.add, *halves)
  return fit(whole, labels, mask, strength=best), best


def _products(
  sums: LabelSums, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Of the predictions with the target labels, and with themselves."""
  quadratic = jnp.sum(labels * krr.matmul(sums.quadratic, labels))
  return jnp.sum(labels * sums.linear), quadratic


def _explained(sums: LabelSums, labels: jax.Array) -> jax.Array:
  """What the best multiple of the predictions takes from the squared error."""
  linear, quadratic = _products(sums, labels)
  explained = linear**2 / jnp.where(quadratic > 0, quadratic, jnp.inf)
  return jnp.where(linear > 0, explained, 0.0)
