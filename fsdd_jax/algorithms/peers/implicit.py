"""Implicit gradients of a network linearised in its weights (RCIG's problem).

With f the features and J the slope of the logits by all weights but those of
the classifier, the network z -> J(z) t + f(z) w is linear in t and w. For any t
the best w on the distilled set (S, Y) is kernel ridge regression of Y - J t,
with K = f f'; what is left is a convex quadratic in t alone,

  L(t) = level / (2 n k) (tr (Y - J t)' (K + level)^-1 (Y - J t) + ||t||^2),

whose curvature is a product of J and its transpose. Its minimum depends on S
and Y, through which the implicit gradient of an outer loss goes.

`n` denotes the images of S, `k` the classes, `level` the ridge.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from fsdd_jax.core import krr, losses
from fsdd_jax.types import LabeledSet


@flax.struct.dataclass
class InnerProblem:
  """What is the same for all steps on t.

  Attributes:
    variables: of the network that is linearised.
    synthetic: the distilled set (S, Y), without padding.
    factor: `[n, n]` lower Cholesky factor of K + level.
    level: `[]`.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> problem: InnerProblem = inner_problem(network, toy.theta(0), real, 0.1)
    >>> problem.factor.shape
    (3, 3)
  """

  variables: Any
  synthetic: LabeledSet
  factor: jax.Array  # [n, n]
  level: jax.Array  # []

  @property
  def weight(self) -> jax.Array:
    """The factor level / (n k) of the loss, `[]`."""
    return self.level / self.synthetic.labels.size

  def regularized(self, labels: jax.Array) -> jax.Array:
    """(K + level)^-1 times labels `[n, k]`."""
    return jax.scipy.linalg.cho_solve((self.factor, True), labels)


def body_of(params: Any) -> Any:
  """The same tree, zero at the classifier's weights, which w stands for.

  Example:
    >>> import toy
    >>> body = body_of(toy.theta(0)['params'])
    >>> float(abs(body['classifier']['kernel']).max())
    0.0
  """
  classifier = params['classifier']
  kernel = jnp.zeros_like(classifier['kernel'])
  return {**params, 'classifier': {**classifier, 'kernel': kernel}}


def outputs(
  network: nn.Module, variables: Any, tangent: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Features f and J t of images.

  Args:
    network: returns logits and features; its classifier has this name.
    variables: where it is linearised.
    tangent: t, a tree like its parameters.
    images: `[n, h, w, c]`.

  Returns:
    `[n, d]` and `[n, k]`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> network, theta = toy.problem()[0], toy.theta(0)
    >>> t = jax.tree.map(jnp.zeros_like, theta['params'])
    >>> f, shift = outputs(network, theta, t, jnp.ones((1, 8, 8, 3)))
    >>> f.shape, shift.tolist()
    ((1, 64), [[0.0, 0.0, 0.0]])
  """
  apply = functools.partial(_apply, network, variables, images)
  (_, features), (shift, _) = jax.jvp(apply, (variables['params'],), (tangent,))
  return features, shift


