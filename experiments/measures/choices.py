"""Ways to compute the same, of which each device prefers another.

How many networks run side by side, a convolution or a product of patches and
weights, the precision of features, regressions one after another or side by
side, and steps compiled together: timed in turn on the device at hand.
`docs/accelerators.md` has what was measured where.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms import subset_step
from fsdd_jax.core import distill_step, krr, krr_errors
from fsdd_jax.networks.layers import by_patches
from measures import programs, timing
from measures.programs import Problem, Program

# What JAX calls the precision of products of float32, and the type in which
# convolutions compute.
PRECISIONS: dict[str, tuple[str, Any]] = {
  'float32': ('float32', None),
  'TF32': ('tensorfloat32', None),
  'bfloat16': ('float32', jnp.bfloat16),
}


class Choice(NamedTuple):
  """One way, timed.

  Attributes:
    seconds: of each call.
    error: how far its results are from those of the first way, relative to
      their norm.
  """

  seconds: Sequence[float]
  error: float


def networks_side_by_side(
  problem: Problem,
  translator: nn.Module,
  *,
  num_synthetic: int,
  batch_size: int,
  per_call: Sequence[int],
  repeats: int,
) -> dict[str, Choice]:
  """Updates of a translator on B sets, by how networks run and convolve.

  Args:
    problem: networks and real images.
    translator: the module G.
    num_synthetic: distilled images a set.
    batch_size: B.
    per_call: networks that run at once; each divides B.
    repeats: timed rounds.

  Returns:
    Each way by a name for tables.
  """
  ways = {}
  for name, network in (
    ('convolution', problem.network),
    ('patches', by_patches(problem.network)),
  ):
    same = dataclasses.replace(problem, network=network)
    loss_fn = programs.loss_in(same, 'squared', ridge=1e-6, on_images=False)
    for count in per_call:
      ways[f'{name}, {count} at once'] = programs.update(
        same,
        translator,
        loss_fn,
        num_synthetic,
        batch_size=batch_size,
        networks_per_call=count,
      )
  return _timed(ways, repeats=repeats)


def precisions(
  problem: Problem, *, num_synthetic: int, repeats: int
) -> dict[str, Choice]:
  """Losses and gradients of X_S, by the precision of features.

  The closed form stays in float32 in each.

  Args:
    problem: networks and real images.
    num_synthetic: distilled images.
    repeats: timed rounds.

  Returns:
    The precisions of `PRECISIONS`.
  """
  ways = {}
  for name, (precision, dtype) in PRECISIONS.items():
    same = dataclasses.replace(
      problem, network=problem.network.clone(dtype=dtype)
    )
    program = programs.step(same, num_synthetic, loss='squared', ridge=1e-6)
    ways[name] = program._replace(work=_in_precision(precision, program.work))
  return _timed(ways, repeats=repeats)


def _in_precision(precision: str, work: Any) -> Any:
  @functools.wraps(work)
  def within(*arguments: Any) -> Any:
    with jax.default_matmul_precision(precision):
      return work(*arguments)

  return within


def regressions(
  problem: Problem,
  *,
  num_synthetic: int,
  num_target: int,
  subsets: int,
  repeats: int,
) -> dict[str, Choice]:
  """Losses and gradients of subsets by their features, as caching has them.

  Args:
    problem: its network says how many features there are.
    num_synthetic: distilled images a subset.
    num_target: real images a subset.
    subsets: how many there are.
    repeats: timed rounds.

  Returns:
    One regression after another, and all side by side.
  """
  num_features = problem.num_features

  def loss_of(*subset: Any) -> jax.Array:
    features, labels, mask, target = subset
    weights = krr.solve(features, labels, ridge=1e-6, mask=mask)
    return krr_errors.error_on('scale_free', weights, target)

  def total(features: jax.Array, labels: jax.Array, *rest: Any) -> jax.Array:
    solve_all, mask, targets = rest
    return solve_all(loss_of, (features, labels, mask), targets).sum()

  def make_arguments() -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 2 + subsets)
    sizes = subsets, num_synthetic, num_features
    labels = jnp.eye(problem.num_classes)[
      jnp.arange(max(num_synthetic, num_target)) % problem.num_classes
    ]
    own = jnp.stack([labels[:num_synthetic]] * subsets)
    targets = [
      krr_errors.FeatureSet(
        jax.random.normal(key, (num_target, num_features), jnp.float16),
        labels[:num_target],
        jnp.ones(num_target),
      )
      for key in keys[2:]
    ]
    features = jax.random.normal(keys[0], sizes)
    return features, own, jnp.ones(sizes[:2]), targets

  ways = {
    name: Program(
      lambda features, labels, mask, targets, way=way: jax.grad(total, (0, 1))(
        features, labels, way, mask, targets
      ),
      make_arguments,
    )
    for name, way in (
      ('one after another', subset_step.one_after_another),
      ('side by side', subset_step.side_by_side),
    )
  }
  return _timed(ways, repeats=repeats)


def steps_together(
  problem: Problem, *, num_synthetic: int, num_steps: int, repeats: int
) -> dict[str, Choice]:
  """Steps on X_S in one network, one call a step against one call for all.

  Args:
    problem: networks and real images.
    num_synthetic: distilled images.
    num_steps: steps of either way.
    repeats: timed rounds.

  Returns:
    Both ways, with the seconds of all steps.
  """
  loss_fn = programs.loss_in(problem, 'squared', ridge=1e-6, on_images=False)
  tx = distill_step.make_optimizer('adam', 1e-3)
  step = distill_step.make_step(lambda x, v, stats: loss_fn(v, x, stats), tx)
  program = programs.step(problem, num_synthetic, loss='squared', ridge=1e-6)
  start, *inputs = program.make_arguments()

  def one_by_one() -> Any:
    state = distill_step.init_state(start, tx)
    for _ in range(num_steps):
      state, _ = step(state, *inputs)
    return state.synthetic

  @jax.jit
  def scanned(state: distill_step.DistillState, *inputs: Any) -> Any:
    return jax.lax.scan(
      lambda state, _: step(state, *inputs), state, length=num_steps
    )[0]

  calls = {
    f'{num_steps} calls of a step': one_by_one,
    f'a call of {num_steps} steps': lambda: (
      scanned(distill_step.init_state(start, tx), *inputs).synthetic
    ),
  }
  return _compared(calls, repeats=repeats)


def _timed(ways: Mapping[str, Program], *, repeats: int) -> dict[str, Choice]:
  """Compiles programs that compute the same, and times them."""
  compiled = {name: program.compiled() for name, program in ways.items()}
  arguments = next(iter(ways.values())).make_arguments()
  calls = {
    name: functools.partial(program, *arguments)
    for name, program in compiled.items()
  }
  return _compared(calls, repeats=repeats)


def _compared(
  calls: Mapping[str, timing.Call], *, repeats: int
) -> dict[str, Choice]:
  results = {name: _flat(call()) for name, call in calls.items()}
  first = next(iter(results.values()))
  found = timing.in_turn(calls, repeats=repeats)
  return {
    name: Choice(
      found[name],
      float(np.linalg.norm(results[name] - first) / np.linalg.norm(first)),
    )
    for name in calls
  }


def _flat(tree: Any) -> np.ndarray:
  leaves = (np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree))
  return np.concatenate(list(leaves))
