"""What pre-training minimises: the loss of translated images, or of their copy.

An objective is a pair of losses with the inputs they take; `pretraining` knows
nothing else about it.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms import pretraining_samples as samples
from fsdd_jax.algorithms.pretraining_banks import (
  NetworkBanks,
  Problem,
  network_numbers,
  target_of,
)
from fsdd_jax.core import krr_errors
from fsdd_jax.core.losses import LOSSES, feature_fn
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import processes
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache.batches import Sample
from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.types import LabeledSet, LossFn

_CHOICES = 2**31 - 1  # Beyond the numbers of networks.

Inputs = tuple[Any, LabeledSet, Any]
ScoreFn = Callable[[Callable[[LabeledSet], LabeledSet]], jax.Array]


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


def translation(problem: Problem) -> Objective:
  """The loss of Alg. 2, lines 6-9, literally: fresh networks, images of X_T.

  Held-out subsets are scored by the statistics of their real images, so that
  a score costs no real image again.

  Args:
    problem: with a cache whose subsets name the images of X_T.

  Returns:
    The objective.
  """
  network, large, network_key, config = problem
  normalization = large.normalization
  features_of = feature_fn(network)
  loss_fn, heldout_loss_fn = (
    functools.partial(loss, features_of, ridge=config.ridge)
    for loss in LOSSES[config.loss]
  )

  def target_of(batch: Sample) -> LabeledSet:
    images = samples.normalized(batch.images, normalization)
    return LabeledSet(images, batch.target.labels, batch.target.mask)

  def inputs(step: int, batch: Sample) -> Inputs:
    shape = batch.start.shape[-3:]
    keys = samples.sample_keys(network_key, step, config.batch_size)
    networks = random_networks.sample_many(keys, network, shape)
    return networks, samples.sets_at(problem, step, batch), target_of(batch)

  @jax.jit
  def statistics(variables: Any, target: LabeledSet) -> krr_errors.Statistics:
    features = features_of(variables, target.images)
    return krr_errors.statistics(features, target.labels, target.mask)

  def heldout_inputs(keys: jax.Array, batch: Sample) -> list[Inputs]:
    shape = batch.start.shape[-3:]
    networks = [random_networks.sample(key, network, shape) for key in keys]
    result = []
    pairs = samples.one_by_one(batch, normalization)
    for i, (labeled, sample) in enumerate(pairs):
      variables = networks[i % len(networks)]
      stats = statistics(variables, target_of(sample))
      result.append((variables, labeled, stats))
    return result

  return Objective(
    cache_batches.with_images, loss_fn, inputs, heldout_loss_fn, heldout_inputs
  )


def translation_in_banks(
  problem: Problem, root: pathlib.Path | None = None
) -> Objective:
  """The loss of Alg. 2, lines 6-9, in a window of networks with banks.

  Args:
    problem: what is minimised; `bank_networks` of its config is at least 1.
    root: folder of the banks; None: `array_store.default_root`.

  Returns:
    The objective.
  """
  network, large, network_key, config = problem
  normalization = large.normalization
  features_of = feature_fn(network)
  banks = NetworkBanks(problem, root)
  number_of = network_numbers(
    jax.random.fold_in(network_key, _CHOICES),
    config.batch_size,
    pool=config.bank_networks,
    renew_every=config.bank_renewal,
  )

  loss_fn = functools.partial(
    LOSSES[config.loss].on_statistics, features_of, ridge=config.ridge
  )

  def inputs(step: int, batch: Sample) -> Inputs:
    if config.bank_renewal:
      banks.forget_before(step // config.bank_renewal)
    networks, targets = [], []
    for i, place in enumerate(processes.own_places(config.batch_size)):
      variables, bank = banks.of_number(number_of(step, place))
      networks.append(variables)
      targets.append(
        target_of(bank, batch.classes[i], batch.num_classes[i], problem)
      )
    sets = samples.sets_at(problem, step, batch)
    return _stack(networks), sets, _stack_targets(targets)

  def heldout_inputs(keys: jax.Array, batch: Sample) -> list[Inputs]:
    networks = [banks.of_key(key) for key in keys]
    result: list[Inputs] = []
    pairs = samples.one_by_one(batch, normalization)
    for i, (labeled, sample) in enumerate(pairs):
      variables, bank = networks[i % len(networks)]
      target = target_of(bank, sample.classes, sample.num_classes, problem)
      result.append((variables, labeled, target))
    return result

  return Objective(
    cache_batches.without_images, loss_fn, inputs, loss_fn, heldout_inputs
  )


def reconstruction(problem: Problem) -> Objective:
  """A plain auto-encoder's: G(x) is to be x again (the column `w AE`).

  Takes the same argument as `translation` and uses its normalisation alone. The
  images are those of the cache, which adaptation will translate. As
  G(x) = x + Delta, it teaches Delta to vanish; give the translator a head that
  is not near zero.

  Returns:
    The objective: mean squared error a value.
  """
  normalization = problem.large.normalization

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    del variables
    errors = jnp.mean((labeled.images - target) ** 2, axis=(1, 2, 3))
    return jnp.sum(errors * labeled.mask) / jnp.maximum(labeled.mask.sum(), 1.0)

  def inputs(step: int, batch: Sample) -> Inputs:
    sets = samples.sets_at(problem, step, batch)
    return (), sets, sets.images

  def heldout_inputs(keys: jax.Array, batch: Sample) -> list[Inputs]:
    del keys
    pairs = samples.one_by_one(batch, normalization)
    return [((), labeled, labeled.images) for labeled, _ in pairs]

  return Objective(
    cache_batches.without_images, loss_fn, inputs, loss_fn, heldout_inputs
  )


def choose(problem: Problem, manifest: Manifest) -> Objective:
  """What the config asks for.

  Raises:
    ValueError: if the cache of the manifest cannot serve it.
  """
  config = problem.config
  # A cache of before this setting was noted is taken.
  coding = manifest.configuration.get('label_coding', config.label_coding)
  if coding != config.label_coding:
    raise ValueError(
      f'label_coding: {coding!r} in the cache, {config.label_coding!r} now. '
      f'Set label_coding to {coding!r}, or build another cache.'
    )
  if config.objective == 'reconstruction':
    return reconstruction(problem)
  if config.bank_networks:
    return translation_in_banks(problem)
  if not manifest.target_size:
    raise ValueError(
      'The subsets of this cache are scored on all images of their classes '
      '(max_images=0), which cannot pass fresh networks at each update; set '
      'bank_networks to 1 or more.'
    )
  return translation(problem)


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


@jax.jit
def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stack_targets(targets: list[krr_errors.FeatureSet]) -> Any:
  if isinstance(targets[0].features, jax.Array):
    return _stack(targets)
  return jax.tree.map(lambda *leaves: np.stack(leaves), *targets)
