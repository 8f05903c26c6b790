"""A step of RCIG; see `rcig`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import distill_loop
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import implicit
from fsdd_jax.algorithms.peers.implicit_gradient import (
  Gradients,
  clipped,
  gradient_fn,
)
from fsdd_jax.algorithms.peers.network_pool import (
  OnlineNetwork,
  label_margin,
  training_step,
  with_mirror_images,
)
from fsdd_jax.algorithms.peers.peer_configs import RcigConfig
from fsdd_jax.algorithms.peers.platt import (
  least_cross_entropy,
  scaled_cross_entropy,
)
from fsdd_jax.core import distill_step
from fsdd_jax.core.solvers import Rates, first_rates, followed
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

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> start = types.labeled_set(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1)))
    >>> zero = jnp.zeros((), int)
    >>> state: RcigState = RcigState(zero, {}, (), start, (), ())
    >>> state.synthetic.images.shape
    (1, 2, 2, 1)
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
  """The set that networks are fitted to: with mirror images where these count.

  Example:
    >>> import jax.numpy as jnp
    >>> learned = {'images': jnp.ones((1, 2, 2, 1)), 'labels': jnp.ones((1, 1))}
    >>> fitted_set(learned, RcigConfig()).images.shape
    (2, 2, 2, 1)
  """
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
  """Platt's loss on real images, less the margin of the labels.

  Args:
    learned: as of `RcigState`.
    tangent: the weights of the linearised network.
    variables: where it is linearised.
    target: a batch of real images.
    network: f.
    own: ridge, margin and mirror images.

  Returns:
    `[]`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> learned = {'images': real.images, 'labels': real.labels}
    >>> learned['log_scale'] = jnp.log(100.0)
    >>> theta = toy.theta(0)
    >>> t = jax.tree.map(jnp.zeros_like, theta['params'])
    >>> loss = outer_loss(
    ...   learned, t, theta, real, network=network, own=RcigConfig(mirror=False)
    ... )
    >>> round(loss.item(), 3)  # All margin.
    -0.167
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

  Returns:
    The new average.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> sets = [
    ...   {'images': jnp.full((1, 1, 1, 1), x), 'labels': jnp.ones((1, 1))}
    ...   for x in (1.0, 4.0)
    ... ]
    >>> first = averaged(types.labeled_set(**sets[1]), sets[0], 1, 0.5)
    >>> averaged(first, sets[1], 2, 0.5).images.item()
    3.0
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

  Returns:
    Both.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> from fsdd_jax.algorithms import configs
    >>> start = types.labeled_set(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1)))
    >>> config = configs.DistillationConfig()
    >>> state, _ = init_state(start, (), config, RcigConfig())
    >>> sorted(state.learned)
    ['images', 'labels', 'log_scale']
  """
  learned = {'images': start.images, 'labels': start.labels}
  further = {}
  if own.platt_learning_rate:
    learned['log_scale'] = jnp.zeros(())
    further['log_scale'] = optax.adabelief(own.platt_learning_rate)
  tx = distill_loop.optimizer(config, config.num_steps, **further)
  rates = first_rates(own.inner_learning_rate, own.hessian_learning_rate)
  zero = jnp.zeros((), jnp.int32)
  return RcigState(zero, learned, tx.init(learned), start, rates, pool), tx


def make_step(
  network: nn.Module,
  own: RcigConfig,
  tx: optax.GradientTransformation,
  online_tx: optax.GradientTransformation,
) -> Callable[..., tuple[RcigState, distill_step.Metrics]]:
  """Builds the step on X_S, its average and one network of the pool.

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

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines, configs
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> own, online_tx = RcigConfig(solver='cg'), optax.adam(1e-3)
    >>> theta = jax.tree.map(jnp.array, toy.theta(0))
    >>> pool = (OnlineNetwork(theta, online_tx.init(theta['params'])),)
    >>> config = configs.DistillationConfig(ipc=1)
    >>> state, tx = init_state(real, pool, config, own)
    >>> state, values = make_step(network, own, tx, online_tx)(
    ...   state, 0, 0, 1, real
    ... )
    >>> sorted(values)
    ['direct_norm', 'gradient_norm', 'implicit_norm', 'loss']
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
