"""FRePo: distillation in a pool of networks that learn (Zhou et al., 2022).

Each step fits X_S in the features of one network of the pool, and updates this
network by one step of training on X_S; after some updates it is drawn anew.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import optax

from fsdd_jax.algorithms import distillation
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers.frame import Peer, Plan, Setup
from fsdd_jax.algorithms.peers.network_pool import (
  OnlineNetwork,
  label_margin,
  pool_order,
  training_step,
  with_mirror_images,
)
from fsdd_jax.algorithms.peers.peer_configs import FrepoConfig
from fsdd_jax.core import distill_step, krr_errors, losses
from fsdd_jax.types import LabeledSet, LossFn


@flax.struct.dataclass
class FrepoState:
  """What one step maps to the next.

  Attributes:
    distilled: of X_S and Y_S.
    pool: the networks.
  """

  distilled: distill_step.DistillState
  pool: tuple[OnlineNetwork, ...]

  @property
  def step(self) -> jax.Array:
    """Steps done, `[]` int32."""
    return self.distilled.step

  @property
  def synthetic(self) -> LabeledSet:
    """The distilled set (X_S, Y_S)."""
    return self.distilled.synthetic


def make_update(
  network: nn.Module,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  online_tx: optax.GradientTransformation,
  *,
  mirror: bool,
) -> Callable[..., tuple[distill_step.DistillState, OnlineNetwork, Any]]:
  """Builds the jitted update of X_S, and of the network it was fitted in.

  Both use X_S as it was before, so that without mirror images, which the
  network is not trained on, they share its forward pass.

  Args:
    network: returns logits and features.
    loss_fn: of variables, the distilled set and real images.
    tx: optimiser of images and labels.
    online_tx: of the network's parameters.
    mirror: whether the set comes with its mirror images.

  Returns:
    `update(distilled, online, target)`, which returns both and the metrics; the
    first two are donated.
  """

  def loss(synthetic: LabeledSet, variables: Any, target: LabeledSet) -> Any:
    fitted = with_mirror_images(synthetic) if mirror else synthetic
    return loss_fn(variables, fitted, target)

  step = distill_step.make_step(loss, tx)
  train = training_step(network, online_tx)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(
    distilled: distill_step.DistillState,
    online: OnlineNetwork,
    target: LabeledSet,
  ) -> tuple[distill_step.DistillState, OnlineNetwork, Any]:
    trained = train(online, distilled.synthetic, distilled.step)
    distilled, values = step(distilled, online.variables, target)
    return distilled, trained, values

  return update


def loss_function(
  network: nn.Module, config: DistillationConfig, own: FrepoConfig
) -> LossFn:
  """Half the error on real images, less the margin of the labels."""
  features_of = losses.feature_fn(network)
  error_fn = krr_errors.ERRORS[config.loss].on_images

  def loss_fn(variables: Any, labeled: LabeledSet, target: LabeledSet) -> Any:
    error = losses.krr_loss(
      features_of,
      variables,
      labeled,
      target,
      ridge=config.ridge,
      error_fn=error_fn,
    )
    return 0.5 * error - own.margin * label_margin(labeled.labels)

  return loss_fn


def plan(setup: Setup) -> Plan:
  """The steps of FRePo.

  A set that the caller did not give starts with labels over sqrt(k / 10).

  Args:
    setup: with a `FrepoConfig`.

  Returns:
    The plan; the networks seen are those of the pool, as they are trained.
  """
  config, own, first = setup.config, setup.own, setup.start
  if not setup.is_given:
    scale = (setup.target.num_classes / 10) ** -0.5
    first = dataclasses.replace(first, labels=scale * first.labels)
  order = pool_order(
    setup.order_key,
    config.num_steps,
    pool_size=own.pool_size,
    max_updates=own.max_online_updates,
  )
  tx = distillation.optimizer(config, config.num_steps)
  online_tx = optax.adam(own.online_learning_rate)
  loss_fn = loss_function(setup.network, config, own)
  update = make_update(setup.network, loss_fn, tx, online_tx, mirror=own.mirror)

  def fresh(place: int, generation: int) -> OnlineNetwork:
    variables = setup.draw(place, generation)
    return OnlineNetwork(variables, online_tx.init(variables['params']))

  def step(
    state: FrepoState, index: int, target: LabeledSet
  ) -> tuple[FrepoState, Any]:
    pool, place = list(state.pool), int(order.places[index])
    generation = int(order.generations[index])
    if generation and not order.ages[index]:
      pool[place] = fresh(place, generation)
    distilled, pool[place], values = update(
      state.distilled, pool[place], target
    )
    return FrepoState(distilled, tuple(pool)), values

  diagnose = distillation.in_features(
    losses.feature_fn(setup.network), ridge=config.ridge
  )
  return Plan(
    step,
    FrepoState(
      distill_step.init_state(first, tx),
      tuple(fresh(place, 0) for place in range(own.pool_size)),
    ),
    lambda index: (index, setup.batch(index)),
    lambda index, state: diagnose(
      state.pool[order.places[index]].variables, state.synthetic
    ),
    lambda state: [online.variables for online in state.pool],
  )


FREPO = Peer('FRePo', plan, FrepoConfig)
