"""Cross-entropy of scaled predictions (Platt), which RFAD and RCIG minimise."""

import jax
import jax.numpy as jnp

from fsdd_jax.core import krr

_NEWTON_STEPS = 8
_LOG_SCALES = (-3.0, 6.0)


def scaled_cross_entropy(
  log_scale: jax.Array,
  predictions: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Cross-entropy of scaled predictions (Platt).

  Args:
    log_scale: `[]` logarithm of the scale.
    predictions: `[n, k]`.
    labels: `[n, k]`, of which the largest is an image's class.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` mean over images.
  """
  mask = jnp.ones(len(labels), predictions.dtype) if mask is None else mask
  classes = jnp.argmax(labels, axis=1)
  log_shares = jax.nn.log_softmax(jnp.exp(log_scale) * predictions)
  own = jnp.take_along_axis(log_shares, classes[:, None], axis=1)[:, 0]
  return -jnp.sum(own * mask) / jnp.maximum(mask.sum(), 1.0)


def least_cross_entropy(
  predictions: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Cross-entropy of predictions under their best scale on this batch.

  The alternative to a scale that is learned beside the images [ours]: the
  minimum, by Newton's method in its logarithm, which leaves nothing to tune or
  save. The gradient needs no share of it, as the derivative by the scale is
  zero there.

  Args:
    predictions: `[n, k]`.
    labels: `[n, k]`, of which the largest is an image's class.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` mean over images.
  """

  def cross_entropy(log_scale: jax.Array, predictions: jax.Array) -> jax.Array:
    return scaled_cross_entropy(log_scale, predictions, labels, mask)

  fixed = jax.lax.stop_gradient(predictions)
  slope = jax.grad(cross_entropy)
  # In units of the predictions, so that none are too small or large.
  weight = jnp.ones(len(labels), fixed.dtype) if mask is None else mask
  square = jnp.sum(jnp.mean(fixed**2, axis=1) * weight)
  square = square / jnp.maximum(weight.sum(), 1.0)
  size = jnp.sqrt(square) + jnp.finfo(fixed.dtype).tiny
  shift = jnp.log(size)
  log_scale = jnp.zeros((), fixed.dtype)
  for _ in range(_NEWTON_STEPS):
    first = slope(log_scale - shift, fixed)
    second = jax.grad(slope)(log_scale - shift, fixed)
    move = first / jnp.maximum(jnp.abs(second), 1e-3)
    log_scale = jnp.clip(log_scale - jnp.clip(move, -1.0, 1.0), *_LOG_SCALES)
  return cross_entropy(jax.lax.stop_gradient(log_scale - shift), predictions)


def platt_error(
  weights: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """`least_cross_entropy` of a map's predictions.

  Args:
    weights: `[d, k]` from `krr.solve`.
    features: `[n, d]` of the target images.
    labels: `[n, k]`, of which the largest is an image's class.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` mean over images.
  """
  return least_cross_entropy(krr.predict(features, weights), labels, mask)
