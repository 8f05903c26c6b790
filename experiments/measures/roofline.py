"""How near a program comes to what this device can do at most.

A program does operations and moves bytes. Neither can go faster than large
matrix products and copies do on the same device: those are the ceilings.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.runtime import operations
from measures import programs, timing
from measures.programs import Problem, Program


class Ceilings(NamedTuple):
  """What the device reaches at most.

  Attributes:
    flops: operations a second, of matrix products by their precision.
    num_bytes: a second, read and written.
  """

  flops: dict[str, float]
  num_bytes: float


class Reached(NamedTuple):
  """What a program does in a call.

  Attributes:
    seconds: of a call, the median.
    flops: operations, by the program before the compiler.
    num_bytes: read and written, by the compiled program.
  """

  seconds: float
  flops: float
  num_bytes: float

  def shares(self, ceilings: Ceilings) -> dict[str, float]:
    """Of each ceiling; the largest one that applies is what holds a call."""
    found = {
      name: self.flops / self.seconds / most
      for name, most in ceilings.flops.items()
    }
    memory = self.num_bytes / self.seconds / ceilings.num_bytes
    return {**found, 'memory': memory}


def of_stages(
  problem: Problem,
  translator: nn.Module,
  *,
  batch_size: int,
  num_distilled: int,
  cached: tuple[int, int],
) -> dict[str, Program]:
  """A step of each stage, by its name.

  Args:
    problem: networks and real images.
    translator: the module G.
    batch_size: sets of an update of the translator.
    num_distilled: images of a distilled set of the target set.
    cached: distilled and real images of a subset of the large set.
  """
  synthetic, target = cached
  loss: dict[str, Any] = {'loss': 'squared', 'ridge': 1e-6}

  def updated(num_synthetic: int, num_target: int) -> Program:
    loss_fn = programs.loss_in(problem, **loss, on_images=bool(num_target))
    return programs.update(
      problem,
      translator,
      loss_fn,
      num_synthetic,
      batch_size=batch_size,
      num_target=num_target,
    )

  return {
    'caching': programs.step(problem, synthetic, **loss, num_target=target),
    'pre-training': updated(synthetic, target),
    'statistics, a batch': programs.real_batch(
      problem, min(problem.num_real, 256)
    ),
    'distillation': programs.step(problem, num_distilled, **loss),
    'adaptation': updated(num_distilled, 0),
  }


def ceilings(*, size: int, num_bytes: int, repeats: int) -> Ceilings:
  """Measures large matrix products, and a scaled copy.

  Args:
    size: rows and columns of the matrices.
    num_bytes: of the array that is copied; much more than fits any cache.
    repeats: timed calls of each; the fastest counts.

  Returns:
    The ceilings of the default device.
  """
  a = jax.random.normal(jax.random.key(0), (size, size))
  x = jnp.ones(num_bytes // 4)
  product = jax.jit(jnp.matmul, static_argnames='precision')
  scale = jax.jit(lambda x: 2 * x)
  half = a.astype(jnp.bfloat16)
  calls: dict[str, timing.Call] = {
    'float32': lambda: product(a, a, precision='float32'),
    'TF32': lambda: product(a, a, precision='tensorfloat32'),
    'bfloat16': lambda: product(half, half),
    'memory': lambda: scale(x),
  }
  seconds = timing.in_turn(calls, repeats=repeats)
  best = {name: min(each) for name, each in seconds.items()}
  memory = best.pop('memory')
  flops = {name: 2 * size**3 / least for name, least in best.items()}
  return Ceilings(flops, 2 * x.nbytes / memory)


def reached(program: Program, *, repeats: int) -> Reached:
  """Runs a program; counts its operations, and asks what memory it moves.

  Args:
    program: one of `programs`.
    repeats: timed calls; the median counts.
  """
  compiled, arguments = program.compiled(), program.make_arguments()
  seconds = timing.in_turn(
    {'call': lambda: compiled(*arguments)}, repeats=repeats
  )['call']
  return Reached(
    float(np.median(seconds)),
    operations.count(program.work, *jax.eval_shape(program.make_arguments)),
    (compiled.cost_analysis() or {}).get('bytes accessed', float('nan')),
  )
