"""Seconds and memory of the tasks of a table, by a few timed calls of each."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax import zoo
from fsdd_jax.algorithms import bilevel, translated_sets
from fsdd_jax.algorithms.adaptation_config import (
  AdaptationConfig,
  LabelConfig,
)
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
  SubsetConfig,
  TranslatorConfig,
)
from fsdd_jax.algorithms.method_configs import (
  BilevelConfig,
  CachingConfig,
  PretrainingConfig,
)
from fsdd_jax.types import LabeledSet
from measures import costs, programs
from measures.costs import NOTHING, Estimate, real_pass
from measures.programs import Problem, Program
from workbench import config_flags, problems, shapes
from workbench.columns import REAL
from workbench.tasks import Task

_LARGE_DEFAULTS = {'dataset': 'fractals'}  # Of the binaries that read Z.


def _of_distill(task: Task) -> Estimate:
  data, network, config, labels = config_flags.parse(
    task.arguments, DataConfig, NetworkConfig, DistillationConfig, LabelConfig
  )
  fitted = NOTHING
  if labels.label_networks:
    fitted = _label_passes(
      shapes.problem_of(data, network),
      *(labels.label_networks, labels.label_images),
    )
  if REAL in task.arguments:
    return fitted
  reduced_to = None
  if 'theta' in task.needs:
    reduced_to = _large(task.needs['theta'])[0].image_shape
  problem = shapes.problem_of(
    data, network, reduced_to=reduced_to, error=config.loss
  )
  own = costs.of(
    programs.step,
    problem,
    config.ipc * problem.num_classes,
    loss=config.loss,
    ridge=config.ridge,
    num_target=min(config.real_batch, problem.num_real),
  ).times(config.num_steps)
  own = own.then(fitted)
  if config.real_batch:
    return own
  kept = config.num_networks if config.revisit else 1
  passes = real_pass(problem).times(config.num_networks)
  return passes.then(own).beside(problem.kept_bytes(kept))


def _of_adapt(task: Task) -> Estimate:
  data, network, own = config_flags.parse(
    task.arguments, DataConfig, NetworkConfig, TranslatorConfig
  )
  reduced_to, translator, known = _translator(task, own)
  (config,) = config_flags.parse(task.arguments, AdaptationConfig, **known)
  # Without adaptation, the set that is asked for is the only one.
  starts = config.num_starts if config.num_adaptation_steps else 1
  problem, in_theta = (
    shapes.problem_of(data, network, reduced_to=shape, error=config.loss)
    for shape in (None, reduced_to)
  )
  parts = [real_pass(in_theta)] + [
    costs.of(
      programs.step,
      where,
      ipc * where.num_classes,
      loss=config.loss,
      ridge=config.ridge,
    ).times(num_steps)
    for where, num_steps in (
      (in_theta, config.num_steps * starts),
      (problem, config.finishing_steps),
    )
    for ipc in config.adapt_ipcs
    if num_steps
  ]
  if config.num_adaptation_steps:
    parts.append(_adaptation(problem, translator, config))
  sums, size = config.sums_statistics, config.network_pool
  if sums or config.label_images:
    parts.append(
      _label_passes(problem, size, 0 if sums else config.label_images)
    )
  return NOTHING.then(*parts).beside(problem.kept_bytes(size) if sums else 0)


def _label_passes(problem: Problem, networks: int, images: int) -> Estimate:
  """Passes of some real images, 0 for all, through a number of networks."""
  share = images / problem.num_real if images else 1
  return real_pass(problem).times(networks * min(1, share))


def _translator(
  task: Task, own: TranslatorConfig
) -> tuple[tuple[int, ...] | None, nn.Module, dict[str, Any]]:
  """Of a translator, theta's resolution if it has one, module and settings."""
  if 'translator' in task.needs:
    made = task.needs['translator']
    large, _, (own,) = _large(made, TranslatorConfig)
    (cached,) = config_flags.parse(
      made.needs['cache'].arguments, CachingConfig, **_LARGE_DEFAULTS
    )
    known = {x: getattr(cached, x) for x in translated_sets.SETTINGS}
    return large.image_shape, problems.make_translator(own), known
  found = [x for x in task.arguments if x.startswith('--translator=')]
  path = found[-1].partition('=')[2]
  if path == 'none':
    return None, problems.make_translator(own), {}
  given = zoo.load_translator(path)
  known = translated_sets.settings_of(given)
  return given.theta.image_shape, given.translator, known


def _adaptation(
  problem: Problem, translator: nn.Module, config: AdaptationConfig
) -> Estimate:
  """The updates of Alg. 3, and the networks that are not of a pool."""
  samples = config.num_adaptation_steps * config.batch_size
  batches = not config.network_pool and config.real_batch
  share = config.num_adaptation_steps / len(config.adapt_ipcs)
  updates = [
    costs.of(
      programs.update,
      problem,
      translator,
      programs.loss_in(
        problem, config.loss, ridge=config.ridge, on_images=bool(batches)
      ),
      ipc * problem.num_classes,
      batch_size=config.batch_size,
      num_target=batches,
    ).times(share)
    for ipc in config.adapt_ipcs
  ]
  whole = NOTHING.then(*updates)
  if batches or config.network_pool:
    return whole
  passes = real_pass(problem).times(samples)
  return whole.then(passes).beside(problem.kept_bytes(config.batch_size))


