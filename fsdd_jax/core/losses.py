"""The paper's one loss: fit on the distilled set, score on the target set.

A `FeatureFn` maps `(variables, images [n, h, w, c])` to features `[n, d]`;
`feature_fn` makes one of a network. Everything else here takes such a function,
so that kernels and other feature maps fit in.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.core import krr, krr_errors
from fsdd_jax.networks import extractors
from fsdd_jax.types import LabeledSet

FeatureFn = Callable[[Any, jax.Array], jax.Array]
ErrorFn = Callable[..., jax.Array]


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
  error_fn: ErrorFn = krr_errors.mean_squared_error,
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
  stats: krr_errors.Target,
  *,
  ridge: float,
  error: str = 'squared',
) -> jax.Array:
  """`krr_loss` over a whole target set that passed the network before.

  Alg. 3, lines 11-13, and Alg. 4, lines 11-14. By statistics the cost does not
  depend on the number of target images.

  Args:
    features_of: the feature map f.
    variables: its weights, theta.
    synthetic: the distilled set (X_S, Y_S).
    stats: of the target set in this network, or its features.
    ridge: relative ridge of `krr.solve`.
    error: a name in `krr_errors.ERRORS`.

  Returns:
    As `krr_loss`.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> from fsdd_jax.core import krr, krr_errors
    >>> features_of = lambda scale, x: scale * x.reshape(len(x), -1)
    >>> x = types.labeled_set(jnp.eye(4)[:2].reshape(2, 2, 2, 1), jnp.eye(2))
    >>> stats = krr_errors.statistics(2.0 * jnp.eye(4)[:2], jnp.eye(2))
    >>> loss = krr_loss_from_statistics(features_of, 2.0, x, stats, ridge=0.0)
    >>> round(float(loss), 4)
    0.0
  """
  weights = _fit(features_of, variables, synthetic, ridge)
  return krr_errors.error_on(error, weights, stats)


class KrrLoss(NamedTuple):
  """A loss against target images, and the same against their statistics."""

  on_images: Callable[..., jax.Array]
  on_statistics: Callable[..., jax.Array]


# By the name of the error in `krr_errors.ERRORS`. Made once, as functions that
# are equal but not the same would compile anew.
LOSSES = {
  name: KrrLoss(
    functools.partial(krr_loss, error_fn=error.on_images),
    functools.partial(krr_loss_from_statistics, error=name),
  )
  for name, error in krr_errors.ERRORS.items()
}
