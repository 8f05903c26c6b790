"""Seconds and memory of the calls of `programs`, timed on this device."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fsdd_jax.data import passes
from measures import programs
from measures.programs import Problem, Program

_TIMED_CALLS = 4
_SECONDS = 2.0  # After which no further call is timed.


class Estimate(NamedTuple):
  """What some work takes.

  Attributes:
    seconds: without compilation.
    num_bytes: at most held on the device at once: arguments, results and
      temporaries of compiled calls, and what stays between them.
  """

  seconds: float
  num_bytes: int

  def times(self, count: float) -> 'Estimate':
    """The same work several times."""
    return Estimate(count * self.seconds, self.num_bytes if count else 0)

  def then(self, *others: 'Estimate') -> 'Estimate':
    """This work and other work after it."""
    parts = (self, *others)
    return Estimate(
      sum(part.seconds for part in parts),
      max(part.num_bytes for part in parts),
    )

  def beside(self, num_bytes: float) -> 'Estimate':
    """This work while more is held on the device."""
    return Estimate(self.seconds, self.num_bytes + round(num_bytes))


NOTHING = Estimate(0.0, 0)


def measure(program: Program) -> Estimate:
  """Compiles a program, times it, and asks the compiler for its memory.

  Returns:
    The median seconds of a call, and its bytes (0 where the platform's
    compiler does not say).
  """
  compiled, arguments = program.compiled(), program.make_arguments()
  seconds: list[float] = []
  while len(seconds) < _TIMED_CALLS and sum(seconds) < _SECONDS:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
  analysis = compiled.memory_analysis()
  num_bytes = analysis and (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    + analysis.temp_size_in_bytes
  )
  # The first call warms up, which does not matter where it alone is long.
  return Estimate(float(np.median(seconds[1:] or seconds)), num_bytes or 0)


@functools.cache
def of(
  make: Callable[..., Program], *arguments: Any, **options: Any
) -> Estimate:
  """What a call of `programs` takes; each is measured once."""
  return measure(make(*arguments, **options))


def real_pass(problem: Problem) -> Estimate:
  """One pass over all real images in one network (Alg. 3 and 4, line 9)."""
  pixels = np.zeros((problem.num_real, *problem.image_shape[:2]), bool)
  sizes = [len(rows) for rows, _, _ in passes.batches(pixels, pixels)]
  return of(programs.real_batch, problem, sizes[0]).times(len(sizes))
