"""Solves linear equations of a positive matrix that is known by its products.

By steps towards the least of x' A x / 2 - right' x, with x any tree: Adam,
whose rates are found and followed by trial as RCIG does, or conjugate
gradients.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SOLVERS = ('adam', 'cg')

ProductFn = Callable[[Any, Any], Any]

# The search of Adam's rates, and how they follow its progress (RCIG).
_FIRST_RATES = (1e-5, 5e-5)
_GROWTH, _RETREAT = 1.2, 0.7
_WINDOW, _FASTER, _SLOWER = 50, 1.05, 0.9
_SHARE_MONOTONE, _SHARE_FAILED = 0.7, 0.29


class Solver(NamedTuple):
  """Steps towards the x with A x = right; x starts at zero.

  Attributes:
    init: of the right side; a state.
    step: `(problem, right, state, rate) -> (state, value)`, where the value is
      the quadratic before the step, x' A x / 2 - right' x.
    solution: x of a state.
  """

  init: Callable[[Any], Any]
  step: Callable[..., tuple[Any, jax.Array]]
  solution: Callable[[Any], Any] = lambda state: state[0]


def solver(name: str, product_fn: ProductFn) -> Solver:
  """Adam, as RCIG, or conjugate gradients, which take no rate.

  Args:
    name: one of `SOLVERS`.
    product_fn: `(problem, x) -> A x`.

  Returns:
    The solver; each of its steps takes one product, is compiled, and donates
    the state.
  """
  return {'adam': _adam, 'cg': _conjugate_gradients}[name](product_fn)


def _adam(product_fn: ProductFn) -> Solver:
  tx = optax.scale_by_adam()

  def init(right: Any) -> Any:
    x = jax.tree.map(jnp.zeros_like, right)
    return x, tx.init(x)

  @functools.partial(jax.jit, donate_argnums=2)
  def step(
    problem: Any, right: Any, state: Any, rate: jax.Array
  ) -> tuple[Any, jax.Array]:
    x, opt_state = state
    product = product_fn(problem, x)
    value = 0.5 * optax.tree.vdot(x, product) - optax.tree.vdot(right, x)
    slope = jax.tree.map(jnp.subtract, product, right)
    updates, opt_state = tx.update(slope, opt_state)
    x = jax.tree.map(lambda x, update: x - rate * update, x, updates)
    return (x, opt_state), value

  return Solver(init, step)


def _conjugate_gradients(product_fn: ProductFn) -> Solver:
  def init(right: Any) -> Any:
    x = jax.tree.map(jnp.zeros_like, right)
    # Copies, as a step donates them beside the right side itself.
    residual, direction = (jax.tree.map(jnp.array, right) for _ in range(2))
    return x, residual, direction

  @functools.partial(jax.jit, donate_argnums=2)
  def step(
    problem: Any, right: Any, state: Any, rate: jax.Array
  ) -> tuple[Any, jax.Array]:
    del rate
    x, residual, direction = state
    both = jax.tree.map(jnp.add, right, residual)
    value = -0.5 * optax.tree.vdot(x, both)
    product = product_fn(problem, direction)
    old = optax.tree.vdot(residual, residual)
    # Where nothing is left, neither is a direction.
    length = _ratio(old, optax.tree.vdot(direction, product))
    x = _moved(x, length, direction)
    residual = _moved(residual, -length, product)
    new = optax.tree.vdot(residual, residual)
    direction = _moved(residual, _ratio(new, old), direction)
    return (x, residual, direction), value

  return Solver(init, step)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
  return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def _moved(x: Any, length: jax.Array, direction: Any) -> Any:
  return jax.tree.map(lambda a, b: a + length * b, x, direction)


def solve(
  way: Solver, problem: Any, right: Any, rate: Any, num_steps: int
) -> tuple[Any, jax.Array]:
  """Takes steps of a solver.

  The loop stays in Python, as XLA runs convolutions within a compiled loop
  slowly on the CPU.

  Args:
    way: the solver.
    problem: what its products take.
    right: the right side.
    rate: of Adam; `[]`.
    num_steps: products to take.

  Returns:
    x, and the value of the quadratic before each step, `[num_steps]`.
  """
  state, values = way.init(right), []
  for _ in range(num_steps):
    state, value = way.step(problem, right, state, rate)
    values.append(value)
  return way.solution(state), jnp.stack(values)


def is_monotone(values: jax.Array) -> jax.Array:
  """Whether the values `[n]` of a solver's steps fall all the time, `[]`."""
  return jnp.all(values[1:] < values[:-1])


def find_rate(
  values_at: Callable[[jax.Array], jax.Array], first: jax.Array
) -> jax.Array:
  """The largest rate of Adam whose steps all go down, less a margin.

  Args:
    values_at: the values of the steps at a rate.
    first: a rate that is too small.

  Returns:
    `[]`.
  """
  rate = first
  while is_monotone(values_at(rate)):
    rate = rate * _GROWTH
  return rate * _GROWTH * _RETREAT


class Rates(NamedTuple):
  """Adam's rates for two problems, and how their steps went.

  Attributes:
    values: `[2]`.
    monotone: `[2]` int32, how often all steps went down since the last change.
    failed: `[2]` int32, how often the last value was above the first.
  """

  values: jax.Array
  monotone: jax.Array
  failed: jax.Array


def first_rates(*given: float) -> Rates:
  """Rates as they are given, or, for 0, where the search starts."""
  values = [
    own or first for own, first in zip(given, _FIRST_RATES, strict=True)
  ]
  zeros = jnp.zeros(2, jnp.int32)
  return Rates(jnp.array(values, jnp.float32), zeros, zeros)


def followed(
  rates: Rates,
  progress: tuple[jax.Array, jax.Array],
  step: jax.Array | int,
  *,
  given: tuple[bool, bool],
) -> Rates:
  """Rates after a step, which change after each fifty by how these went.

  Where more than a quarter ended above their start, a rate is too large; where
  most fell all the time, it may grow.

  Args:
    rates: before.
    progress: `[n]` values of the solver's steps, of both problems.
    step: number of the step, from 1.
    given: which rates stay as they are.

  Returns:
    The new ones.
  """
  ended_above = jnp.stack([v[-1] > v[0] for v in progress])
  monotone = rates.monotone + jnp.stack([is_monotone(v) for v in progress])
  failed = rates.failed + ended_above
  factor = jnp.where(monotone >= _SHARE_MONOTONE * _WINDOW, _FASTER, 1.0)
  factor = jnp.where(failed >= _SHARE_FAILED * _WINDOW, _SLOWER, factor)
  due = jnp.asarray(step) % _WINDOW == 0
  factor = jnp.where(due & ~jnp.array(given), factor, 1.0)
  return Rates(
    rates.values * factor,
    jnp.where(due, 0, monotone),
    jnp.where(due, 0, failed),
  )
