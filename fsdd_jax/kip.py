"""KIP: distillation in one infinitely wide network (Nguyen et al., 2021)."""

import functools
from typing import Any

import flax.linen as nn
import jax

from fsdd_jax import baselines, kernels, krr, peers
from fsdd_jax.configs import DistillationConfig
from fsdd_jax.datasets import Dataset
from fsdd_jax.distill_loop import distill_from
from fsdd_jax.normalization import Normalization
from fsdd_jax.objective import ErrorFn
from fsdd_jax.peer_configs import KipConfig
from fsdd_jax.stage_loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.types import LabeledSet


def kernel_loss(
  kernel: kernels.KernelFn,
  variables: Any,
  synthetic: LabeledSet,
  target: LabeledSet,
  *,
  ridge: float,
  error_fn: ErrorFn = krr.mean_squared_error,
) -> jax.Array:
  """`objective.krr_loss` where only inner products of features are known.

  Args:
    kernel: of two sets of images.
    variables: not used, as a kernel has none.
    synthetic: the distilled set (X_S, Y_S).
    target: a batch of the target set (X_T, Y_T).
    ridge: relative ridge of `krr.solve_kernel`.
    error_fn: of `(weights, features, labels, mask)`, which takes rows of the
      kernel for features.

  Returns:
    `[]` the error.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import krr, objective, types
    >>> flat = lambda x: x.reshape(len(x), -1)
    >>> kernel = lambda x, y: flat(x) @ flat(y).T
    >>> x = types.labeled_set(jnp.eye(4)[:2].reshape(2, 2, 2, 1), jnp.eye(2))
    >>> y = types.labeled_set(jnp.ones((3, 2, 2, 1)), jnp.ones((3, 2)))
    >>> kernel_loss(kernel, (), x, y, ridge=1e-2).round(4)
    Array(0.0002, dtype=float32)
  """
  del variables
  own = kernel(synthetic.images, synthetic.images)
  own = own * synthetic.mask[:, None] * synthetic.mask
  coefficients = krr.solve_kernel(
    own, synthetic.labels, ridge=ridge, mask=synthetic.mask
  )
  rows = kernel(target.images, synthetic.images)
  return error_fn(coefficients, rows, target.labels, target.mask)


def distill(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  own: KipConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
) -> baselines.DistillationResult:
  """Distils a target set by KIP, in float32.

  The batch of real images and X_S meet in one kernel: a ConvNet at 32 x 32
  needs four megabytes a pair of images.

  Args:
    network: a `ConvNet` or `Mlp` without normalisation, whose limit is taken.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: steps, optimiser, ridge, real images a step; its numbers of networks
      play no part.
    own: which kernel.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.
    start: the set before the first step; random real images by default.

  Returns:
    The distilled set and seconds; no network was seen.

  Raises:
    ImportError: where neural-tangents is not installed.
    ValueError: for a network without a kernel, without a number of real images,
      for a set that does not fit, or a work directory of another run.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> from fsdd_jax import configs, networks, toy
    >>> _, dataset, transform = toy.problem()
    >>> config = configs.DistillationConfig(ipc=1, num_steps=2, real_batch=6)
    >>> result = distill(
    ...   networks.Mlp(depth=1),
    ...   dataset,
    ...   transform,
    ...   config=config,
    ...   own=KipConfig(),
    ... )
    >>> result.synthetic.images.shape
    (3, 8, 8, 3)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  kernel = kernels.kernel_fn(network, own.kernel)
  prepared = peers.prepare(
    'KIP',
    dataset,
    normalization,
    config=config,
    own=own,
    options=options,
    start=start,
    network=network,
  )
  inputs_of = peers.batches(
    prepared.batch_key, lambda step: (), dataset, normalization, config
  )
  loss_fn = functools.partial(
    kernel_loss,
    kernel,
    ridge=config.ridge,
    error_fn=krr.ERRORS[config.loss].on_images,
  )
  with clock.part('distillation'):
    synthetic = distill_from(
      prepared.start,
      loss_fn,
      lambda step: inputs_of(0, step),
      num_steps=config.num_steps,
      config=config,
      options=options,
      diagnose=lambda variables, synthetic: (
        f'Largest absolute value of images: {abs(synthetic.images).max():g}.'
      ),
      description='KIP',
    )
  return baselines.DistillationResult(synthetic, [], clock.seconds())
