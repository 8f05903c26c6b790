"""RFAD: distillation in several fresh networks a step (Loo et al., 2022).

Their features side by side are a random feature approximation of the NNGP
kernel; the loss is the cross-entropy of scaled predictions (Platt).
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import distillation
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers.frame import Peer, Plan, Setup
from fsdd_jax.algorithms.peers.peer_configs import RfadConfig
from fsdd_jax.core import distill_step, krr, krr_errors, losses
from fsdd_jax.core.platt import platt_error, scaled_cross_entropy
from fsdd_jax.networks import random_networks
from fsdd_jax.types import LabeledSet, labeled_set

Learned = dict[str, jax.Array]

# K = 2 F F' + 0.01, RFAD's kernel of features F.
_GAIN, _OFFSET = 2.0, 0.01


def random_features(features_of: losses.FeatureFn) -> losses.FeatureFn:
  """Features of several networks at once, whose Gram matrix is RFAD's kernel.

  Args:
    features_of: those `[n, d]` of one network.

  Returns:
    A function of a tuple of N networks' variables and images; `[n, N d + 1]`.
  """

  def extract(networks: tuple[Any, ...], images: jax.Array) -> jax.Array:
    parts = [features_of(variables, images) for variables in networks]
    features = jnp.concatenate(parts, axis=1)
    scaled = features * (_GAIN / features.shape[1]) ** 0.5
    offset = jnp.full((len(images), 1), _OFFSET**0.5, scaled.dtype)
    return jnp.concatenate([scaled, offset], axis=1)

  return extract


@flax.struct.dataclass
class RfadState:
  """What one step maps to the next.

  Attributes:
    step: `[]` int32, steps done.
    learned: `images`, `labels`; where they are learned, `log_scale` `[]` of
      predictions, and `linear_map` `[h w c, h w c]` of images.
    opt_state: the optimiser's state.
  """

  step: jax.Array  # []
  learned: Learned
  opt_state: optax.OptState

  @property
  def synthetic(self) -> LabeledSet:
    """The distilled set (X_S, Y_S), mapped."""
    return mapped_set(self.learned)


def mapped_set(learned: Learned) -> LabeledSet:
  """The distilled set that learned values make: images times the linear map."""
  images = learned['images']
  if 'linear_map' in learned:
    flat = images.reshape(len(images), -1)
    images = (flat @ learned['linear_map']).reshape(images.shape)
  return labeled_set(images, learned['labels'])


def init_state(
  start: LabeledSet, config: DistillationConfig, own: RfadConfig
) -> tuple[RfadState, optax.GradientTransformation]:
  """The state before the first step, and the optimiser of all that is learned.

  Args:
    start: the set before the first step.
    config: optimiser and rates of images and labels.
    own: rates of the scale and of the map, by AdaBelief.

  Returns:
    Both; the images are copied, as the first step donates them.
  """
  further: dict[str, optax.GradientTransformation] = {}
  learned = {
    'images': jnp.array(start.images),
    'labels': jnp.array(start.labels),
  }
  if own.platt and own.platt_learning_rate:
    learned['log_scale'] = jnp.zeros((), jnp.float32)
    further['log_scale'] = optax.adabelief(own.platt_learning_rate)
  if own.map_learning_rate:
    learned['linear_map'] = jnp.eye(start.images[0].size, dtype=jnp.float32)
    further['linear_map'] = optax.adabelief(own.map_learning_rate)
  tx = distillation.optimizer(config, config.num_steps, **further)
  return RfadState(jnp.zeros((), jnp.int32), learned, tx.init(learned)), tx


def loss_of(
  learned: Learned,
  variables: tuple[Any, ...],
  target: LabeledSet,
  *,
  features_of: losses.FeatureFn,
  config: DistillationConfig,
  own: RfadConfig,
) -> jax.Array:
  """What a step of RFAD minimises.

  Args:
    learned: that of `RfadState`.
    variables: of the N networks.
    target: a batch of real images.
    features_of: that of `random_features`.
    config: its ridge and, without Platt's, its loss.
    own: whether the loss is Platt's.

  Returns:
    `[]`.
  """
  error_fn = krr_errors.ERRORS[config.loss].on_images
  if 'log_scale' in learned:

    def error_fn(weights: Any, features: Any, labels: Any, mask: Any) -> Any:
      predictions = krr.predict(features, weights)
      return scaled_cross_entropy(
        learned['log_scale'], predictions, labels, mask
      )

  elif own.platt:
    error_fn = platt_error
  return losses.krr_loss(
    features_of,
    variables,
    mapped_set(learned),
    target,
    ridge=config.ridge,
    error_fn=error_fn,
  )


def plan(setup: Setup) -> Plan:
  """The steps of RFAD; not taken over is its float64.

  Args:
    setup: with an `RfadConfig`.

  Returns:
    The plan; the networks seen are those of the last step.
  """
  config, own = setup.config, setup.own

  def draw(step: int) -> tuple[Any, ...]:
    keys = jax.random.split(
      jax.random.fold_in(setup.network_key, step), own.networks_per_step
    )
    return tuple(
      random_networks.sample(key, setup.network, setup.image_shape)
      for key in keys
    )

  features_of = random_features(losses.feature_fn(setup.network))
  loss_fn = functools.partial(
    loss_of, features_of=features_of, config=config, own=own
  )
  state, tx = init_state(setup.start, config, own)

  @functools.partial(jax.jit, donate_argnums=0)
  def step(
    state: RfadState, variables: tuple[Any, ...], target: LabeledSet
  ) -> tuple[RfadState, distill_step.Metrics]:
    loss, gradient = jax.value_and_grad(loss_fn)(
      state.learned, variables, target
    )
    learned, opt_state, values = distill_step.update(
      tx, state.learned, state.opt_state, loss, gradient
    )
    return RfadState(state.step + 1, learned, opt_state), values

  diagnose = distillation.in_features(features_of, ridge=config.ridge)
  return Plan(
    step,
    state,
    lambda index: (draw(index), setup.batch(index)),
    lambda index, state: diagnose(draw(index), state.synthetic),
    lambda state: list(draw(config.num_steps - 1)),
  )


RFAD = Peer('RFAD', plan, RfadConfig)
