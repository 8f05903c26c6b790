"""One translator update over B distilled sets (Alg. 2 and Alg. 3).

Pre-training and adaptation differ in where sets and targets come from, not in
this step. All sets are translated at once; each network contributes the
gradient with respect to translated images only; and one pull-back through the
translator ends the step. That is the gradient of the mean loss, at the memory
of one network's backward pass.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.core import params_step
from fsdd_jax.core.params_step import Metrics, Params, ParamsState
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.translator import MapsFn, init, translate
from fsdd_jax.types import LabeledSet, LossFn

Batch = tuple[Any, LabeledSet, Any]
GradientFn = Callable[[Params, Batch], tuple[jax.Array, Params]]
StepFn = Callable[
  [ParamsState, Any, LabeledSet, Any], tuple[ParamsState, Metrics]
]


def init_state(
  key: jax.Array,
  translator: nn.Module,
  image_shape: Sequence[int],
  tx: optax.GradientTransformation,
  maps_of: MapsFn | None = None,
) -> ParamsState:
  """Starts from a random translator (Alg. 2, line 1).

  Args:
    key: random key, consumed.
    translator: the module G.
    image_shape: `(h, w, c)` of images; only c shapes the parameters.
    tx: the optimiser that `make_step` will be given.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    The state of step 0.
  """
  variables = init(key, translator, image_shape, maps_of)
  return params_step.init_state(variables['params'], tx)


def mean_loss_and_gradient(
  translator: nn.Module,
  loss_fn: LossFn,
  *,
  networks_per_call: int = 1,
  maps_of: MapsFn | None = None,
) -> GradientFn:
  """The mean loss over a batch and its gradient by omega (Alg. 2, lines 6-11).

  Args:
    translator: the module G.
    loss_fn: maps `(variables, set, target)` of one network to a scalar.
    networks_per_call: as for `random_networks.losses_and_gradients`.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    A function of omega and a batch `(variables_stack, sets, targets)`, all
    with leading axis `[b]`, that returns the loss `[]` and the gradient. Equal
    parts of a batch may be given to several devices, and their results
    averaged.
  """

  def compute(params: Params, batch: Batch) -> tuple[jax.Array, Params]:
    variables_stack, sets, targets = batch

    def translate_images(params: Params) -> jax.Array:
      return translate(translator, {'params': params}, sets, maps_of).images

    images, pull_back = jax.vjp(translate_images, params)
    losses, image_gradients = random_networks.losses_and_gradients(
      loss_fn,
      variables_stack,
      dataclasses.replace(sets, images=images),
      targets,
      networks_per_call=networks_per_call,
    )
    (gradient,) = pull_back(image_gradients / len(losses))
    return jnp.mean(losses), gradient

  return compute


def make_step(
  translator: nn.Module,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  networks_per_call: int = 1,
  spread: Callable[[GradientFn], GradientFn] = lambda compute: compute,
  maps_of: MapsFn | None = None,
) -> StepFn:
  """Makes the compiled update (Alg. 2, lines 3-11; Alg. 3, lines 19-26).

  Args:
    translator: the module G.
    loss_fn: maps `(variables, set, target)` of one network to a scalar, e.g.
      `losses.krr_loss` with its feature function and ridge bound.
    tx: the optimiser of omega; its learning rate is eta.
    networks_per_call: as for `random_networks.losses_and_gradients`; must
      divide the b of a batch (with several devices, that of each device).
    spread: turns the loss and gradient of a batch into the same over several
      devices, such as `Devices.mean`. By default all runs where the arrays
      are.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    `step(state, variables_stack, sets, targets) -> (state, metrics)` with b
    networks, sets X_S' `[b, n, h, w, c]` with labels Y_S, and targets. The
    given state is donated: use the returned one. Metrics are the mean `loss`
    and the `gradient_norm`, both `[]`.
  """
  compute = spread(
    mean_loss_and_gradient(
      translator,
      loss_fn,
      networks_per_call=networks_per_call,
      maps_of=maps_of,
    )
  )

  def step(
    state: ParamsState, variables_stack: Any, sets: LabeledSet, targets: Any
  ) -> tuple[ParamsState, Metrics]:
    loss, gradient = compute(state.params, (variables_stack, sets, targets))
    return params_step.update(tx, state, loss, gradient)

  return jax.jit(step, donate_argnums=0)
