"""What pre-training minimises: the loss of translated images, or of their copy.

An objective is a pair of losses with the inputs they take; `pretraining` knows
nothing else about it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.core import krr, objective
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import processes
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache.batches import Sample
from fsdd_jax.types import LabeledSet, LossFn

Inputs = tuple[Any, LabeledSet, Any]
ScoreFn = Callable[[Callable[[LabeledSet], LabeledSet]], jax.Array]


class Problem(NamedTuple):
  """What an objective is made for.

  Attributes:
    network: f; its initialisers are Theta.
    dataset: the large set Z.
    normalization: how its images become network inputs.
    network_key: networks of updates are drawn from it.
    config: of pre-training.
  """

  network: nn.Module
  dataset: Dataset
  normalization: Normalization
  network_key: jax.Array
  config: PretrainingConfig


class Objective(NamedTuple):
  """Losses of `(variables, set, target)` and where these come from.

  Attributes:
    read_fn: makes a sample of an entry of the cache.
    loss_fn: of one translated set in one network.
    inputs: networks, sets and targets of an update, all with a leading axis
      `[b]`, from its number and a batch of this process.
    heldout_loss_fn: as `loss_fn`, for held-out subsets.
    heldout_inputs: a network, set and target for each subset of a batch, from
      the keys of a few networks, which serve the subsets in turn.
  """

  read_fn: cache_batches.ReadFn
  loss_fn: LossFn
  inputs: Callable[[int, Sample], Inputs]
  heldout_loss_fn: LossFn
  heldout_inputs: Callable[[jax.Array, Sample], list[Inputs]]


def sets_of(batch: Sample, normalization: Normalization) -> LabeledSet:
  """The distilled sets of a batch, `[b, n, ...]`, with their starts.

  Example:
    >>> import tempfile
    >>> import toy
    >>> from fsdd_jax.storage.cache import batches as cache_batches
    >>> _, dataset, transform = toy.problem()
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> batch = cache_batches.read(
    ...   source, dataset, cache_batches.without_images, rows=[0, 1]
    ... )
    >>> sets_of(batch, transform).start.shape
    (2, 6, 8, 8, 3)
  """
  keep = batch.synthetic.mask[..., None, None, None]
  start = _normalized(batch.start, normalization) * keep
  return batch.synthetic.replace(start=start)  # type: ignore[attr-defined]


@jax.jit
def _normalized(images: jax.Array, normalization: Normalization) -> jax.Array:
  flat = normalize(images.reshape(-1, *images.shape[-3:]), normalization)
  return flat.reshape(images.shape)


def in_turn(batch: Sample, sets: LabeledSet) -> list[tuple[LabeledSet, Sample]]:
  """Each set of a batch with its sample."""
  return [
    (
      jax.tree.map(lambda x, i=i: x[i], sets),
      jax.tree.map(lambda x, i=i: x[i], batch),
    )
    for i in range(len(batch.num_classes))
  ]


def translation(problem: Problem) -> Objective:
  """The loss of Alg. 2, lines 6-9, literally: fresh networks, images of X_T.

  Held-out subsets are scored by the statistics of their real images, so that
  a score costs no real image again.

  Args:
    problem: with a cache whose subsets name the images of X_T.

  Returns:
    The objective.
  """
  network, _, normalization, network_key, config = problem
  features_of = objective.feature_fn(network)
  krr_loss = objective.LOSSES[config.loss]

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    return krr_loss.on_images(
      features_of, variables, labeled, target, ridge=config.ridge
    )

  def heldout_loss_fn(
    variables: Any, labeled: LabeledSet, target: Any
  ) -> jax.Array:
    return krr_loss.on_statistics(
      features_of, variables, labeled, target, ridge=config.ridge
    )

  def target_of(batch: Sample) -> LabeledSet:
    images = _normalized(batch.images, normalization)
    return LabeledSet(images, batch.target.labels, batch.target.mask)

  def inputs(step: int, batch: Sample) -> Inputs:
    shape = batch.start.shape[-3:]
    keys = sample_keys(network_key, step, config.batch_size)
    networks = random_networks.sample_many(keys, network, shape)
    return networks, sets_of(batch, normalization), target_of(batch)

  @jax.jit
  def statistics(variables: Any, target: LabeledSet) -> krr.Statistics:
    features = features_of(variables, target.images)
    return krr.statistics(features, target.labels, target.mask)

  def heldout_inputs(keys: jax.Array, batch: Sample) -> list[Inputs]:
    shape = batch.start.shape[-3:]
    networks = [random_networks.sample(key, network, shape) for key in keys]
    result = []
    pairs = in_turn(batch, sets_of(batch, normalization))
    for i, (labeled, sample) in enumerate(pairs):
      variables = networks[i % len(networks)]
      stats = statistics(variables, target_of(sample))
      result.append((variables, labeled, stats))
    return result

  return Objective(
    cache_batches.with_images, loss_fn, inputs, heldout_loss_fn, heldout_inputs
  )


def sample_keys(key: jax.Array, step: int, size: int) -> jax.Array:
  """Keys of this process's samples of an update, one network each.

  Example:
    >>> import jax
    >>> sample_keys(jax.random.key(0), step=3, size=2).shape
    (2,)
  """
  return _keys_of(key, step * size, processes.own_places(size))


@functools.partial(jax.jit, static_argnums=2)
def _keys_of(key: jax.Array, first: int, numbers: range) -> jax.Array:
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  return fold_in(key, first + jnp.asarray(numbers))


def reconstruction(problem: Problem) -> Objective:
  """A plain auto-encoder's: G(x) is to be x again (the column `w AE`).

  Takes the same argument as `translation` and uses its normalisation alone. The
  images are those of the cache, which adaptation will translate. As
  G(x) = x + Delta, it teaches Delta to vanish; give the translator a head that
  is not near zero.

  Returns:
    The objective: mean squared error a value.
  """

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    del variables
    errors = jnp.mean((labeled.images - target) ** 2, axis=(1, 2, 3))
    return jnp.sum(errors * labeled.mask) / jnp.maximum(labeled.mask.sum(), 1.0)

  def inputs(step: int, batch: Sample) -> Inputs:
    del step
    return (), sets_of(batch, problem.normalization), batch.synthetic.images

  def heldout_inputs(keys: jax.Array, batch: Sample) -> list[Inputs]:
    del keys
    pairs = in_turn(batch, sets_of(batch, problem.normalization))
    return [((), labeled, labeled.images) for labeled, _ in pairs]

  return Objective(
    cache_batches.without_images, loss_fn, inputs, loss_fn, heldout_inputs
  )


def make_score(objective: Objective, keys: jax.Array, batch: Sample) -> ScoreFn:
  """Makes the held-out score of a translator.

  Args:
    objective: what is minimised.
    keys: of a few networks, which serve the subsets in turn; consumed.
    batch: the held-out subsets.

  Returns:
    A function that takes a function of a distilled set (the translator, or the
    identity for reference), and returns the mean loss `[]` of all sets after
    it.
  """
  every = objective.heldout_inputs(keys, batch)
  loss_fn = jax.jit(objective.heldout_loss_fn)

  def score(change: Callable[[LabeledSet], LabeledSet]) -> jax.Array:
    losses = [
      loss_fn(variables, change(labeled), target)
      for variables, labeled, target in every
    ]
    return jnp.mean(jnp.stack(losses))

  return score
