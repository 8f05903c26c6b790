"""Bi-Level: a network in which distillation makes sets that work in others.

The alternative that the paper argues against: instead of translating what was
distilled in an arbitrary network, its weights are learned on the large set Z,
through the unrolled steps of distillation, so that the result has a low loss
in fresh networks. Then follows the procedure of 1 Net in that network. Only
the supplement's times mention it (section B, Table 1), so the details are ours.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms import distillation, drawn_subsets
from fsdd_jax.algorithms.drawn_subsets import Draws
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.core import krr, krr_errors, losses, params_step
from fsdd_jax.core.params_step import ParamsState
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import computation, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.storage.learned_network import LearnedNetwork, learned_network
from fsdd_jax.types import LabeledSet


@dataclasses.dataclass(frozen=True)
class BilevelResult:
  """What `learn_network` returns.

  Attributes:
    theta: the learned network, for `in_theta.distill_in_theta`.
    losses: of each update since the last start of the run.
  """

  theta: LearnedNetwork
  losses: tuple[float, ...]


def unroll(
  features_of: losses.FeatureFn,
  variables: Any,
  start: LabeledSet,
  target: LabeledSet,
  *,
  config: BilevelConfig,
) -> LabeledSet:
  """Distils a set in a network, differentiably by the network's weights.

  Args:
    features_of: maps variables and images to features.
    variables: of the network.
    start: X_S and Y_S before the first step.
    target: X_T and Y_T.
    config: T, alpha, truncation and whether steps are computed again.

  Returns:
    X_S and Y_S after T steps (Alg. 1, lines 14-19, without augmentation).
  """
  tx = distillation.optimizer(config, config.num_steps)
  trainable = {'images': start.images, 'labels': start.labels}

  def steps_in(variables: Any, carry: Any, count: int) -> Any:
    target_features = features_of(variables, target.images)

    def loss_of(trainable: dict[str, jax.Array]) -> jax.Array:
      weights = krr.solve(
        features_of(variables, trainable['images']),
        trainable['labels'],
        ridge=config.ridge,
        mask=start.mask,
      )
      return krr_errors.ERRORS[config.loss].on_images(
        weights, target_features, target.labels, target.mask
      )

    def step(carry: Any, _: None) -> tuple[Any, None]:
      trainable, opt_state = carry
      gradient = jax.grad(loss_of)(trainable)
      updates, opt_state = tx.update(gradient, opt_state, trainable)
      return (optax.apply_updates(trainable, updates), opt_state), None

    body = jax.checkpoint(step) if config.remat else step
    # Unlike elsewhere within a compiled loop, as T copies of a step and of its
    # gradient would take minutes to compile.
    return jax.lax.scan(body, carry, length=count)[0]

  carry = trainable, tx.init(trainable)
  through = min(config.truncation or config.num_steps, config.num_steps)
  if through < config.num_steps:
    carry = jax.lax.stop_gradient(
      steps_in(
        jax.lax.stop_gradient(variables), carry, config.num_steps - through
      )
    )
  trainable, _ = steps_in(variables, carry, through)
  return dataclasses.replace(start, **trainable)


def unrolled_loss(
  features_of: losses.FeatureFn, *, config: BilevelConfig
) -> Callable[[Any, Any, LabeledSet, LabeledSet], jax.Array]:
  """The loss, in another network, of what was distilled in one.

  Args:
    features_of: maps variables and images to features.
    config: as for `unroll`.

  Returns:
    `loss(params, other, start, target)` with the parameters to learn and the
    variables of the other network; a scalar, differentiable by `params`.
  """

  def loss(
    params: Any, other: Any, start: LabeledSet, target: LabeledSet
  ) -> jax.Array:
    own = {'params': params}
    distilled = unroll(features_of, own, start, target, config=config)
    return losses.LOSSES[config.loss].on_images(
      features_of, other, distilled, target, ridge=config.ridge
    )

  return loss


def learn_network(
  network: nn.Module,
  target: TargetSet,
  *,
  config: BilevelConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
) -> BilevelResult:
  """Learns a network's weights on random subsets of the large set.

  The same arguments on the same machine give the same bytes, also when the
  run was killed and started again on the same work directory.

  Args:
    network: f; its weights start at those of `config.theta_seed`.
    target: the large set Z.
    config: subsets, unrolled steps and updates.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: replaces that of the options.

  Returns:
    The network and the losses.

  Raises:
    ValueError: if the data set cannot serve the config, the network has state
      beside its parameters, or the work directory is another run's.
    FloatingPointError: when a loss or gradient is not finite.

  Example:
    >>> import toy
    >>> config = BilevelConfig(
    ...   min_classes=2,
    ...   max_classes=3,
    ...   max_images=12,
    ...   max_synthetic=6,
    ...   num_steps=1,
    ...   num_updates=2,
    ... )
    >>> len(learn_network(toy.problem()[0], toy.target(), config=config).losses)
    2
  """
  options = with_progress(options, progress_fn)
  image_shape, table = target.image_shape, target.class_table
  theta = FixedNetwork(network, config.theta_seed, image_shape)
  variables = theta.sample(image_shape)
  if extra := variables.keys() - {'params'}:
    raise ValueError(
      f'The network keeps {", ".join(extra)} beside its parameters, which '
      'unrolled steps do not update; take norm instance, group or none.'
    )
  drawn_subsets.check(table, config)
  named = computation.named(network, target.image_shape)
  claim_workdir(options, config, network_fields=named, **target.facts)
  network_key = jax.random.fold_in(jax.random.key(config.seed), 2**31)
  gradient_of = _gradient_fn(network, target.normalization, config)
  tx = optax.adam(
    optax.cosine_decay_schedule(config.update_rate, config.num_updates)
  )
  params = jax.tree.map(jnp.array, variables['params'])  # Donated below.
  state = params_step.init_state(params, tx)
  losses: list[jax.Array] = []
  loop = Loop('bi-level', state, num_steps=config.num_updates, options=options)
  with loop:
    for step in loop:
      first = step * config.batch_size
      results = []
      for number in range(first, first + config.batch_size):
        other = random_networks.sample(
          jax.random.fold_in(network_key, number), network, image_shape
        )
        draws = drawn_subsets.draw(table, [number], config=config)
        results.append(
          gradient_of(
            loop.state.params, other, *_images(target.dataset, draws), draws
          )
        )
      loop.state, loop.metrics = _update(loop.state, results, tx=tx)
      losses.append(loop.metrics['loss'])
  learned = learned_network(
    network,
    config.theta_seed,
    image_shape,
    {'params': loop.state.params},
    target.normalization.zca is not None,
  )
  return BilevelResult(learned, tuple(map(float, losses)))


def _images(dataset: Dataset, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
  """Real images of X_S before the first step and of X_T, `[1, n, h, w, c]`."""
  initial, target = (
    dataset.images[np.asarray(subset.rows)]
    for subset in (draws.initial, draws.target)
  )
  return initial, target


def _gradient_fn(
  network: nn.Module, normalization: Normalization, config: BilevelConfig
) -> Callable[..., tuple[jax.Array, Any]]:
  """The compiled loss and gradient of one subset."""
  loss = unrolled_loss(losses.feature_fn(network), config=config)

  @jax.jit
  def gradient_of(
    params: Any,
    other: Any,
    initial_images: jax.Array,
    target_images: jax.Array,
    draws: Draws,
  ) -> tuple[jax.Array, Any]:
    sets = []
    for images, subset in (
      (initial_images[0], draws.initial),
      (target_images[0], draws.target),
    ):
      mask = subset.mask[0]
      x = normalize(images, normalization) * mask[:, None, None, None]
      sets.append(LabeledSet(x, subset.labels[0], mask))
    return jax.value_and_grad(loss)(params, other, *sets)

  return gradient_of


@functools.partial(jax.jit, static_argnames='tx', donate_argnums=0)
def _update(
  state: ParamsState,
  results: list[tuple[jax.Array, Any]],
  *,
  tx: optax.GradientTransformation,
) -> tuple[ParamsState, dict[str, jax.Array]]:
  loss, gradient = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *results)
  return params_step.update(tx, state, loss, gradient)