def _large(
  task: Task, *config_classes: type
) -> tuple[Problem, NetworkConfig, tuple[Any, ...]]:
  """The problem of a task on the large set, and configs of its own."""
  data, network, *own = config_flags.parse(
    task.arguments,
    DataConfig,
    NetworkConfig,
    *config_classes,
    **_LARGE_DEFAULTS,
  )
  return shapes.problem_of(data, network), network, tuple(own)


def _mean_subset(problem: Problem, config: SubsetConfig) -> tuple[Problem, int]:
  """A subset of Z of mean size, and its number of distilled images."""
  num_classes = (config.min_classes + config.max_classes) // 2
  real = min(config.max_images or problem.num_real, problem.num_real)
  subset = dataclasses.replace(problem, num_classes=num_classes, num_real=real)
  # I is uniform up to I_max / C, so that C I is half of I_max at the mean.
  return subset, max(num_classes, config.max_synthetic // 2)


def _of_cache(task: Task) -> Estimate:
  problem, _, (config,) = _large(task, CachingConfig)
  subset, num_synthetic = _mean_subset(problem, config)
  one = costs.of(
    programs.step,
    subset,
    num_synthetic,
    loss=config.loss,
    ridge=config.ridge,
  )
  augmented = config.augmentation != 'none'
  if augmented and not config.augmented_copies:
    passes = real_pass(subset).times(config.num_steps * config.num_subsets)
  else:
    passes = real_pass(problem).times(config.augmented_copies * augmented or 1)
  # Memory grows with the subsets side by side, and by the largest of them.
  side_by_side = 2 * one.num_bytes * config.subsets_per_batch
  whole = one.times(config.num_steps * config.num_subsets).then(passes)
  return whole._replace(num_bytes=max(side_by_side, whole.num_bytes))


def _of_pretrain(task: Task) -> Estimate:
  problem, _, (config, own) = _large(task, PretrainingConfig, TranslatorConfig)
  (subsets,) = config_flags.parse(
    task.needs['cache'].arguments, CachingConfig, **_LARGE_DEFAULTS
  )
  subset, num_synthetic = _mean_subset(problem, subsets)
  is_copy = config.objective == 'reconstruction'
  banks = 0 if is_copy else config.bank_networks
  loss_fn = programs.loss_in(
    subset, config.loss, ridge=config.ridge, on_images=not banks
  )
  one = costs.of(
    programs.update,
    subset,
    problems.make_translator(own),
    _loss_of_copy if is_copy else loss_fn,
    num_synthetic,
    batch_size=config.batch_size,
    num_target=num_synthetic if is_copy else 0 if banks else subset.num_real,
  )
  held = min(
    config.heldout_subsets,
    subsets.num_heldout,
  )
  scores = -(-config.num_steps // config.eval_every) * held
  # A score is a forward pass, a third of an update's work on one set.
  updates = one.times(config.num_steps + scores / (3 * config.batch_size))
  if not banks:
    return updates
  renewals = config.num_steps // (config.bank_renewal or config.num_steps + 1)
  kept = config.bank_images * problem.num_classes or problem.num_real
  bank = dataclasses.replace(problem, num_real=kept)
  networks = banks + renewals + config.heldout_networks
  return updates.then(real_pass(bank).times(networks))


def _loss_of_copy(
  variables: Any, labeled: LabeledSet, goal: LabeledSet
) -> jax.Array:
  del variables
  return jnp.mean((labeled.images - goal.images) ** 2)


def _of_bilevel(task: Task) -> Estimate:
  problem, _, (config,) = _large(task, BilevelConfig)
  subset, num_synthetic = _mean_subset(problem, config)
  loss_fn = bilevel.unrolled_loss(subset.features_of, config=config)

  def make_arguments() -> tuple[Any, ...]:
    variables = subset.variables()
    sets = subset.noise(num_synthetic), subset.noise(subset.num_real)
    return variables['params'], variables, *sets

  one = costs.measure(Program(jax.value_and_grad(loss_fn), make_arguments))
  return one.times(config.num_updates * config.batch_size)


BINARIES: dict[str, Callable[[Task], Estimate]] = {
  'adapt.py': _of_adapt,
  'bilevel.py': _of_bilevel,
  'cache.py': _of_cache,
  'distill.py': _of_distill,
  'pretrain.py': _of_pretrain,
}


def of_task(task: Task) -> Estimate:
  """What a task of a table's columns takes, without those that it needs.

  Subsets of Z count at their mean size, and the steps of an adaptation spread
  evenly over its IPCs.

  Args:
    task: of `columns.COLUMNS`, or one that it needs.

  Returns:
    Seconds and bytes on this device.

  Raises:
    ValueError, FileNotFoundError: as for `sources.size`.
  """
  return BINARIES[pathlib.Path(task.binary).name](task)
