"""The compiled calls that the stages consist of, on noise of given shapes.

`costs` times them, `scaling` and `roofline` ask the compiler about them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.core import krr_errors, losses, translator_step
from fsdd_jax.data import passes
from fsdd_jax.data.passes import keeps_features
from fsdd_jax.networks import random_networks
from fsdd_jax.networks import translator as translator_lib
from fsdd_jax.networks.fixed import FixedNetwork, maps_for
from fsdd_jax.runtime.devices import devices_for
from fsdd_jax.types import LabeledSet, centered_one_hot, labeled_set

# Of distilled images: a set that equals the real images has no error.
_DISTILLED = 3


@dataclasses.dataclass(frozen=True)
class Problem:
  """The shapes of a stage's networks and real images.

  Attributes:
    network: f.
    image_shape: `(h, w, c)`.
    num_classes: k.
    num_real: target images.
    error: a name in `krr_errors.ERRORS`, which says what is kept of them.
  """

  network: nn.Module
  image_shape: tuple[int, ...]
  num_classes: int
  num_real: int
  error: str = 'squared'

  @property
  def features_of(self) -> losses.FeatureFn:
    """The feature map of the network."""
    return losses.feature_fn(self.network)

  def variables(self) -> Any:
    """A random network."""
    return random_networks.sample(
      jax.random.key(0), self.network, self.image_shape
    )

  def noise(self, count: float, *, seed: int = 1) -> LabeledSet:
    """Random images with labels in turn."""
    labels = jnp.arange(max(1, round(count))) % self.num_classes
    shape = (len(labels), *self.image_shape)
    images = jax.random.normal(jax.random.key(seed), shape)
    return labeled_set(images, centered_one_hot(labels, self.num_classes))

  @property
  def num_features(self) -> int:
    """The number of features d."""
    variables = jax.eval_shape(self.variables)
    return passes.num_features(self.features_of, variables, self.image_shape)

  @property
  def keeps_features(self) -> bool:
    """Whether a network keeps features of real images instead of sums."""
    return keeps_features(
      self.num_real, self.num_features, devices_for(), error=self.error
    )

  def statistics(self) -> krr_errors.Target:
    """What a network keeps of the real images, of noise."""
    batch = self.noise(self.num_classes)
    features = self.features_of(self.variables(), batch.images)
    if not self.keeps_features:
      return krr_errors.statistics(features, batch.labels)
    rows = jnp.arange(self.num_real) % len(features)
    mask = jnp.ones(self.num_real)
    return krr_errors.FeatureSet(features[rows], batch.labels[rows], mask)

  def kept_bytes(self, count: int) -> int:
    """Bytes of some networks with their statistics."""
    kept = self.variables(), self.statistics()
    return count * sum(x.nbytes for x in jax.tree.leaves(kept))


class Program(NamedTuple):
  """A function of arrays, and what to call it with.

  Attributes:
    work: can be jitted.
    make_arguments: makes its arguments; under `jax.eval_shape`, their shapes.
  """

  work: Callable[..., Any]
  make_arguments: Callable[[], tuple[Any, ...]]

  def lowered(self) -> jax.stages.Lowered:
    """The program before the compiler; no argument is made."""
    return jax.jit(self.work).lower(*jax.eval_shape(self.make_arguments))

  def compiled(self) -> jax.stages.Compiled:
    """The program of this device."""
    return self.lowered().compile()


def real_batch(problem: Problem, size: int) -> Program:
  """The statistics of a batch of real images (Alg. 3 and 4, line 9)."""

  def work(variables: Any, batch: LabeledSet) -> Any:
    features = problem.features_of(variables, batch.images)
    if problem.keeps_features:
      return features
    return krr_errors.statistics(features, batch.labels, batch.mask)

  return Program(work, lambda: (problem.variables(), problem.noise(size)))


@functools.cache
def loss_in(
  problem: Problem, loss: str, *, ridge: float, on_images: bool
) -> random_networks.LossFn:
  """A loss of `(variables, set, target)`, the same function for the same input.

  Args:
    problem: its network.
    loss: a name in `losses.LOSSES`.
    ridge: relative ridge.
    on_images: whether targets are real images instead of statistics.
  """
  both = losses.LOSSES[loss]
  one = both.on_images if on_images else both.on_statistics

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    return one(problem.features_of, variables, labeled, target, ridge=ridge)

  return loss_fn


def step(
  problem: Problem,
  num_synthetic: int,
  *,
  loss: str,
  ridge: float,
  num_target: int = 0,
) -> Program:
  """Loss and gradient of X_S and Y_S in one network.

  Alg. 1, lines 15-18; Alg. 3, lines 11-14; Alg. 4, lines 11-16.

  Args:
    problem: networks and real images.
    num_synthetic: distilled images.
    loss: a name in `losses.LOSSES`.
    ridge: relative ridge.
    num_target: real images a step; 0: by the statistics of all.
  """
  loss_fn = loss_in(problem, loss, ridge=ridge, on_images=bool(num_target))

  def of_set(synthetic: LabeledSet, variables: Any, target: Any) -> jax.Array:
    return loss_fn(variables, synthetic, target)

  def make_arguments() -> tuple[LabeledSet, Any, Any]:
    variables, target = problem.variables(), _target(problem, num_target)
    return problem.noise(num_synthetic, seed=_DISTILLED), variables, target

  return Program(jax.value_and_grad(of_set), make_arguments)


def update(
  problem: Problem,
  translator: nn.Module,
  loss_fn: random_networks.LossFn,
  num_synthetic: int,
  *,
  batch_size: int,
  num_target: int = 0,
  networks_per_call: int = 1,
) -> Program:
  """Loss and gradient of a translator on B sets.

  Alg. 2, lines 5-10; Alg. 3, lines 21-25.

  Args:
    problem: networks and real images.
    translator: the module G.
    loss_fn: what `loss_in` gives.
    num_synthetic: distilled images a set.
    batch_size: B.
    num_target: real images a set; 0: by the statistics of all.
    networks_per_call: as for `random_networks.losses_and_gradients`.
  """
  theta = FixedNetwork(problem.network, 0, problem.image_shape)
  maps_of = maps_for(translator, theta)
  work = translator_step.mean_loss_and_gradient(
    translator,
    loss_fn,
    networks_per_call=networks_per_call,
    maps_of=maps_of,
  )

  def make_arguments() -> tuple[Any, tuple[Any, LabeledSet, Any]]:
    params = translator_lib.init(
      jax.random.key(2), translator, problem.image_shape, maps_of
    )['params']
    distilled = problem.noise(num_synthetic, seed=_DISTILLED)
    start = problem.noise(num_synthetic).images
    sample = (
      problem.variables(),
      dataclasses.replace(distilled, start=start),
      _target(problem, num_target),
    )
    return params, jax.tree.map(lambda x: jnp.stack([x] * batch_size), sample)

  return Program(work, make_arguments)


def training_step(problem: Problem, num_images: int) -> Program:
  """Loss and gradient of a network's weights, without augmentation."""

  def loss_of(variables: Any, batch: LabeledSet) -> jax.Array:
    logits, _ = problem.network.apply(variables, batch.images)
    return optax.l2_loss(logits, batch.labels).mean()

  return Program(
    jax.value_and_grad(loss_of),
    lambda: (problem.variables(), problem.noise(num_images)),
  )


def _target(problem: Problem, num_target: int) -> Any:
  return problem.noise(num_target) if num_target else problem.statistics()
