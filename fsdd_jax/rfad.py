"""RFAD: distillation in several fresh networks a step (Loo et al., 2022).

Their features side by side are a random feature approximation of the NNGP
kernel; the loss is the cross-entropy of scaled predictions (Platt).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax import (
  baselines,
  krr,
  objective,
  peers,
  random_networks,
)
from fsdd_jax.configs import DistillationConfig
from fsdd_jax.datasets import Dataset
from fsdd_jax.distill_loop import distill_from, in_features
from fsdd_jax.normalization import Normalization
from fsdd_jax.peer_configs import RfadConfig
from fsdd_jax.stage_loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.types import LabeledSet

# K = 2 F F' + 0.01, RFAD's kernel of features F.
_GAIN, _OFFSET = 2.0, 0.01
_NEWTON_STEPS = 8
_LOG_SCALES = (-3.0, 6.0)


def random_features(features_of: objective.FeatureFn) -> objective.FeatureFn:
  """Features of several networks at once, whose Gram matrix is RFAD's kernel.

  Args:
    features_of: those `[n, d]` of one network.

  Returns:
    A function of a tuple of N networks' variables and images; `[n, N d + 1]`.

  Example:
    >>> import jax.numpy as jnp
    >>> features_of = random_features(lambda scale, x: scale * x)
    >>> features = features_of((1.0, 2.0), jnp.ones((1, 3)))
    >>> round(float((features @ features.T).item()), 3)
    5.01
  """

  def extract(networks: tuple[Any, ...], images: jax.Array) -> jax.Array:
    parts = [features_of(variables, images) for variables in networks]
    features = jnp.concatenate(parts, axis=1)
    scaled = features * (_GAIN / features.shape[1]) ** 0.5
    offset = jnp.full((len(images), 1), _OFFSET**0.5, scaled.dtype)
    return jnp.concatenate([scaled, offset], axis=1)

  return extract


def platt_error(
  weights: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Cross-entropy of predictions under their best scale on this batch.

  RFAD learns the scale beside the images; here it is the minimum, by Newton's
  method in its logarithm, which leaves nothing to tune or save. The gradient
  needs no share of it, as the derivative by the scale is zero there.

  Args:
    weights: `[d, k]` from `krr.solve`.
    features: `[n, d]` of the target images.
    labels: `[n, k]`, of which the largest is an image's class.
    mask: `[n]`, 1 for an image and 0 for padding; all ones by default.

  Returns:
    `[]` mean over images.

  Example:
    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> guesses = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> error = lambda scale: platt_error(scale * jnp.eye(2), guesses, labels)
    >>> round(error(1.0).item(), 3), round(error(5.0).item(), 3)
    (0.637, 0.637)
  """
  predictions = krr.predict(features, weights)
  classes = jnp.argmax(labels, axis=1)
  mask = jnp.ones(len(features)) if mask is None else mask

  def cross_entropy(log_scale: jax.Array, predictions: jax.Array) -> jax.Array:
    log_shares = jax.nn.log_softmax(jnp.exp(log_scale) * predictions)
    own = jnp.take_along_axis(log_shares, classes[:, None], axis=1)[:, 0]
    return -jnp.sum(own * mask) / jnp.maximum(mask.sum(), 1.0)

  fixed = jax.lax.stop_gradient(predictions)
  slope = jax.grad(cross_entropy)
  # In units of the predictions, so that none are too small or large.
  size = jnp.sqrt(jnp.mean(fixed**2)) + jnp.finfo(fixed.dtype).tiny
  shift = jnp.log(size)
  log_scale = jnp.zeros(())
  for _ in range(_NEWTON_STEPS):
    first = slope(log_scale - shift, fixed)
    second = jax.grad(slope)(log_scale - shift, fixed)
    move = first / jnp.maximum(jnp.abs(second), 1e-3)
    log_scale = jnp.clip(log_scale - jnp.clip(move, -1.0, 1.0), *_LOG_SCALES)
  return cross_entropy(jax.lax.stop_gradient(log_scale - shift), predictions)


def distill(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  own: RfadConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
) -> baselines.DistillationResult:
  """Distils a target set by RFAD.

  Not taken over: its linear map from parameters to images, and float64.

  Args:
    network: f, whose weights are drawn N times anew at each step.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: steps, optimiser, ridge, real images a step; its numbers of networks
      play no part.
    own: N, and the loss.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.
    start: the set before the first step; random real images by default.

  Returns:
    The distilled set, the networks seen last, and seconds.

  Raises:
    ValueError: without a number of real images, for a set that does not fit, or
      a work directory of another run.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> from fsdd_jax import configs, toy
    >>> config = configs.DistillationConfig(ipc=1, num_steps=2, real_batch=6)
    >>> own = RfadConfig(networks_per_step=2)
    >>> result = distill(*toy.problem(), config=config, own=own)
    >>> result.synthetic.images.shape, len(result.seen)
    ((3, 8, 8, 3), 2)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  prepared = peers.prepare(
    'RFAD',
    dataset,
    normalization,
    config=config,
    own=own,
    options=options,
    start=start,
    network=network,
  )
  shape = dataset.images.shape[1:]

  def draw(step: int) -> tuple[Any, ...]:
    keys = jax.random.split(
      jax.random.fold_in(prepared.network_key, step), own.networks_per_step
    )
    return tuple(random_networks.sample(key, network, shape) for key in keys)

  inputs_of = peers.batches(
    prepared.batch_key, draw, dataset, normalization, config
  )
  features_of = random_features(objective.feature_fn(network))
  error_fn = platt_error if own.platt else krr.ERRORS[config.loss].on_images
  with clock.part('distillation'):
    synthetic = distill_from(
      prepared.start,
      functools.partial(
        objective.krr_loss, features_of, ridge=config.ridge, error_fn=error_fn
      ),
      lambda step: inputs_of(step, step),
      num_steps=config.num_steps,
      config=config,
      options=options,
      diagnose=in_features(features_of, ridge=config.ridge),
      description='RFAD',
    )
  return baselines.DistillationResult(
    synthetic, list(draw(config.num_steps - 1)), clock.seconds()
  )
