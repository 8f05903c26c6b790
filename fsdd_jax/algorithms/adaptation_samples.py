"""What an update of adaptation draws: sets and networks (Alg. 3, 20-22)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax import types
from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.in_theta import SetName
from fsdd_jax.core import losses
from fsdd_jax.data.target import DrawFn, NetworksFn, TargetSet, drawn
from fsdd_jax.runtime import metrics, preemption, processes, residence
from fsdd_jax.storage.translators import stage_keys
from fsdd_jax.types import LabeledSet, LossFn

EntriesFn = Callable[[int], list[LabeledSet]]
# A network's variables and its target, for each sample of a step that this
# process prepares: all B of them, if it is the only one.
SamplesFn = Callable[[int], list[tuple[Any, Any]]]


def entries(
  sets: Mapping[SetName, LabeledSet], config: AdaptationConfig
) -> EntriesFn:
  """Draws random entries of D for each step (Alg. 3, line 20).

  Some entries are thinned: any I images a class of a larger set are a set of
  IPC I. They are padded to the largest of the step, which has one of few sizes:
  as few to compile, and no work on padding where all are small.

  Args:
    sets: D, by IPC and start.
    config: S, B and the share of entries that are thinned.

  Returns:
    A function of the step that gives B sets of one size.
  """
  names, key = list(sets), _keys(config)[0]
  shape = (config.num_adaptation_steps, config.batch_size)
  chosen = np.asarray(jax.random.randint(key, shape, 0, len(names), jnp.int32))
  thin_key = jax.random.fold_in(key, 1)
  shares = np.asarray(jax.random.uniform(thin_key, (*shape, 2), jnp.float32))
  smallest = min(len(sets[name].mask) // name[0] for name in names)
  sizes = residence.padded_sizes(
    [smallest * 2**power for power in range(max(names)[0].bit_length())]
    + [len(labeled.mask) for labeled in sets.values()]
  )

  def entry(step: int, place: int) -> tuple[LabeledSet, int]:
    name = names[chosen[step, place]]
    (ipc, _), (chance, share) = name, shares[step, place]
    labeled = sets[name]
    size = len(labeled.mask)
    if chance >= config.thinned or ipc == 1:
      return labeled, size
    own = jax.random.fold_in(jax.random.fold_in(thin_key, step), place)
    keep = 1 + int(share * (ipc - 1))
    return thin(own, labeled, ipc, keep), keep * (size // ipc)

  def entries_at(step: int) -> list[LabeledSet]:
    found = [entry(step, place) for place in range(config.batch_size)]
    largest = max(used for _, used in found)
    size = next(size for size in sizes if size >= largest)
    return [_of_size(labeled, size) for labeled, _ in found]

  return entries_at


@functools.partial(jax.jit, static_argnums=1)
def _of_size(labeled: LabeledSet, size: int) -> LabeledSet:
  """Pads a set to a size, or cuts its padding down to it."""
  if len(labeled.mask) <= size:
    return types.pad(labeled, size)
  return jax.tree.map(lambda x: x[:size], labeled)


@functools.partial(jax.jit, static_argnums=2)
def thin(
  key: jax.Array, labeled: LabeledSet, ipc: int, keep: int | jax.Array
) -> LabeledSet:
  """Random `keep` of the `ipc` images of each class, class by class.

  Args:
    key: random key, consumed.
    labeled: a set of `ipc` images a class, class by class, unpadded.
    ipc: images a class.
    keep: images a class to keep, from 1 to `ipc`.

  Returns:
    The smaller set, padded to the size of the larger one. So one program
    serves all numbers, and the host need not wait for the draw.
  """
  total = len(labeled.mask)
  noise = jax.random.uniform(key, (total // ipc, ipc), jnp.float32)
  order = jax.lax.top_k(noise, ipc)[1]
  of_class, place = jnp.divmod(jnp.arange(total), keep)
  used = of_class < total // ipc
  of_class = jnp.where(used, of_class, 0)
  rows = ipc * of_class + order[of_class, place]

  def choose(x: jax.Array) -> jax.Array:
    return jnp.where(used.reshape(-1, *[1] * (x.ndim - 1)), x[rows], 0)

  return jax.tree.map(choose, labeled)


def pool_networks(
  network: nn.Module,
  target: TargetSet,
  config: AdaptationConfig,
  clock: metrics.StageClock | None = None,
  part: str = 'adaptation statistics',
) -> NetworksFn:
  """The networks of an adaptation's pool, each with the statistics of X_T.

  `adaptation.adapt` makes them itself. Made here, they may be handed to it and
  to `baseline.distill_over_networks`, which then sums no statistics anew.

  Args:
    network: f, whose weights theta' are drawn for the pool.
    target: the target set (X_T, Y_T).
    config: the size of the pool and the seed of its weights.
    clock: gets the seconds of the statistics.
    part: their name there.

  Returns:
    A function of the network's number; it sums the statistics of a network at
    the first call with its number.

  Example:
    >>> import toy
    >>> pool = pool_networks(
    ...   toy.problem()[0], toy.target(), AdaptationConfig(network_pool=2)
    ... )
    >>> variables, statistics = pool(1)
  """
  target = target.coded(config.label_coding)
  total = config.num_adaptation_steps * config.batch_size
  return target.networks(
    losses.feature_fn(network),
    _draw(network, target, config),
    error=config.loss,
    num_networks=config.network_pool or total,
    keep=config.network_pool or 1,
    clock=clock,
    part=part,
  )


def pool(
  networks: NetworksFn, network: nn.Module, config: AdaptationConfig
) -> tuple[LossFn, SamplesFn]:
  """Samples in a pool of networks, against the statistics of all images.

  Args:
    networks: the pool, which `pool_networks` makes.
    network: their module, f.
    config: the size of the pool, S and B.

  Returns:
    The loss of a sample and the samples of each step.
  """
  size = config.batch_size
  order = baseline.network_order(
    _keys(config)[2],
    config.network_pool,
    config.num_adaptation_steps * size,
    revisit=True,
  )

  @functools.cache
  def fill() -> None:  # Before the first step, so that times do not mix.
    for index in sorted(set(order.tolist())):
      networks(index)
      # The loop would obey a signal after all networks, minutes later.
      if processes.any_process(preemption.requested()):
        preemption.stop('What was saved before is intact')

  def samples_at(step: int) -> list[tuple[Any, Any]]:
    fill()
    own = [step * size + place for place in processes.own_places(size)]
    return [networks(int(index)) for index in order[own]]

  return _loss(network, config, on_images=False), samples_at


def fresh(
  network: nn.Module,
  target: TargetSet,
  config: AdaptationConfig,
  clock: metrics.StageClock,
) -> tuple[LossFn, SamplesFn]:
  """Samples in networks that are drawn anew (Alg. 3, line 22).

  Args:
    network: f, whose weights theta' are drawn for each sample.
    target: the target set (X_T, Y_T).
    config: real images a sample (0: the statistics of all), S and B.
    clock: gets the seconds of the statistics.

  Returns:
    The loss of a sample and the samples of each step.
  """
  size = config.batch_size
  on_batch = with_batches(network, target, config, config.real_batch)
  networks = pool_networks(network, target, config, clock)

  def on_batches(step: int) -> list[tuple[Any, Any]]:
    numbers = [step * size + place for place in processes.own_places(size)]
    return [on_batch(number) for number in numbers]

  def on_statistics(step: int) -> list[tuple[Any, Any]]:
    # All processes sum each network's statistics together.
    every = [networks(step * size + place) for place in range(size)]
    return [every[place] for place in processes.own_places(size)]

  samples_at = on_batches if config.real_batch else on_statistics
  return _loss(network, config, on_images=config.real_batch > 0), samples_at


def with_batches(
  network: nn.Module, target: TargetSet, config: AdaptationConfig, size: int
) -> Callable[[int], tuple[Any, LabeledSet]]:
  """The networks of `pool_networks`, each with real images of its own.

  Args:
    network: f, whose weights theta' are drawn.
    target: the target set (X_T, Y_T).
    config: the seed of weights and images.
    size: class-balanced real images a network.

  Returns:
    A function of the network's number.
  """
  target = target.coded(config.label_coding)
  draw, key = _draw(network, target, config), _keys(config)[3]

  def on_batch(number: int) -> tuple[Any, LabeledSet]:
    batch_key = jax.random.fold_in(key, number)
    return draw(number), target.batch(batch_key, size)

  return on_batch


def stacked(
  sets: Sequence[LabeledSet], samples: Sequence[tuple[Any, Any]]
) -> tuple[Any, LabeledSet, Any]:
  """The inputs of an update (Alg. 3, lines 20-24).

  Args:
    sets: of a step, as `entries` gives them.
    samples: of that step, as `pool` or `fresh` gives them.

  Returns:
    Networks, sets and targets of the samples that this process prepares, all
    with leading axis `[b]`.
  """
  variables, targets = zip(*samples, strict=True)
  own = [sets[place] for place in processes.own_places(len(sets))]
  return _stack(*variables), _stack(*own), _stack(*targets)


@jax.jit
def _stack(*trees: Any) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _keys(config: AdaptationConfig) -> jax.Array:
  """Keys of entries, networks, their order and real images."""
  return jax.random.split(stage_keys(config.seed)[1], 4)


def _draw(
  network: nn.Module, target: TargetSet, config: AdaptationConfig
) -> DrawFn:
  return drawn(_keys(config)[1], network, target.image_shape)


def _loss(
  network: nn.Module, config: AdaptationConfig, *, on_images: bool
) -> LossFn:
  loss = losses.LOSSES[config.loss]
  return functools.partial(
    loss.on_images if on_images else loss.on_statistics,
    losses.feature_fn(network),
    ridge=config.ridge,
  )
