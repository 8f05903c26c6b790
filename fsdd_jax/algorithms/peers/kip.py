"""KIP: distillation in one infinitely wide network (Nguyen et al., 2021)."""

from typing import Any

import jax

from fsdd_jax.algorithms import distillation
from fsdd_jax.algorithms.peers.frame import Peer, Plan, Setup
from fsdd_jax.algorithms.peers.peer_configs import KipConfig
from fsdd_jax.core import distill_step, krr, krr_errors
from fsdd_jax.core.losses import ErrorFn
from fsdd_jax.networks import infinite
from fsdd_jax.types import LabeledSet


def kernel_loss(
  kernel: infinite.KernelFn,
  variables: Any,
  synthetic: LabeledSet,
  target: LabeledSet,
  *,
  ridge: float,
  error_fn: ErrorFn = krr_errors.mean_squared_error,
) -> jax.Array:
  """`losses.krr_loss` where only inner products of features are known.

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
  """
  del variables
  own = kernel(synthetic.images, synthetic.images)
  own = own * synthetic.mask[:, None] * synthetic.mask
  coefficients = krr.solve_kernel(
    own, synthetic.labels, ridge=ridge, mask=synthetic.mask
  )
  rows = kernel(target.images, synthetic.images)
  return error_fn(coefficients, rows, target.labels, target.mask)


def plan(setup: Setup) -> Plan:
  """The steps of KIP, in float32; no network is seen.

  The batch of real images and X_S meet in one kernel: a ConvNet at 32 x 32
  needs four megabytes a pair of images.

  Args:
    setup: with a `KipConfig`, and a `ConvNet` or `Mlp` without normalisation.

  Returns:
    The plan.
  """
  config = setup.config
  kernel = infinite.kernel_fn(setup.network, setup.own.kernel)
  error_fn = krr_errors.ERRORS[config.loss].on_images

  def loss(synthetic: LabeledSet, target: LabeledSet) -> jax.Array:
    return kernel_loss(
      kernel, (), synthetic, target, ridge=config.ridge, error_fn=error_fn
    )

  tx = distillation.optimizer(config, config.num_steps)
  return Plan(
    distill_step.make_step(loss, tx),
    distill_step.init_state(setup.start, tx),
    lambda index: (setup.batch(index),),
    lambda index, state: (
      'Largest absolute value of images: '
      f'{abs(state.synthetic.images).max():g}.'
    ),
  )


KIP = Peer(
  'KIP',
  plan,
  KipConfig,
  check=lambda network, own: infinite.kernel_fn(network, own.kernel),
  sees_networks=False,
)
