"""FRePo: distillation in a pool of networks that learn (Zhou et al., 2022).

Each step fits X_S in the features of one network of the pool, and updates this
network by one step of training on X_S; after some updates it is drawn anew.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax import (
  baselines,
  distill,
  distill_loop,
  krr,
  networks,
  objective,
  peers,
  random_networks,
)
from fsdd_jax.configs import DistillationConfig
from fsdd_jax.datasets import Dataset
from fsdd_jax.normalization import Normalization
from fsdd_jax.peer_configs import FrepoConfig
from fsdd_jax.stage_loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.types import LabeledSet

_MAX_TRAINED = 1000  # Images of X_S in an update of a network, at most.

LossFn = Callable[[Any, LabeledSet, LabeledSet], jax.Array]


class OnlineNetwork(NamedTuple):
  """A network of the pool, and the state of its optimiser.

  Example:
    >>> OnlineNetwork(variables={}, opt_state=()).opt_state
    ()
  """

  variables: Any
  opt_state: optax.OptState


@flax.struct.dataclass
class FrepoState:
  """What one step maps to the next.

  Attributes:
    distilled: of X_S and Y_S.
    pool: the networks.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import distill, types
    >>> start = types.labeled_set(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1)))
    >>> tx = distill.make_optimizer('sgd', 0.5)
    >>> state: FrepoState = FrepoState(distill.init_state(start, tx), ())
    >>> state.step.item(), state.synthetic.images.shape
    (0, (1, 2, 2, 1))
  """

  distilled: distill.DistillState
  pool: tuple[OnlineNetwork, ...]

  @property
  def step(self) -> jax.Array:
    """Steps done, `[]` int32."""
    return self.distilled.step

  @property
  def synthetic(self) -> LabeledSet:
    """The distilled set (X_S, Y_S)."""
    return self.distilled.synthetic


def label_margin(labels: jax.Array) -> jax.Array:
  """How far the largest label is above the second, at most 1 / k; the mean.

  FRePo's loss has less of it, so that learned labels do not lose their class.

  Example:
    >>> import jax.numpy as jnp
    >>> label_margin(jnp.array([[0.75, 0.0], [0.5, 0.25]])).item()
    0.375
  """
  top = jax.lax.top_k(labels, 2)[0]
  return jnp.minimum(top[:, 0] - top[:, 1], 1.0 / labels.shape[1]).mean()


def with_mirror_images(labeled: LabeledSet) -> LabeledSet:
  """A set and its images flipped left to right, `[2 n, ...]`.

  Example:
    >>> from fsdd_jax import types
    >>> import jax.numpy as jnp
    >>> images = jnp.arange(2.0).reshape(1, 1, 2, 1)
    >>> x = types.labeled_set(images, jnp.ones((1, 1)))
    >>> with_mirror_images(x).images.ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
  """
  flipped = dataclasses.replace(labeled, images=labeled.images[:, :, ::-1])
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), labeled, flipped)


def pool_order(
  key: jax.Array, num_steps: int, own: FrepoConfig
) -> tuple[np.ndarray, np.ndarray]:
  """Which network each step uses, and how often it was used before.

  Args:
    key: consumed.
    num_steps: steps in total.
    own: size of the pool.

  Returns:
    `[num_steps]` places in the pool, drawn at random, and uses.

  Example:
    >>> import jax
    >>> own = FrepoConfig(pool_size=2)
    >>> places, uses = pool_order(jax.random.key(0), 6, own)
    >>> places.tolist(), uses.tolist()
    ([1, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 3])
  """
  places = np.asarray(
    jax.random.randint(key, (num_steps,), 0, own.pool_size, jnp.int32)
  )
  uses = np.zeros(num_steps, int)
  for place in range(own.pool_size):
    uses[places == place] = np.arange(np.sum(places == place))
  return places, uses


def make_update(
  network: nn.Module,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  online_tx: optax.GradientTransformation,
  *,
  mirror: bool,
) -> Callable[..., tuple[distill.DistillState, OnlineNetwork, Any]]:
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

  Example:
    >>> import jax
    >>> import optax
    >>> from fsdd_jax import baselines, distill, random_networks, toy
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> tx, online_tx = distill.make_optimizer('adam', 0.1), optax.adam(1e-3)
    >>> theta = random_networks.sample(jax.random.key(1), network, (8, 8, 3))
    >>> online = OnlineNetwork(theta, online_tx.init(theta['params']))
    >>> loss_fn = lambda variables, labeled, target: labeled.images.sum()
    >>> update = make_update(network, loss_fn, tx, online_tx, mirror=False)
    >>> state = distill.init_state(real, tx)
    >>> state, online, values = update(state, online, real)
    >>> sorted(values)
    ['gradient_norm', 'loss']
  """

  def seen(synthetic: LabeledSet) -> LabeledSet:
    return with_mirror_images(synthetic) if mirror else synthetic

  def loss(synthetic: LabeledSet, variables: Any, target: LabeledSet) -> Any:
    return loss_fn(variables, seen(synthetic), target)

  def online_loss(params: Any, variables: Any, batch: LabeledSet) -> jax.Array:
    found, _ = network.apply(
      {**variables, 'params': params},
      batch.images,
      train=True,
      mutable=['batch_stats'],
    )
    logits, _ = networks.outputs(found, batch.images)
    return 0.5 * jnp.sum((logits - batch.labels) ** 2, axis=1).mean()

  distill_step = distill.make_step(loss, tx)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(
    distilled: distill.DistillState, online: OnlineNetwork, target: LabeledSet
  ) -> tuple[distill.DistillState, OnlineNetwork, Any]:
    batch, variables = distilled.synthetic, online.variables
    if len(batch.images) > _MAX_TRAINED:
      key = jax.random.fold_in(jax.random.key(0), distilled.step)
      rows = jax.random.permutation(key, len(batch.images))[:_MAX_TRAINED]
      batch = jax.tree.map(lambda x: x[rows], batch)
    params = variables['params']
    gradient = jax.grad(online_loss)(params, variables, batch)
    updates, opt_state = online_tx.update(gradient, online.opt_state, params)
    distilled, values = distill_step(distilled, variables, target)
    params = optax.apply_updates(params, updates)
    online = OnlineNetwork({**variables, 'params': params}, opt_state)
    return distilled, online, values

  return update


