"""What a step or a stage costs beside a yardstick, timed in one process.

Seconds of a machine that others use too mean little; both sides of a ratio
run in turn, so that what slows one slows the other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms import bilevel
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.core import distill_step, losses
from fsdd_jax.data import datasets, passes
from fsdd_jax.data.normalization import standardization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import random_networks
from fsdd_jax.types import LabeledSet, centered_one_hot, labeled_set
from measures import timing

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Seconds of a call and of its yardstick, measured in turn.

  Attributes:
    measured: of each call.
    yardstick: of its yardstick, at the same place.
  """

  measured: Sequence[float]
  yardstick: Sequence[float]

  @property
  def ratios(self) -> list[float]:
    """Seconds of each call over those of its yardstick."""
    pairs = zip(self.measured, self.yardstick, strict=True)
    return [measured / yardstick for measured, yardstick in pairs]


def time_pairs(
  measured: timing.Call, yardstick: timing.Call, *, repeats: int
) -> Pairs:
  """Times a call and its yardstick in turn, as `timing.in_turn` does.

  Args:
    measured: a call that returns arrays, for which it waits.
    yardstick: likewise.
    repeats: number of pairs.

  Returns:
    The seconds of both.
  """
  calls = {'measured': measured, 'yardstick': yardstick}
  return Pairs(**timing.in_turn(calls, repeats=repeats))


def distillation_step(
  network: nn.Module,
  *,
  num_real: int,
  ipc: int,
  image_size: int,
  repeats: int,
) -> Pairs:
  """A step by statistics over the forward and backward pass of X_S alone.

  Alg. 4, lines 10-15, in a fixed network. Images are noise, of ten classes.

  Args:
    network: f.
    num_real: size of the target set.
    ipc: distilled images per class.
    image_size: height and width.
    repeats: number of timed pairs.

  Returns:
    Seconds of a step, and of its yardstick.
  """
  dataset = noise(num_real, image_size)
  features_of = losses.feature_fn(network)
  variables = random_networks.sample(
    jax.random.key(0), network, (image_size, image_size, 3)
  )
  synthetic = noisy_set(ipc, image_size)
  stats = passes.target_statistics(
    features_of,
    variables,
    dataset.images,
    TargetSet(dataset, standardization(dataset.images)).labels,
    standardization(dataset.images[:1000]),
  )
  tx = distill_step.make_optimizer('adam', 1e-3)
  step_fn = distill_step.make_step(
    lambda s, v, stats: losses.krr_loss_from_statistics(
      features_of, v, s, stats, ridge=1e-6
    ),
    tx,
  )
  state = distill_step.init_state(synthetic, tx)

  def step() -> distill_step.Metrics:
    nonlocal state  # As each step donates it.
    state, values = step_fn(state, variables, stats)
    return values

  images = synthetic.images
  cotangent = jnp.ones_like(features_of(variables, images))

  @jax.jit
  def yardstick(images: jax.Array, cotangent: jax.Array) -> jax.Array:
    return pulled_back(features_of, variables, images, cotangent)

  return time_pairs(step, lambda: yardstick(images, cotangent), repeats=repeats)


def unrolled_memory(
  network: nn.Module,
  config: BilevelConfig,
  *,
  num_real: int,
  ipc: int,
  image_size: int,
) -> int:
  """Temporary bytes of the gradient of Bi-Level, by the compiled program.

  Nothing is run. Arguments and results, which the steps do not change, are
  not counted.

  Args:
    network: f.
    config: number of unrolled steps, truncation, and whether steps are
      computed again.
    num_real: size of the target set, of ten classes.
    ipc: distilled images per class.
    image_size: height and width.

  Returns:
    Bytes.

  Raises:
    RuntimeError: on a platform whose compiler does not say.
  """
  variables = random_networks.sample(
    jax.random.key(0), network, (image_size, image_size, 3)
  )
  gradient = jax.jit(
    jax.grad(bilevel.unrolled_loss(losses.feature_fn(network), config=config))
  )
  start = noisy_set(ipc, image_size)
  target = noisy_set(num_real // NUM_CLASSES, image_size)
  lowered = gradient.lower(variables['params'], variables, start, target)
  analysis = lowered.compile().memory_analysis()
  if analysis is None:
    raise RuntimeError(
      'The compiler of this platform knows no memory; use CPU.'
    )
  return analysis.temp_size_in_bytes


def pulled_back(
  features_of: losses.FeatureFn,
  variables: Any,
  images: jax.Array,
  cotangent: jax.Array,
) -> jax.Array:
  """Forward pass of images, and the backward pass down to them.

  The cotangent of features is an argument, as the compiler would fold what
  follows from a constant one, and save the yardstick work.
  """
  _, pull_back = jax.vjp(lambda x: features_of(variables, x), images)
  return pull_back(cotangent)[0]


def noise(num_images: int, image_size: int) -> datasets.Dataset:
  """Random pixels with labels in turn."""
  shape = (num_images, image_size, image_size, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  return datasets.from_arrays(images, np.arange(num_images) % NUM_CLASSES)


def noisy_set(ipc: int, image_size: int) -> LabeledSet:
  """A set of normal noise, with centred labels and a start."""
  classes = jnp.tile(jnp.arange(NUM_CLASSES), ipc)
  shape = (len(classes), image_size, image_size, 3)
  images = jax.random.normal(jax.random.key(2), shape)
  start = jax.random.normal(jax.random.key(3), shape)
  labels = centered_one_hot(classes, NUM_CLASSES)
  return dataclasses.replace(labeled_set(images, labels), start=start)