def _kernel(network: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
  features = losses.feature_fn(network)(variables, images)
  return jnp.matmul(features, features.T, precision='highest')


def _apply(
  network: nn.Module, variables: Any, images: jax.Array, params: Any
) -> Any:
  return network.apply({**variables, 'params': params}, images)


def _slope(
  network: nn.Module, variables: Any, images: jax.Array
) -> Callable[[Any], jax.Array]:
  """The linear map J, which shares one forward pass."""
  apply = functools.partial(_apply, network, variables, images)
  _, slope = jax.linearize(lambda params: apply(params)[0], variables['params'])
  return slope


def _transposed(slope: Callable[[Any], jax.Array], like: Any) -> Any:
  """J', whose result has no share of the classifier's weights."""
  transpose = jax.linear_transpose(slope, like)
  return lambda cotangent: body_of(transpose(cotangent)[0])


def inner_problem(
  network: nn.Module,
  variables: Any,
  synthetic: LabeledSet,
  level: float | jax.Array,
) -> InnerProblem:
  """Prepares the problem of t in a network.

  Args:
    network: f.
    variables: where it is linearised.
    synthetic: the distilled set, without padding.
    level: the ridge, positive.

  Returns:
    The problem.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> inner_problem(network, toy.theta(0), real, 0.5).level.item()
    0.5
  """
  kernel = _kernel(network, variables, synthetic.images)
  factor = jnp.linalg.cholesky(kernel + level * jnp.eye(len(kernel)))
  return InnerProblem(variables, synthetic, factor, jnp.asarray(level))


def curvature(network: nn.Module, problem: InnerProblem, tangent: Any) -> Any:
  """The second derivative of L times a tree t.

  Example:
    >>> import jax
    >>> import optax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> problem = inner_problem(network, toy.theta(0), real, 0.5)
    >>> t = body_of(problem.variables['params'])
    >>> product = curvature(network, problem, t)
    >>> bool(optax.tree.vdot(t, product) > 0)
    True
  """
  slope = _slope(network, problem.variables, problem.synthetic.images)
  transpose = _transposed(slope, tangent)
  body = transpose(problem.regularized(slope(tangent)))
  return jax.tree.map(lambda x, y: problem.weight * (x + y), body, tangent)


def descent(network: nn.Module, problem: InnerProblem) -> Any:
  """The negative slope of L at t = 0.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> problem = inner_problem(network, toy.theta(0), real, 0.5)
    >>> sorted(descent(network, problem))
    ['Conv_0', 'classifier']
  """
  variables, synthetic = problem.variables, problem.synthetic
  slope = _slope(network, variables, synthetic.images)
  transpose = _transposed(slope, variables['params'])
  body = transpose(problem.regularized(synthetic.labels))
  return jax.tree.map(lambda x: problem.weight * x, body)


def predictions(
  network: nn.Module,
  variables: Any,
  tangent: Any,
  synthetic: LabeledSet,
  images: jax.Array,
  *,
  level: float | jax.Array,
) -> jax.Array:
  """What the linearised network says of images, with the best w.

  Args:
    network: f.
    variables: where it is linearised.
    tangent: t.
    synthetic: the distilled set, without padding.
    images: `[m, h, w, c]`.
    level: the ridge.

  Returns:
    `[m, k]`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> theta = toy.theta(0)
    >>> t = jax.tree.map(jnp.zeros_like, theta['params'])
    >>> found = predictions(network, theta, t, real, real.images, level=1e-6)
    >>> jnp.abs(found - real.labels).max() < 1e-2
    Array(True, dtype=bool)
  """
  features, shift = outputs(network, variables, tangent, synthetic.images)
  ridge = level * len(features) / jnp.sum(features**2)
  weights = krr.solve(features, synthetic.labels - shift, ridge=ridge)
  features, shift = outputs(network, variables, tangent, images)
  return shift + krr.predict(features, weights)


def coupling(
  network: nn.Module,
  variables: Any,
  tangent: Any,
  adjoint: Any,
  synthetic: LabeledSet,
  *,
  level: float | jax.Array,
) -> jax.Array:
  """Minus the slope of L by t along h, up to what does not depend on (S, Y).

  Its gradient by the distilled set is the implicit gradient, where h solves
  curvature h = slope of the outer loss by t.

  Args:
    network: f.
    variables: where it is linearised.
    tangent: t.
    adjoint: h.
    synthetic: the distilled set, without padding.
    level: the ridge.

  Returns:
    `[]`.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> theta, t = toy.theta(0), toy.theta(1)['params']
    >>> coupling(network, theta, t, t, real, level=0.5).shape
    ()
  """
  slope = _slope(network, variables, synthetic.images)
  kernel = _kernel(network, variables, synthetic.images)
  ridge = level * len(kernel) / jnp.trace(kernel)
  coefficients = krr.solve_kernel(
    kernel, synthetic.labels - slope(tangent), ridge=ridge
  )
  weight = level / synthetic.labels.size
  return weight * jnp.sum(slope(adjoint) * coefficients)
