"""The state of pre-training, and what a file of its translator records."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.core import translator_step
from fsdd_jax.core.params_step import ParamsState
from fsdd_jax.networks import extractors
from fsdd_jax.networks.translator import MapsFn
from fsdd_jax.storage.cache.manifest import COMPUTES, Manifest


@flax.struct.dataclass
class PretrainingState:
  """All that a resumed run needs.

  Attributes:
    translator: the translator's parameters and optimiser.
    best_params: its parameters of the lowest held-out loss so far.
    heldout_losses: `[evaluations]`, infinite where not yet computed.
  """

  translator: ParamsState
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
  start: Mapping[str, Any] | None = None,
) -> PretrainingState:
  """Starts from a random or a given translator (Alg. 2, line 1).

  Args:
    key: random key, consumed.
    translator: the module G.
    image_shape: `(h, w, c)`.
    tx: the optimiser of omega.
    num_scores: most held-out losses that will be kept.
    maps_of: theta's feature maps, for a translator that sees them.
    start: variables of the same translator, in place of random ones.

  Returns:
    The state of step 0.

  Raises:
    ValueError: if `start` is of another translator.
  """
  omega = translator_step.init_state(key, translator, image_shape, tx, maps_of)
  # A copy, as the first step donates the parameters.
  best = jax.tree.map(jnp.copy, omega.params)
  state = PretrainingState(
    omega, best, jnp.full(num_scores, jnp.inf, jnp.float32)
  )
  return state if start is None else _with_params(state, start['params'])


def _with_params(
  state: PretrainingState, params: Mapping[str, Any]
) -> PretrainingState:
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


def record_of(
  state: PretrainingState,
  untranslated: float,
  manifest: Manifest,
  learned: range,
  heldout: range,
  config: PretrainingConfig,
) -> dict[str, Any]:
  """Settings, steps, losses and why a run ended, as JSON values."""
  done, ended_by = int(state.step), 'caller'
  if done == config.num_steps:
    ended_by = 'step limit'
  elif is_plateau(state.curve, config.patience):
    ended_by = 'plateau'
  return {
    'config': dataclasses.asdict(config),
    'cache': manifest.digest.hex(),
    'num_steps': done,
    'ended_by': ended_by,
    'learned_subsets': [learned.start, learned.stop],
    'heldout_subsets': [heldout.start, heldout.stop],
    'heldout_losses': state.curve,
    'best_heldout_loss': min(state.curve),
    'untranslated_loss': untranslated,
  }


def translator_metadata(
  translator: nn.Module, manifest: Manifest, record: Mapping[str, Any]
) -> dict[str, Any]:
  """What `weight_files.save_translator` writes beside omega_0.

  Args:
    translator: the module G.
    manifest: of the cache it was pre-trained on; it has theta's seed and
      network, the normalisation and the resolution.
    record: of `pretrain`.

  Returns:
    JSON values.
  """
  network = dict(manifest.network)
  network.pop(COMPUTES, None)  # A translator outlives a version of JAX.
  return {
    'theta_seed': manifest.network_seed,
    'network': network,
    'translator': extractors.describe_network(translator),
    'normalization': dict(manifest.normalization),
    'image_shape': list(manifest.image_shape),
    'dataset': manifest.dataset,
    'caching': dict(manifest.configuration),
    'training': dict(record),
  }
