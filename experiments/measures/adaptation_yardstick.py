"""What a step of adaptation costs beside passes of the same sets alone."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import adaptation_samples
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.core import losses, params_step, translator_step
from fsdd_jax.data.normalization import standardization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks.fixed import FixedNetwork, maps_for
from fsdd_jax.networks.translator import MapsFn, translate
from fsdd_jax.types import LabeledSet
from measures import yardsticks

_POOL = 4  # Networks; their number does not change the cost of a step.


def adaptation_step(
  network: nn.Module,
  translator: nn.Module,
  *,
  batch_size: int,
  ipc: int,
  image_size: int,
  repeats: int,
) -> yardsticks.Pairs:
  """A step of adaptation over passes of the translator and of X_S alone.

  Alg. 3, lines 20-26, with a pool of networks whose statistics are kept, as
  `adaptation.adapt` runs it: with the draw and the stacking of its inputs. The
  yardstick is one forward and backward pass of the same sets through the
  translator and through their networks, without regression and optimiser.

  Args:
    network: f.
    translator: the module G.
    batch_size: sets a step, B.
    ipc: distilled images per class, of ten classes of noise.
    image_size: height and width.
    repeats: number of timed pairs.

  Returns:
    Seconds of a step, and of its yardstick.
  """
  config = AdaptationConfig(
    adapt_ipcs=(ipc,),
    num_adaptation_steps=repeats + 2,  # Those of the warm-up.
    batch_size=batch_size,
    network_pool=_POOL,
    thinned=0.0,
  )
  dataset = yardsticks.noise(100 * yardsticks.NUM_CLASSES, image_size)
  target = TargetSet(dataset, standardization(dataset.images))
  loss_fn, samples_at = adaptation_samples.pool(
    adaptation_samples.pool_networks(network, target, config), network, config
  )
  sets = {(ipc, 0): yardsticks.noisy_set(ipc, image_size)}
  sets_at = adaptation_samples.entries(sets, config)

  def batch_at(step: int) -> tuple[Any, LabeledSet, Any]:
    return adaptation_samples.stacked(sets_at(step), samples_at(step))

  image_shape = dataset.images.shape[1:]
  theta = FixedNetwork(network, 0, image_shape)
  maps_of = maps_for(translator, theta)
  tx = optax.adam(config.adaptation_learning_rate)
  state = translator_step.init_state(
    jax.random.key(1), translator, image_shape, tx, maps_of
  )
  params = jax.tree.map(jnp.copy, state.params)  # The first step donates them.
  step_fn = translator_step.make_step(translator, loss_fn, tx, maps_of=maps_of)

  numbers = itertools.count()

  def step() -> params_step.Metrics:
    nonlocal state
    state, values = step_fn(state, *batch_at(next(numbers)))
    return values

  features_of = losses.feature_fn(network)
  yardstick = jax.jit(_passes(translator, features_of, maps_of))
  variables, stack, _ = batch_at(0)
  first = jax.tree.map(lambda x: x[0], (variables, stack.images))
  inputs = params, variables, stack, jnp.ones_like(features_of(*first))
  return yardsticks.time_pairs(
    step, lambda: yardstick(*inputs), repeats=repeats
  )


def _passes(
  translator: nn.Module,
  features_of: losses.FeatureFn,
  maps_of: MapsFn | None = None,
) -> Callable[..., Any]:
  """Forward and backward of b sets, through G and through b networks."""

  def passes(
    params: Any, variables: Any, sets: LabeledSet, cotangent: jax.Array
  ) -> Any:
    images, pull_back = jax.vjp(
      lambda p: translate(translator, {'params': p}, sets, maps_of).images,
      params,
    )
    gradients = [
      yardsticks.pulled_back(
        features_of, jax.tree.map(lambda v, i=i: v[i], variables), x, cotangent
      )
      for i, x in enumerate(images)
    ]
    return pull_back(jnp.stack(gradients))[0]

  return passes
