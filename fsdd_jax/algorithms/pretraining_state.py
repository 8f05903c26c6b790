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
from fsdd_jax.networks.translator import MapsFn
from fsdd_jax.runtime.devices import Devices
from fsdd_jax.types import LossFn

UpdateFn = Callable[..., tuple['PretrainingState', dict[str, jax.Array]]]


@flax.struct.dataclass
class PretrainingState:
  """All that a resumed run needs.

  Attributes:
    translator: the translator's parameters and optimiser.
    best_params: its parameters of the lowest held-out loss so far.
    heldout_losses: `[evaluations]`, infinite where not yet computed.

  Example:
    >>> import jax.numpy as jnp
    >>> import toy
    >>> params = toy.translator().variables['params']
    >>> omega = TranslatorState(jnp.array(3), params, opt_state=())
    >>> state = PretrainingState(omega, params, jnp.array([0.5, jnp.inf]))
    >>> state.step.item(), state.curve
    (3, [0.5])
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

  Example:
    >>> import jax
    >>> import optax
    >>> import toy
    >>> g, tx = toy.translator().translator, optax.sgd(0.1)
    >>> init_state(jax.random.key(0), g, (8, 8, 3), tx, num_scores=2).curve
    []
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
  """Notes a held-out loss at its place, and the parameters if it is lowest.

  Example:
    >>> import jax.numpy as jnp
    >>> import toy
    >>> params = toy.translator().variables['params']
    >>> omega = TranslatorState(jnp.array(3), params, opt_state=())
    >>> state = PretrainingState(omega, params, jnp.array([jnp.inf, jnp.inf]))
    >>> keep_best(state, 0, jnp.array(0.5)).curve
    [0.5]
  """
  better = loss < state.heldout_losses.min()
  best = jax.tree.map(
    lambda new, old: jnp.where(better, new, old),
    state.translator.params,
    state.best_params,
  )
  losses = state.heldout_losses.at[place].set(loss)
  return PretrainingState(state.translator, best, losses)


def is_plateau(curve: list[float], patience: int) -> bool:
  """Whether the last `patience` held-out losses of a curve set no record.

  Example:
    >>> is_plateau([3.0, 2.0, 2.5, 2.5], patience=2)
    True
  """
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

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import toy
    >>> from fsdd_jax import types
    >>> from fsdd_jax.runtime import devices
    >>> start, tx = toy.translator(), optax.sgd(0.1)
    >>> loss_fn = lambda theta, labeled, target: jnp.mean(labeled.images)
    >>> update = make_update(
    ...   start.translator,
    ...   loss_fn,
    ...   tx,
    ...   networks_per_call=1,
    ...   devices=devices.ALONE,
    ... )
    >>> key = jax.random.key(0)
    >>> state = init_state(key, start.translator, (8, 8, 3), tx, 1)
    >>> one = types.labeled_set(jnp.ones((1, 8, 8, 3)), jnp.ones((1, 1)))
    >>> sets = jax.tree.map(lambda x: x[None], one)
    >>> state, metrics = update(state, (jnp.zeros(1), sets, jnp.zeros(1)))
    >>> state.step.item(), sorted(metrics)
    (1, ['gradient_norm', 'loss'])
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
