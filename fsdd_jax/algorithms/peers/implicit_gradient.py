"""Direct and implicit gradients of a loss of the linearised network (RCIG)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.algorithms.peers.implicit import (
  InnerProblem,
  body_of,
  coupling,
  curvature,
  descent,
  inner_problem,
)
from fsdd_jax.core import solvers
from fsdd_jax.types import LabeledSet


class Gradients(NamedTuple):
  """What one step knows of the outer loss.

  Attributes:
    loss: `[]`.
    direct: its gradient with the weights held, like what is learned.
    implicit: its gradient through the weights.
    rates: `[2]` that the solver took.
    progress: `[n]` values of the solver's steps, of both problems.

  Example:
    >>> Gradients(0.0, {}, {}, (1e-3, 1e-3), ((), ())).loss
    0.0
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

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> from fsdd_jax.algorithms.peers.implicit import predictions
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> def outer_fn(labeled, t, variables, target):
    ...   found = predictions(
    ...     network, variables, t, labeled, target.images, level=0.1
    ...   )
    ...   return ((found - target.labels) ** 2).mean()
    >>> gradients = gradient_fn(
    ...   network,
    ...   outer_fn,
    ...   fitted_fn=lambda labeled: labeled,
    ...   level_fn=lambda labeled: 0.1,
    ...   solver='cg',
    ...   num_steps=(5, 5),
    ... )
    >>> found = gradients(real, toy.theta(0), real, jnp.zeros(2))
    >>> found.implicit.images.shape
    (3, 8, 8, 3)
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
  """A gradient whose leaves are at most as long as those of another one.

  Example:
    >>> import jax.numpy as jnp
    >>> clipped({'x': jnp.array([3.0, 4.0])}, {'x': jnp.array([1.0])})['x']
    Array([0.6, 0.8], dtype=float32)
  """

  def clip(x: jax.Array, y: jax.Array) -> jax.Array:
    length, limit = jnp.linalg.norm(x.ravel()), jnp.linalg.norm(y.ravel())
    return x * jnp.where(length > limit, limit / length, 1.0)

  return jax.tree.map(clip, gradient, other)
