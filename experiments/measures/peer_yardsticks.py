"""Steps of the peers' methods, over the passes that they cannot do without."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import PEERS, frame
from fsdd_jax.algorithms.peers.network_pool import with_mirror_images
from fsdd_jax.algorithms.peers.peer_configs import (
  FrepoConfig,
  RcigConfig,
  RfadConfig,
)
from fsdd_jax.core import losses
from fsdd_jax.data.normalization import standardization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.options import Config
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import LabeledSet, labeled_set
from measures import yardsticks

PassesFn = Callable[[Any, LabeledSet, LabeledSet], Any]


def step_of(
  method: str,
  network: nn.Module,
  own: Config,
  *,
  real_batch: int,
  ipc: int,
  image_size: int,
  repeats: int,
) -> yardsticks.Pairs:
  """A step of a method, its first, over what `PASSES` has for it.

  Networks and real images are drawn before. Images are noise, of ten classes.

  Args:
    method: a name in `PASSES`.
    network: f.
    own: the method's own settings.
    real_batch: real images a step.
    ipc: distilled images per class.
    image_size: height and width.
    repeats: number of timed pairs.

  Returns:
    Seconds of a step, and of its yardstick.
  """
  dataset = yardsticks.noise(max(real_batch, 10 * ipc), image_size)
  peer = PEERS[method]
  setup = frame.prepare(
    peer.title,
    network,
    TargetSet(dataset, standardization(dataset.images)),
    config=DistillationConfig(ipc=ipc, real_batch=real_batch),
    own=own,
    options=LoopOptions(),
    start=None,
  )
  plan = peer.plan(setup)
  state, inputs = plan.state, plan.inputs_at(0)

  def step() -> Any:
    nonlocal state
    state, values = plan.step(state, *inputs)
    return state, values  # Networks of a pool may be trained after the values.

  passes = jax.jit(PASSES[method](network, own))
  variables = setup.draw(0, 0)
  # A copy, as the step donates its state.
  images = jnp.array(plan.state.synthetic.images)
  synthetic = labeled_set(images, setup.start.labels)
  real = setup.batch(0)
  return yardsticks.time_pairs(
    step, lambda: passes(variables, synthetic, real), repeats=repeats
  )


def _in_features(
  network: nn.Module, fitted_fn: Callable[[LabeledSet], LabeledSet]
) -> PassesFn:
  """Forward and backward of X_S, and forward of the real images."""
  features_of = losses.feature_fn(network)

  def passes(variables: Any, synthetic: LabeledSet, real: LabeledSet) -> Any:
    def summed(images: jax.Array) -> jax.Array:
      fitted = fitted_fn(dataclasses.replace(synthetic, images=images))
      # Squares, whose gradient is no constant that the compiler would fold.
      return (features_of(variables, fitted.images) ** 2).sum()

    gradient = jax.grad(summed)(synthetic.images)
    return gradient, features_of(variables, real.images)

  return passes


def _fitted_fn(own: Any) -> Callable[[LabeledSet], LabeledSet]:
  """What networks are fitted to: X_S, with its mirror images if these count."""
  return with_mirror_images if own.mirror else lambda labeled: labeled


def _of_frepo(network: nn.Module, own: FrepoConfig) -> PassesFn:
  """X_S with its mirror images, and the real images."""
  return _in_features(network, _fitted_fn(own))


def _of_rfad(network: nn.Module, own: RfadConfig) -> PassesFn:
  """X_S alone and the real images, in each of its networks."""
  in_one = _in_features(network, lambda labeled: labeled)

  def passes(variables: Any, synthetic: LabeledSet, real: LabeledSet) -> Any:
    # Other weights for each, or the compiler would make them one.
    several = [
      jax.tree.map(lambda x, i=i: x + i * 1e-3, variables)
      for i in range(own.networks_per_step)
    ]
    return [in_one(v, synthetic, real) for v in several]

  return passes


def _of_rcig(network: nn.Module, own: RcigConfig) -> PassesFn:
  """Along the weights and back: X_S in each step of a solver, and real images.

  Each is linearised once.
  """

  def passes(variables: Any, synthetic: LabeledSet, real: LabeledSet) -> Any:
    def there_and_back(images: jax.Array) -> Callable[[Any], Any]:
      def logits(params: Any) -> jax.Array:
        return network.apply({**variables, 'params': params}, images)[0]

      params = variables['params']
      _, slope = jax.linearize(logits, params)
      transpose = jax.linear_transpose(slope, params)

      def move(t: Any) -> Any:
        (t,) = transpose(slope(t))
        # Else it grows beyond all bounds.
        norm = optax.tree.norm(t)
        return jax.tree.map(lambda x: x / norm, t)

      return move

    fitted = _fitted_fn(own)(synthetic)
    on_set, t = there_and_back(fitted.images), variables['params']
    for _ in range(own.num_inner_steps + own.num_hessian_steps):
      t = on_set(t)
    return there_and_back(real.images)(t)

  return passes


# By the name of the method, what makes its passes.
PASSES: dict[str, Callable[..., PassesFn]] = {
  'frepo': _of_frepo,
  'rfad': _of_rfad,
  'rcig': _of_rcig,
}
# Of each method; one network of a pool, and one update of it a step.
CPU_SETTINGS: dict[str, Config] = {
  'frepo': FrepoConfig(pool_size=1),
  'rfad': RfadConfig(networks_per_step=2, platt_learning_rate=0),
  'rcig': RcigConfig(
    pool_size=1,
    most_online_steps=1,
    solver='cg',
    num_inner_steps=5,
    num_hessian_steps=5,
    platt_learning_rate=0,
  ),
}
