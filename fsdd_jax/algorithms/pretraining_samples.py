"""What an update of pre-training reads: distilled sets (Alg. 2, line 4)."""

import functools

import jax
import jax.numpy as jnp

from fsdd_jax.algorithms.pretraining_banks import Problem
from fsdd_jax.core import jitter
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.runtime import processes
from fsdd_jax.storage.cache.batches import Sample
from fsdd_jax.types import LabeledSet

_MOVES = 2**31 - 2  # Beyond the numbers of networks.


def sets_of(batch: Sample, normalization: Normalization) -> LabeledSet:
  """The distilled sets of a batch, `[b, n, ...]`, with their starts."""
  keep = batch.synthetic.mask[..., None, None, None]
  start = normalized(batch.start, normalization) * keep
  return batch.synthetic.replace(start=start)  # type: ignore[attr-defined]


def sets_at(problem: Problem, step: int, batch: Sample) -> LabeledSet:
  """The distilled sets of an update, moved with their starts by the config.

  A set that was distilled while its images moved is as good as its mirror
  image, so each epoch shows other sets.

  Args:
    problem: its config names the moves.
    step: number of the update.
    batch: of this process.
  """
  sets = sets_of(batch, problem.large.normalization)
  moves, size = problem.config.jitter, problem.config.batch_size
  if not moves:
    return sets
  key = jax.random.fold_in(problem.network_key, _MOVES)
  return _moved(sample_keys(key, step, size), sets, moves)


@functools.partial(jax.jit, static_argnums=2)
def _moved(
  keys: jax.Array, sets: LabeledSet, moves: tuple[str, ...]
) -> LabeledSet:
  return jax.vmap(functools.partial(jitter.move_set, names=moves))(keys, sets)


@jax.jit
def normalized(images: jax.Array, normalization: Normalization) -> jax.Array:
  """Network inputs of uint8 images `[b, n, h, w, c]`."""
  flat = normalize(images.reshape(-1, *images.shape[-3:]), normalization)
  return flat.reshape(images.shape)


def one_by_one(
  batch: Sample, normalization: Normalization
) -> list[tuple[LabeledSet, Sample]]:
  """Each distilled set of a batch, `[n, ...]`, with its sample."""
  sets = sets_of(batch, normalization)
  return [
    (
      jax.tree.map(lambda x, i=i: x[i], sets),
      jax.tree.map(lambda x, i=i: x[i], batch),
    )
    for i in range(len(batch.num_classes))
  ]


def sample_keys(key: jax.Array, step: int, size: int) -> jax.Array:
  """Keys of this process's samples of an update, one network each."""
  return _keys_of(key, step * size, processes.own_places(size))


@functools.partial(jax.jit, static_argnums=2)
def _keys_of(key: jax.Array, first: int, numbers: range) -> jax.Array:
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  return fold_in(key, first + jnp.asarray(numbers))