def loss_function(
  network: nn.Module, config: DistillationConfig, own: FrepoConfig
) -> LossFn:
  """Half the error on real images, less the margin of the labels.

  Example:
    >>> import jax
    >>> from fsdd_jax import baselines, configs, toy
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> config = configs.DistillationConfig(loss='squared')
    >>> loss_fn = loss_function(network, config, FrepoConfig())
    >>> round(loss_fn(toy.theta(0), real, real).item(), 3)  # All margin.
    -0.333
  """
  features_of = objective.feature_fn(network)
  error_fn = krr.ERRORS[config.loss].on_images

  def loss_fn(variables: Any, labeled: LabeledSet, target: LabeledSet) -> Any:
    error = objective.krr_loss(
      features_of,
      variables,
      labeled,
      target,
      ridge=config.ridge,
      error_fn=error_fn,
    )
    return 0.5 * error - own.margin * label_margin(labeled.labels)

  return loss_fn


def distill_in_pool(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  own: FrepoConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
) -> baselines.DistillationResult:
  """Distils a target set by FRePo.

  Args:
    network: f, without batch normalisation for the peer's own results.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: steps, optimiser, ridge, real images a step; its numbers of networks
      play no part.
    own: the pool.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.
    start: the set before the first step; by default random real images, with
      centred labels over sqrt(k / 10).

  Returns:
    The distilled set and seconds.

  Raises:
    ValueError: without a number of real images, for a set that does not fit, or
      a work directory of another run.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> from fsdd_jax import configs, toy
    >>> config = configs.DistillationConfig(ipc=1, num_steps=2, real_batch=6)
    >>> result = distill_in_pool(
    ...   *toy.problem(), config=config, own=FrepoConfig(pool_size=2)
    ... )
    >>> result.synthetic.images.shape
    (3, 8, 8, 3)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  prepared = peers.prepare(
    'FRePo',
    dataset,
    normalization,
    config=config,
    own=own,
    options=options,
    start=start,
    network=network,
  )
  first = prepared.start
  if start is None:
    scale = (dataset.num_classes / 10) ** -0.5
    first = dataclasses.replace(first, labels=scale * first.labels)
  places, uses = pool_order(prepared.order_key, config.num_steps, own)
  tx = distill_loop.optimizer(config, config.num_steps)
  online_tx = optax.adam(own.online_learning_rate)
  update = make_update(
    network,
    loss_function(network, config, own),
    tx,
    online_tx,
    mirror=own.mirror,
  )
  image_shape = dataset.images.shape[1:]

  def fresh(place: int, generation: int) -> OnlineNetwork:
    key = jax.random.fold_in(prepared.network_key, place)
    key = jax.random.fold_in(key, generation)
    variables = random_networks.sample(key, network, image_shape)
    return OnlineNetwork(variables, online_tx.init(variables['params']))

  def step(
    state: FrepoState, place: int, used: int, target: LabeledSet
  ) -> tuple[FrepoState, Any]:
    pool, generation = list(state.pool), used // own.max_online_updates
    if generation and not used % own.max_online_updates:
      pool[place] = fresh(place, generation)
    distilled, pool[place], values = update(
      state.distilled, pool[place], target
    )
    return FrepoState(distilled, tuple(pool)), values

  inputs_of = peers.batches(
    prepared.batch_key, lambda step: (), dataset, normalization, config
  )
  diagnose = distill_loop.in_features(
    objective.feature_fn(network), ridge=config.ridge
  )
  with clock.part('distillation'):
    synthetic = distill_loop.run(
      step,
      FrepoState(
        distill.init_state(first, tx),
        tuple(fresh(place, 0) for place in range(own.pool_size)),
      ),
      lambda i: (int(places[i]), int(uses[i]), inputs_of(0, i)[1]),
      num_steps=config.num_steps,
      options=options,
      diagnose=lambda i, state: diagnose(
        state.pool[places[i]].variables, state.synthetic
      ),
      description='FRePo',
    )
  return baselines.DistillationResult(synthetic, [], clock.seconds())
