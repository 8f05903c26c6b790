"""Implicit gradients of a network linearised in its weights (RCIG's problem).

With f the features and J the slope of the logits by all weights but those of
the classifier, the network z -> J(z) t + f(z) w is linear in t and w. For any t
the best w on the distilled set (S, Y) is kernel ridge regression of Y - J t,
with K = f f'; what is left is a convex quadratic in t alone,

  L(t) = level / (2 n k) (tr (Y - J t)' (K + level)^-1 (Y - J t) + ||t||^2),

whose minimum, by which an outer loss is scored, depends on S and Y.

`n` denotes the images of S, `k` the classes, `level` the ridge.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from fsdd_jax.core import krr, losses, solvers
from fsdd_jax.types import LabeledSet


@flax.struct.dataclass
class InnerProblem:
  """What is the same for all steps on t.

  Attributes:
    variables: of the network that is linearised.
    synthetic: the distilled set (S, Y), without padding.
    factor: `[n, n]` lower Cholesky factor of K + level.
    level: `[]`.
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
  """The same tree, zero at the classifier's weights, which w stands for."""
  classifier = params['classifier']
  kernel = jnp.zeros_like(classifier['kernel'])
  return {**params, 'classifier': {**classifier, 'kernel': kernel}}


def outputs(
  network: nn.Module, variables: Any, tangent: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Features f `[n, d]` and J t `[n, k]` of images `[n, h, w, c]`.

  Args:
    network: returns logits and features; its classifier has this name.
    variables: where it is linearised.
    tangent: t, a tree like its parameters.
    images: the images.
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
  """
  kernel = _kernel(network, variables, synthetic.images)
  ridge = jnp.asarray(level, kernel.dtype)
  factor = jnp.linalg.cholesky(kernel + jnp.diag(jnp.full(len(kernel), ridge)))
  return InnerProblem(variables, synthetic, factor, ridge)


def curvature(network: nn.Module, problem: InnerProblem, tangent: Any) -> Any:
  """The second derivative of L times a tree t."""
  slope = _slope(network, problem.variables, problem.synthetic.images)
  body = _transposed(slope, tangent)(problem.regularized(slope(tangent)))
  return jax.tree.map(lambda x, y: problem.weight * (x + y), body, tangent)


def descent(network: nn.Module, problem: InnerProblem) -> Any:
  """The negative slope of L at t = 0."""
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
  """What the linearised network says of images, with the best w, `[m, k]`.

  Args:
    network: f.
    variables: where it is linearised.
    tangent: t.
    synthetic: the distilled set, without padding.
    images: `[m, h, w, c]`.
    level: the ridge.
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
  """
  slope = _slope(network, variables, synthetic.images)
  kernel = _kernel(network, variables, synthetic.images)
  ridge = level * len(kernel) / jnp.trace(kernel)
  coefficients = krr.solve_kernel(
    kernel, synthetic.labels - slope(tangent), ridge=ridge
  )
  weight = level / synthetic.labels.size
  return weight * jnp.sum(slope(adjoint) * coefficients)


class Gradients(NamedTuple):
  """What one step knows of the outer loss.

  Attributes:
    loss: `[]`.
    direct: its gradient with the weights held, like what is learned.
    implicit: its gradient through the weights.
    rates: `[2]` that the solver took.
    progress: `[n]` values of the solver's steps, of both problems.
  """

  loss: jax.Array
  direct: Any
  implicit: Any
  rates: jax.Array
  progress: tuple[jax.Array, jax.Array]


def gradient_fn(
  network: nn.Module,
  outer_fn: Callable[..., jax.Array],
  *,
  fitted_fn: Callable[[Any], LabeledSet],
  level_fn: Callable[[Any], float],
  solver: str,
  num_steps: Sequence[int],
) -> Callable[..., Gradients]:
  """Builds the gradients of an outer loss by what makes the distilled set.

  Args:
    network: f.
    outer_fn: of what is learned, t, the network's variables and a target.
    fitted_fn: the distilled set that a tree of learned values makes.
    level_fn: the ridge for these.
    solver: a name of `solvers.SOLVERS`.
    num_steps: of it, for t and for the implicit gradient.

  Returns:
    `gradients(learned, variables, target, rates, search=None)`, with rates
    `[2]` of Adam; a pair of booleans for `search` finds those that are not
    given.
  """
  way = solvers.solver(solver, functools.partial(curvature, network))
  outer = jax.jit(jax.value_and_grad(outer_fn, argnums=(0, 1)))

  @jax.jit
  def prepare(variables: Any, learned: Any) -> tuple[InnerProblem, Any]:
    problem = inner_problem(
      network, variables, fitted_fn(learned), level_fn(learned)
    )
    return problem, descent(network, problem)

  @jax.jit
  def through(learned: Any, variables: Any, t: Any, adjoint: Any) -> Any:
    def loss(learned: Any) -> jax.Array:
      return coupling(
        *(network, variables, t, adjoint, fitted_fn(learned)),
        level=level_fn(learned),
      )

    return jax.grad(loss)(learned)

  def gradients(
    learned: Any,
    variables: Any,
    target: Any,
    rates: jax.Array,
    search: tuple[bool, bool] | None = None,
  ) -> Gradients:
    found: list[jax.Array] = []
    progress: list[jax.Array] = []

    def solved(which: int, right: Any) -> Any:
      run = functools.partial(
        solvers.solve, way, problem, right, num_steps=num_steps[which]
      )
      rate = rates[which]
      if search and not search[which]:
        rate = solvers.find_rate(lambda rate: run(rate)[1], rate)
      solution, values = run(rate)
      found.append(rate)
      progress.append(values)
      return solution

    problem, right = prepare(variables, learned)
    t = solved(0, right)
    loss, (direct, slope) = outer(learned, t, variables, target)
    adjoint = solved(1, body_of(slope))
    implicit = through(learned, variables, t, adjoint)
    return Gradients(
      loss, direct, implicit, jnp.stack(found), (progress[0], progress[1])
    )

  return gradients


def clipped(gradient: Any, other: Any) -> Any:
  """A gradient whose leaves are at most as long as those of another one."""

  def clip(x: jax.Array, y: jax.Array) -> jax.Array:
    length, limit = jnp.linalg.norm(x.ravel()), jnp.linalg.norm(y.ravel())
    return x * jnp.where(length > limit, limit / length, 1.0)

  return jax.tree.map(clip, gradient, other)
