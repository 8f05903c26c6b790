"""RCIG: implicit gradients of a convex problem (Loo et al., 2023).

Each step takes a network of a pool, finds the weights of the linearised network
on X_S, scores it on real images, and moves X_S by the direct gradient and by
the implicit one, which goes through the weights; the network itself is then
trained on X_S. The result is a moving average of X_S.

As published but for: the solver of both linear problems starts afresh in each
step; the classifier's weights have no part in them, as the closed form stands
for these; and both learning rates of the solver follow its progress.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import distillation
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import implicit
from fsdd_jax.algorithms.peers.frame import Peer, Plan, Setup
from fsdd_jax.algorithms.peers.implicit import Gradients, clipped, gradient_fn
from fsdd_jax.algorithms.peers.network_pool import (
  OnlineNetwork,
  label_margin,
  pool_order,
  training_step,
  with_mirror_images,
)
from fsdd_jax.algorithms.peers.peer_configs import RcigConfig
from fsdd_jax.core import distill_step, losses
from fsdd_jax.core.platt import (
  least_cross_entropy,
  scaled_cross_entropy,
)
from fsdd_jax.core.solvers import Rates, first_rates, followed
from fsdd_jax.networks import layers
from fsdd_jax.networks.layers import with_softplus
from fsdd_jax.types import LabeledSet, labeled_set

Learned = dict[str, jax.Array]


@flax.struct.dataclass
class RcigState:
  """What one step maps to the next.

  Attributes:
    step: `[]` int32, steps done.
    learned: `images`, `labels`, and where it is learned, `log_scale`
      `[]` of predictions.
    opt_state: the optimiser's state.
    average: moving average of images and labels, the result.
    rates: of the solver.
    pool: the networks.
  """

  step: jax.Array  # []
  learned: Learned
  opt_state: optax.OptState
  average: LabeledSet
  rates: Rates
  pool: tuple[OnlineNetwork, ...]

  @property
  def synthetic(self) -> LabeledSet:
    """The distilled set (X_S, Y_S): the average."""
    return self.average


def fitted_set(learned: Learned, own: RcigConfig) -> LabeledSet:
  """The set that networks are fitted to, with mirror images if these count."""
  labeled = labeled_set(learned['images'], learned['labels'])
  return with_mirror_images(labeled) if own.mirror else labeled


def outer_loss(
  learned: Learned,
  tangent: Any,
  variables: Any,
  target: LabeledSet,
  *,
  network: nn.Module,
  own: RcigConfig,
) -> jax.Array:
  """Platt's loss on real images, less the margin of the labels; `[]`.

  Args:
    learned: that of `RcigState`.
    tangent: the weights of the linearised network.
    variables: where it is linearised.
    target: a batch of real images.
    network: f.
    own: ridge, margin and mirror images.
  """
  labels = learned['labels']
  found = implicit.predictions(
    network,
    variables,
    tangent,
    fitted_set(learned, own),
    target.images,
    level=own.ridge_per_image * len(labels),
  )
  if 'log_scale' in learned:
    error = scaled_cross_entropy(
      learned['log_scale'], found, target.labels, target.mask
    )
  else:
    error = least_cross_entropy(found, target.labels, target.mask)
  margin = label_margin(labels, 0.5 / labels.shape[1])
  return error - own.margin * margin


def averaged(
  average: LabeledSet, learned: Learned, step: jax.Array, decay: float
) -> LabeledSet:
  """The moving average, without bias, of all sets up to this step's.

  Args:
    average: that of the steps before.
    learned: the set after this step.
    step: its number, from 1.
    decay: of the weight of earlier sets.
  """
  share = (1.0 - decay) / (1.0 - decay ** jnp.asarray(step, jnp.float32))
  new = labeled_set(learned['images'], learned['labels'])
  return jax.tree.map(lambda a, x: a + share * (x - a), average, new)


def init_state(
  start: LabeledSet,
  pool: tuple[OnlineNetwork, ...],
  config: DistillationConfig,
  own: RcigConfig,
) -> tuple[RcigState, optax.GradientTransformation]:
  """The state before the first step, and the optimiser of what is learned.

  Args:
    start: the set before the first step.
    pool: the networks.
    config: optimiser and rates of images and labels.
    own: rates of the scale, by AdaBelief, and of the solver.
  """
  # One that was distilled in theta may carry its own start.
  start = labeled_set(start.images, start.labels)
  learned = {'images': start.images, 'labels': start.labels}
  further = {}
  if own.platt_learning_rate:
    learned['log_scale'] = jnp.zeros((), jnp.float32)
    further['log_scale'] = optax.adabelief(own.platt_learning_rate)
  tx = distillation.optimizer(config, config.num_steps, **further)
  rates = first_rates(own.inner_learning_rate, own.hessian_learning_rate)
  zero = jnp.zeros((), jnp.int32)
  return RcigState(zero, learned, tx.init(learned), start, rates, pool), tx


def make_step(
  network: nn.Module,
  own: RcigConfig,
  tx: optax.GradientTransformation,
  online_tx: optax.GradientTransformation,
) -> Callable[..., tuple[RcigState, distill_step.Metrics]]:
  """Builds the step on X_S, its average and a network of the pool.

  Args:
    network: f, which is linearised and trained with own.softplus.
    own: RCIG's settings.
    tx: optimiser of what a state has learned.
    online_tx: of the network's parameters.

  Returns:
    `step(state, index, place, num_updates, target)`, with the number of the
    step, a network's place in the pool and the number of its updates; it
    returns the next state and the metrics `loss`, `gradient_norm`, and of
    images `direct_norm` and `implicit_norm`, the latter before it is clipped.
    Networks are donated.
  """
  soft = with_softplus(network, own.softplus)
  train_on = training_step(soft, online_tx)
  gradients = gradient_fn(
    soft,
    functools.partial(outer_loss, network=soft, own=own),
    fitted_fn=functools.partial(fitted_set, own=own),
    level_fn=lambda learned: own.ridge_per_image * len(learned['images']),
    solver=own.solver,
    num_steps=(own.num_inner_steps, own.num_hessian_steps),
  )
  given = own.inner_learning_rate > 0, own.hessian_learning_rate > 0
  searched = not all(given) and own.solver == 'adam'

  @functools.partial(jax.jit, donate_argnums=0)
  def train(
    online: OnlineNetwork, learned: Learned, step: jax.Array
  ) -> OnlineNetwork:
    return train_on(online, fitted_set(learned, own), step)

  @jax.jit
  def move(
    state: RcigState, found: Gradients
  ) -> tuple[RcigState, distill_step.Metrics]:
    direct, through = found.direct, found.implicit
    gradient = jax.tree.map(jnp.add, direct, clipped(through, direct))
    learned, opt_state, metrics = distill_step.update(
      tx, state.learned, state.opt_state, found.loss, gradient
    )
    metrics['direct_norm'] = optax.tree.norm(direct['images'])
    metrics['implicit_norm'] = optax.tree.norm(through['images'])
    done = state.step + 1
    average = averaged(state.average, learned, done, own.average)
    rates = state.rates._replace(values=found.rates)
    rates = followed(rates, found.progress, done, given=given)
    state = RcigState(done, learned, opt_state, average, rates, ())
    return state, metrics

  def step(
    state: RcigState, index: int, place: int, num_updates: int, target: Any
  ) -> tuple[RcigState, distill_step.Metrics]:
    pool = list(state.pool)
    found = gradients(
      state.learned,
      pool[place].variables,
      target,
      state.rates.values,
      search=given if searched and not index else None,
    )
    state, metrics = move(dataclasses.replace(state, pool=()), found)
    for _ in range(num_updates):
      pool[place] = train(pool[place], state.learned, state.step)
    return dataclasses.replace(state, pool=tuple(pool)), metrics

  return step


def plan(setup: Setup) -> Plan:
  """The steps of RCIG.

  The ridge of its `RcigConfig` replaces that of the config, and Platt's loss
  the loss of the config. The networks seen are those of the pool, as they are
  trained.
  """
  config, own = setup.config, setup.own
  order = pool_order(
    setup.order_key,
    config.num_steps,
    pool_size=own.pool_size,
    max_updates=own.max_online_updates,
    most_a_step=own.most_online_steps,
  )
  online_tx = optax.adam(own.online_learning_rate)

  def fresh(place: int, generation: int) -> OnlineNetwork:
    variables = setup.draw(place, generation)
    return OnlineNetwork(variables, online_tx.init(variables['params']))

  pool = tuple(fresh(place, 0) for place in range(own.pool_size))
  state, tx = init_state(setup.start, pool, config, own)
  step_fn = make_step(setup.network, own, tx, online_tx)

  def step(
    state: RcigState, index: int, target: LabeledSet
  ) -> tuple[RcigState, distill_step.Metrics]:
    place, generation = int(order.places[index]), int(order.generations[index])
    if generation and not order.ages[index]:
      new = list(state.pool)
      new[place] = fresh(place, generation)
      state = dataclasses.replace(state, pool=tuple(new))
    return step_fn(state, index, place, int(order.updates[index]), target)

  diagnose = distillation.in_features(
    losses.feature_fn(setup.network), ridge=config.ridge
  )
  return Plan(
    step,
    state,
    lambda index: (index, setup.batch(index)),
    lambda index, state: diagnose(
      state.pool[order.places[index]].variables,
      labeled_set(state.learned['images'], state.learned['labels']),
    ),
    lambda state: [online.variables for online in state.pool],
  )


def check(network: nn.Module, _: RcigConfig) -> None:
  """Raises a ValueError for a network that cannot be linearised here."""
  if not isinstance(network, layers.Network):
    raise ValueError(
      f'RCIG takes networks built on layers.Network, whose classifier it '
      f'knows; got {type(network).__name__}. Choose one of extractors.NETWORKS.'
    )


RCIG = Peer('RCIG', plan, RcigConfig, check)
