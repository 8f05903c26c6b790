"""The state of pre-training: the translator, its best version, its scores."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.core import translator_step
from fsdd_jax.core.translator_step import TranslatorState
from fsdd_jax.networks.random_networks import LossFn
from fsdd_jax.networks.translator import MapsFn
from fsdd_jax.runtime.devices import Devices

UpdateFn = Callable[..., tuple['PretrainingState', dict[str, jax.Array]]]


@flax.struct.dataclass
class PretrainingState:
  """All that a resumed run needs.

  Attributes:
    translator: the translator's parameters and optimiser.
    best_params: its parameters of the lowest held-out loss so far.
    heldout_losses: `[evaluations]`, infinite where not yet computed.
  """

  translator: TranslatorState
  best_params: Mapping[str, Any]
  heldout_losses: jax.Array  # [evaluations]

  @property
  def step(self) -> jax.Array:
    """`[]` int32, updates done."""
    return self.translator.step

  @property
  def curve(self) -> list[float]:
    """The held-out losses so far, on the host."""
    return [x for x in self.heldout_losses.tolist() if x < math.inf]


def init_state(
  key: jax.Array,
  translator: nn.Module,
  image_shape: tuple[int, ...],
  tx: optax.GradientTransformation,
  num_scores: int,
  maps_of: MapsFn | None = None,
) -> PretrainingState:
  """Starts from a random translator (Alg. 2, line 1).

  Args:
    key: random key, consumed.
    translator: the module G.
    image_shape: `(h, w, c)`.
    tx: the optimiser of omega.
    num_scores: most held-out losses that will be kept.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    The state of step 0.
  """
  state = translator_step.init_state(key, translator, image_shape, tx, maps_of)
  # A copy, as the first step donates the parameters.
  best = jax.tree.map(jnp.copy, state.params)
  return PretrainingState(state, best, jnp.full(num_scores, jnp.inf))


def go_on_from(
  state: PretrainingState, params: Mapping[str, Any]
) -> PretrainingState:
  """The state of step 0 with other parameters than random ones.

  Args:
    state: of step 0.
    params: of the same translator.

  Returns:
    The state, with copies of the parameters.

  Raises:
    ValueError: if the parameters are those of another translator.
  """
  shapes, expected = (
    jax.tree.map(jnp.shape, dict(x)) for x in (params, state.best_params)
  )
  if shapes != expected:
    raise ValueError(
      'The translator to go on from has other layers; give its body, inputs, '
      'width and number of blocks.'
    )
  own, best = (jax.tree.map(jnp.array, dict(params)) for _ in range(2))
  omega = dataclasses.replace(state.translator, params=own)
  return dataclasses.replace(state, translator=omega, best_params=best)


@jax.jit
def keep_best(
  state: PretrainingState, place: int, loss: jax.Array
) -> PretrainingState:
  """Notes a held-out loss at its place, and the parameters if it is lowest."""
  better = loss < state.heldout_losses.min()
  best = jax.tree.map(
    lambda new, old: jnp.where(better, new, old),
    state.translator.params,
    state.best_params,
  )
  losses = state.heldout_losses.at[place].set(loss)
  return PretrainingState(state.translator, best, losses)


def is_plateau(curve: list[float], patience: int) -> bool:
  """Whether the last `patience` held-out losses of a curve set no record."""
  if not patience or not curve:
    return False
  return len(curve) - 1 - int(np.argmin(curve)) >= patience


def make_update(
  translator: nn.Module,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  networks_per_call: int,
  devices: Devices,
  maps_of: MapsFn | None = None,
) -> UpdateFn:
  """Makes the update (Alg. 2, lines 3-11), which devices share.

  Args:
    translator: the module G.
    loss_fn: maps `(variables, set, target)` of one network to a scalar.
    tx: the optimiser of omega.
    networks_per_call: as for `translator_step.make_step`.
    devices: what shares the batches; `devices.replicate` places a state on
      them before the first update.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    `update(state, (networks, sets, targets)) -> (state, metrics)`, which
    donates the translator of the state.
  """
  step = translator_step.make_step(
    translator,
    loss_fn,
    tx,
    networks_per_call=networks_per_call,
    spread=devices.mean,
    maps_of=maps_of,
  )

  def update(
    state: PretrainingState, inputs: tuple
  ) -> tuple[PretrainingState, dict[str, jax.Array]]:
    new, values = step(state.translator, *devices.shard(inputs))
    return dataclasses.replace(state, translator=new), values

  return update
