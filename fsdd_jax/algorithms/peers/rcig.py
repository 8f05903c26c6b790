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

import flax.linen as nn
import optax

from fsdd_jax.algorithms import distill_loop
from fsdd_jax.algorithms.peers.frame import Peer, Plan, Setup
from fsdd_jax.algorithms.peers.network_pool import OnlineNetwork, pool_order
from fsdd_jax.algorithms.peers.peer_configs import RcigConfig
from fsdd_jax.algorithms.peers.rcig_step import RcigState, init_state, make_step
from fsdd_jax.core import distill_step, losses
from fsdd_jax.networks import layers
from fsdd_jax.types import LabeledSet, labeled_set


def plan(setup: Setup) -> Plan:
  """The steps of RCIG.

  Args:
    setup: with an `RcigConfig`. Its ridge takes the place of the config's, and
      Platt's loss that of the config's loss.

  Returns:
    The plan; the networks seen are those of the pool, as they are trained.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import configs
    >>> from fsdd_jax.algorithms.peers import frame
    >>> config = configs.DistillationConfig(ipc=1, num_steps=2, real_batch=6)
    >>> own = RcigConfig(pool_size=2, solver='cg', num_inner_steps=2)
    >>> problem = toy.problem()
    >>> result = frame.distill_by(RCIG, *problem, config=config, own=own)
    >>> result.synthetic.images.shape, len(result.seen)
    ((3, 8, 8, 3), 2)
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

  inputs_of = setup.batches()
  diagnose = distill_loop.in_features(
    losses.feature_fn(setup.network), ridge=config.ridge
  )
  return Plan(
    step,
    state,
    lambda index: (index, inputs_of(0, index)[1]),
    lambda index, state: diagnose(
      state.pool[order.places[index]].variables,
      labeled_set(state.learned['images'], state.learned['labels']),
    ),
    lambda state: [online.variables for online in state.pool],
  )


def check(network: nn.Module, own: RcigConfig) -> None:
  """Raises a ValueError for a network that cannot be linearised here.

  Example:
    >>> import toy
    >>> check(toy.problem()[0], RcigConfig())
  """
  del own
  if not isinstance(network, layers.Network):
    raise ValueError(
      f'RCIG takes networks built on layers.Network, whose classifier it '
      f'knows; got {type(network).__name__}. Choose one of extractors.NETWORKS.'
    )


RCIG = Peer('RCIG', plan, check)
