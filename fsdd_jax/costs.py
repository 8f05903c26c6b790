"""Seconds and memory of the compiled calls that the stages consist of.

A pass over real images, a step on X_S, an update of a translator, a step of
training: each is compiled for given shapes, and timed on noise on this device.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax import krr, objective, random_networks, translator_step
from fsdd_jax.types import LabeledSet, centered_one_hot, labeled_set

_TIMED_CALLS = 4
_SECONDS = 2.0  # After which no further call is timed.


class Estimate(NamedTuple):
  """What some work takes.

  Attributes:
    seconds: without compilation.
    num_bytes: at most held on the device at once: arguments, results and
      temporaries of compiled calls, and what stays between them.

  Example:
    >>> Estimate(2.0, 100).times(3).then(Estimate(1.0, 200))
    Estimate(seconds=7.0, num_bytes=200)
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


@dataclasses.dataclass(frozen=True)
class Problem:
  """The shapes of a stage's networks and real images.

  Attributes:
    network: f.
    image_shape: `(h, w, c)`.
    num_classes: k.
    num_real: target images.

  Example:
    >>> from fsdd_jax import toy
    >>> Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24).num_real
    24
  """

  network: nn.Module
  image_shape: tuple[int, ...]
  num_classes: int
  num_real: int

  @property
  def features_of(self) -> objective.FeatureFn:
    """The feature map of the network."""
    return objective.feature_fn(self.network)

  def variables(self) -> Any:
    """A random network."""
    return random_networks.sample(
      jax.random.key(0), self.network, self.image_shape
    )

  def noise(self, count: float) -> LabeledSet:
    """Random images with labels in turn."""
    labels = jnp.arange(max(1, round(count))) % self.num_classes
    shape = (len(labels), *self.image_shape)
    images = jax.random.normal(jax.random.key(1), shape)
    return labeled_set(images, centered_one_hot(labels, self.num_classes))

  def statistics(self) -> krr.Statistics:
    """Sums over real images, as of one batch of them."""
    batch = self.noise(self.num_classes)
    features = self.features_of(self.variables(), batch.images)
    return krr.statistics(features, batch.labels)

  def kept_bytes(self, count: int) -> int:
    """Bytes of some networks with their statistics."""
    kept = self.variables(), self.statistics()
    return count * sum(x.nbytes for x in jax.tree.leaves(kept))


def measure(work: Callable[..., Any], *arguments: Any) -> Estimate:
  """Compiles a function, times it, and asks the compiler for its memory.

  Args:
    work: a function of arrays, which can be jitted.
    *arguments: its arguments.

  Returns:
    The median seconds of a call, and its bytes (0 where the platform's
    compiler does not tell).

  Example:
    >>> import jax.numpy as jnp
    >>> found = measure(lambda x: x @ x, jnp.ones((64, 64)))
    >>> found.num_bytes >= 2 * 64 * 64 * 4, found.seconds > 0
    (True, True)
  """
  compiled = jax.jit(work).lower(*arguments).compile()
  seconds: list[float] = []
  while len(seconds) < _TIMED_CALLS and sum(seconds) < _SECONDS:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
  told = compiled.memory_analysis()
  num_bytes = told and (
    told.argument_size_in_bytes
    + told.output_size_in_bytes
    + told.temp_size_in_bytes
  )
  # The first call warms up, which does not matter where it alone is long.
  return Estimate(float(np.median(seconds[1:] or seconds)), num_bytes or 0)


@functools.cache
def real_pass(problem: Problem) -> Estimate:
  """One pass over all real images in one network (Alg. 3 and 4, line 9).

  Example:
    >>> from fsdd_jax import toy
    >>> problem = Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)
    >>> real_pass(problem).seconds > 0
    True
  """
  pixels = np.zeros((problem.num_real, *problem.image_shape[:2]), bool)
  sizes = [len(rows) for rows, _, _ in objective.batches(pixels, pixels)]
  batch = problem.noise(sizes[0])

  def work(variables: Any, batch: LabeledSet) -> krr.Statistics:
    features = problem.features_of(variables, batch.images)
    return krr.statistics(features, batch.labels, batch.mask)

  return measure(work, problem.variables(), batch).times(len(sizes))


@functools.cache
def step(
  problem: Problem,
  num_synthetic: int,
  *,
  loss: str,
  ridge: float,
  real_batch: int = 0,
) -> Estimate:
  """Loss and gradient of X_S and Y_S in one network (Alg. 4, lines 11-16).

  Args:
    problem: networks and real images.
    num_synthetic: distilled images.
    loss: a name in `objective.LOSSES`.
    ridge: relative ridge.
    real_batch: real images a step; 0: by the statistics of all.

  Example:
    >>> from fsdd_jax import toy
    >>> problem = Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)
    >>> step(problem, 6, loss='squared', ridge=1e-6).seconds > 0
    True
  """
  both = objective.LOSSES[loss]
  loss_fn = both.on_images if real_batch else both.on_statistics
  target = (
    problem.noise(min(real_batch, problem.num_real))
    if real_batch
    else problem.statistics()
  )

  def of_set(synthetic: LabeledSet, variables: Any, target: Any) -> jax.Array:
    return loss_fn(
      problem.features_of, variables, synthetic, target, ridge=ridge
    )

  synthetic = problem.noise(num_synthetic)
  work = jax.value_and_grad(of_set)
  return measure(work, synthetic, problem.variables(), target)


@functools.cache
def update(
  problem: Problem,
  translator: nn.Module,
  loss_fn: random_networks.LossFn,
  num_synthetic: int,
  *,
  batch_size: int,
  target_images: int = 0,
) -> Estimate:
  """An update of a translator on B sets (Alg. 2, lines 5-11).

  Args:
    problem: networks and real images.
    translator: the module G.
    loss_fn: of `(variables, set, target)`.
    num_synthetic: distilled images a set.
    batch_size: B.
    target_images: real images a set; 0: by the statistics of all.

  Example:
    >>> from fsdd_jax import toy
    >>> problem = Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)
    >>> loss_fn = lambda variables, labeled, stats: labeled.images.sum()
    >>> g = toy.translator().translator
    >>> update(problem, g, loss_fn, 6, batch_size=1).seconds > 0
    True
  """
  target = (
    problem.noise(target_images) if target_images else problem.statistics()
  )
  one = problem.variables(), problem.noise(num_synthetic), target
  batch = jax.tree.map(lambda x: jnp.stack([x] * batch_size), one)
  work = translator_step.mean_loss_and_gradient(translator, loss_fn)
  params = random_networks.sample(
    jax.random.key(2), translator, problem.image_shape
  )['params']
  return measure(work, params, batch)


@functools.cache
def training_step(problem: Problem, num_images: int) -> Estimate:
  """Loss and gradient of a network's weights, without augmentation.

  Example:
    >>> from fsdd_jax import toy
    >>> problem = Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)
    >>> training_step(problem, 6).seconds > 0
    True
  """

  def loss_of(variables: Any, batch: LabeledSet) -> jax.Array:
    logits, _ = problem.network.apply(variables, batch.images)
    return optax.l2_loss(logits, batch.labels).mean()

  work = jax.value_and_grad(loss_of)
  return measure(work, problem.variables(), problem.noise(num_images))
