"""An update of a network's or a translator's parameters by an optimiser."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Metrics = dict[str, jax.Array]
Params = Mapping[str, Any]


@flax.struct.dataclass
class ParamsState:
  """What one update maps to the next.

  Attributes:
    step: `[]` int32, updates done.
    params: parameters of a network or of the translator (omega).
    opt_state: the optimiser's state over them.
  """

  step: jax.Array  # []
  params: Params
  opt_state: optax.OptState


def init_state(params: Params, tx: optax.GradientTransformation) -> ParamsState:
  """State before the first update, which holds the given arrays."""
  return ParamsState(jnp.zeros((), jnp.int32), params, tx.init(params))


def update(
  tx: optax.GradientTransformation,
  state: ParamsState,
  loss: jax.Array,
  gradient: Params,
) -> tuple[ParamsState, Metrics]:
  """One update of the parameters.

  Args:
    tx: the optimiser.
    state: before the update.
    loss: `[]`.
    gradient: of the loss by the parameters.

  Returns:
    The state after it, and the metrics `loss` and `gradient_norm`, both `[]`.
  """
  updates, opt_state = tx.update(gradient, state.opt_state, state.params)
  metrics = {'loss': loss, 'gradient_norm': optax.tree.norm(gradient)}
  params = optax.apply_updates(state.params, updates)
  return ParamsState(state.step + 1, params, opt_state), metrics
