"""What adaptation draws: sets, networks and their targets (Alg. 3, 20-24).

The paper draws theta' anew for each sample. A pool of networks whose statistics
over all target images are kept makes an update as cheap as one of distillation.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax import types
from fsdd_jax.algorithms import baselines
from fsdd_jax.algorithms.method_configs import AdaptationConfig
from fsdd_jax.algorithms.one_network import SetName
from fsdd_jax.core import losses
from fsdd_jax.data import inputs
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.random_networks import LossFn
from fsdd_jax.runtime import metrics, processes
from fsdd_jax.storage.pretrained import stage_keys
from fsdd_jax.types import LabeledSet

# A network's variables and its target, for each sample of a step that this
# process prepares: all B of them, if it is the only one.
SamplesFn = Callable[[int], list[tuple[Any, Any]]]
EntriesFn = Callable[[int], list[LabeledSet]]
BatchFn = Callable[[int], tuple[Any, LabeledSet, Any]]


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

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> config = AdaptationConfig(adapt_ipcs=(1, 2), batch_size=3)
    >>> _, dataset, transform = toy.problem()
    >>> sets = {
    ...   (ipc, 0): baselines.random_real(
    ...     jax.random.key(0), dataset, transform, ipc=ipc
    ...   )
    ...   for ipc in (1, 2)
    ... }
    >>> [len(labeled.mask) for labeled in entries(sets, config)(0)]
    [6, 6, 6]
  """
  names, key = list(sets), _keys(config)[0]
  shape = (config.num_adaptation_steps, config.batch_size)
  drawn = np.asarray(jax.random.randint(key, shape, 0, len(names), jnp.int32))
  thin_key = jax.random.fold_in(key, 1)
  shares = np.asarray(jax.random.uniform(thin_key, (*shape, 2), jnp.float32))
  smallest = min(len(sets[name].mask) // name[0] for name in names)
  sizes = sorted(
    {smallest * 2**power for power in range(max(names)[0].bit_length())}
    | {len(labeled.mask) for labeled in sets.values()}
  )

  def entry(step: int, place: int) -> LabeledSet:
    name = names[drawn[step, place]]
    (ipc, _), (chance, share) = name, shares[step, place]
    if chance >= config.thinned or ipc == 1:
      return sets[name]
    own = jax.random.fold_in(jax.random.fold_in(thin_key, step), place)
    return thin(own, sets[name], ipc, 1 + int(share * (ipc - 1)))

  def entries_at(step: int) -> list[LabeledSet]:
    chosen = [entry(step, place) for place in range(config.batch_size)]
    largest = max(len(labeled.mask) for labeled in chosen)
    size = next(size for size in sizes if size >= largest)
    return [types.pad(labeled, size) for labeled in chosen]

  return entries_at


def thin(
  key: jax.Array, labeled: LabeledSet, ipc: int, keep: int
) -> LabeledSet:
  """Random `keep` of the `ipc` images of each class, class by class.

  Args:
    key: random key, consumed.
    labeled: a set of `ipc` images a class, class by class, unpadded.
    ipc: images a class.
    keep: images a class to keep, at most `ipc`.

  Returns:
    The smaller set.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> _, dataset, transform = toy.problem()
    >>> four = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=4
    ... )
    >>> thin(jax.random.key(1), four, 4, 2).images.shape
    (6, 8, 8, 3)
  """
  noise = jax.random.uniform(key, (len(labeled.mask) // ipc, ipc))
  chosen = np.asarray(jax.lax.top_k(noise, keep)[1])
  rows = (chosen + ipc * np.arange(len(chosen))[:, None]).reshape(-1)
  return jax.tree.map(lambda x: x[rows], labeled)


def pool(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  config: AdaptationConfig,
  clock: metrics.StageClock,
  networks: inputs.InputsFn | None = None,
) -> tuple[LossFn, SamplesFn]:
  """Samples in a pool of networks, against the statistics of all images.

  Args:
    network: f, whose weights theta' are drawn for the pool.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: the size of the pool, S and B.
    clock: gets the seconds of the statistics.
    networks: the pool, as of `pool_networks`, which draws it by default.

  Returns:
    The loss of a sample and the samples of each step.

  Example:
    >>> import toy
    >>> from fsdd_jax.runtime import metrics
    >>> config = AdaptationConfig(network_pool=2, batch_size=1)
    >>> loss_fn, samples_at = pool(*toy.problem(), config, metrics.StageClock())
    >>> [(variables, stats)] = samples_at(0)
    >>> stats.count.item()
    24.0
  """
  order_key = _keys(config)[2]
  size = config.batch_size
  order = baselines.network_order(
    order_key,
    config.network_pool,
    config.num_adaptation_steps * size,
    revisit=True,
  )
  inputs_of = networks or pool_networks(
    network, dataset, normalization, config, clock
  )

  @functools.cache
  def fill() -> None:  # Before the first step, so that times do not mix.
    for index in sorted(set(order.tolist())):
      inputs_of(index, 0)

  def samples_at(step: int) -> list[tuple[Any, Any]]:
    fill()
    own = [step * size + place for place in processes.own_places(size)]
    return [inputs_of(int(index), 0) for index in order[own]]

  loss_fn = losses.LOSSES[config.loss].on_statistics
  return _in_network(loss_fn, network, config), samples_at


def pool_networks(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  config: AdaptationConfig,
  clock: metrics.StageClock | None = None,
) -> inputs.InputsFn:
  """The networks of an adaptation's pool, each with the statistics of X_T.

  `adaptation.adapt` makes them itself. Made here, they may be handed to it and
  to `baselines.distill_over_networks`, which then sums no statistics anew.

  Args:
    network: f, whose weights theta' are drawn for the pool.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: the size of the pool and the seed of its weights.
    clock: gets the seconds of the statistics.

  Returns:
    A function of the network's number, and of the step, which plays no part;
    it sums the statistics of a network at the first call with its number.

  Example:
    >>> import toy
    >>> config = AdaptationConfig(network_pool=2)
    >>> networks = pool_networks(*toy.problem(), config)
    >>> variables, stats = networks(0, 0)
    >>> stats.count.item(), networks(0, 5)[1] is stats
    (24.0, True)
  """
  return _statistics(
    _keys(config)[1],
    network,
    dataset,
    normalization,
    config,
    clock or metrics.StageClock(),
  )


def fresh(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  config: AdaptationConfig,
  clock: metrics.StageClock,
) -> tuple[LossFn, SamplesFn]:
  """Samples in networks that are drawn anew (Alg. 3, line 22).

  Args:
    network: f, whose weights theta' are drawn for each sample.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: real images a sample (0: the statistics of all), S and B.
    clock: gets the seconds of the statistics.

  Returns:
    The loss of a sample and the samples of each step.

  Example:
    >>> import toy
    >>> from fsdd_jax.runtime import metrics
    >>> config = AdaptationConfig(real_batch=6, batch_size=1)
    >>> loss_fn, samples_at = fresh(
    ...   *toy.problem(), config, metrics.StageClock()
    ... )
    >>> [(variables, target)] = samples_at(0)
    >>> target.images.shape
    (6, 8, 8, 3)
  """
  _, network_key, _, batch_key = _keys(config)
  size = config.batch_size
  if config.real_batch:
    loss_fn = losses.LOSSES[config.loss].on_images
    inputs_of = inputs.from_batches(
      batch_key,
      _draw(network_key, network, dataset),
      dataset,
      normalization,
      label_coding=config.label_coding,
      size=config.real_batch,
      keep=1,
    )
  else:
    loss_fn = losses.LOSSES[config.loss].on_statistics
    inputs_of = _statistics(
      network_key, network, dataset, normalization, config, clock
    )

  def samples_at(step: int) -> list[tuple[Any, Any]]:
    first, own = step * config.batch_size, processes.own_places(size)
    if config.real_batch:
      return [inputs_of(first + place, first + place) for place in own]
    # All processes sum each network's statistics together.
    every = [inputs_of(first + i, first + i) for i in range(size)]
    return [every[place] for place in own]

  return _in_network(loss_fn, network, config), samples_at


def stacked(sets_at: EntriesFn, samples_at: SamplesFn) -> BatchFn:
  """The inputs of `translator_step` at each step (Alg. 3, lines 20-24).

  Args:
    sets_at: as of `entries`.
    samples_at: as of `pool` or `fresh`.

  Returns:
    A function of the step that gives networks, sets and targets of the samples
    that this process prepares, all with leading axis `[b]`.

  Example:
    >>> import toy
    >>> from fsdd_jax.runtime import metrics
    >>> problem = toy.problem()
    >>> config = AdaptationConfig(adapt_ipcs=(1,), network_pool=2, batch_size=2)
    >>> _, samples_at = pool(*problem, config, metrics.StageClock())
    >>> real = baselines.random_real(jax.random.key(0), *problem[1:], ipc=1)
    >>> inputs_at = stacked(entries({(1, 0): real}, config), samples_at)
    >>> networks, sets, targets = inputs_at(0)
    >>> sets.images.shape, targets.gram.shape
    ((2, 3, 8, 8, 3), (2, 64, 64))
  """

  def batch_at(step: int) -> tuple[Any, LabeledSet, Any]:
    variables, targets = zip(*samples_at(step), strict=True)
    sets = sets_at(step)
    own = [sets[place] for place in processes.own_places(len(sets))]
    return _stack(*variables), _stack(*own), _stack(*targets)

  return batch_at


@jax.jit
def _stack(*trees: Any) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _keys(config: AdaptationConfig) -> jax.Array:
  """Keys of entries, networks, their order and real images."""
  return jax.random.split(stage_keys(config.seed)[1], 4)


def _draw(
  key: jax.Array, network: nn.Module, dataset: Dataset
) -> inputs.DrawFn:
  def draw(index: int) -> Any:
    own = jax.random.fold_in(key, index)
    return random_networks.sample(own, network, dataset.images.shape[1:])

  return draw


def _statistics(
  key: jax.Array,
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  config: AdaptationConfig,
  clock: metrics.StageClock,
) -> inputs.InputsFn:
  total = config.num_adaptation_steps * config.batch_size
  return inputs.from_statistics(
    losses.feature_fn(network),
    _draw(key, network, dataset),
    dataset,
    normalization,
    label_coding=config.label_coding,
    num_networks=config.network_pool or total,
    keep=config.network_pool or 1,
    clock=clock,
    part='adaptation statistics',
  )


def _in_network(
  loss_fn: Callable[..., jax.Array],
  network: nn.Module,
  config: AdaptationConfig,
) -> LossFn:
  features_of = losses.feature_fn(network)

  def loss(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    return loss_fn(features_of, variables, labeled, target, ridge=config.ridge)

  return loss
