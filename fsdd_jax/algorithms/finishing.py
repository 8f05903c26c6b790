"""What may follow translation: labels in closed form, and direct steps.

Both are in the networks of an adaptation's pool. Neither is in the paper.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.adaptation_samples import pool_networks, with_batches
from fsdd_jax.core import krr_errors, label_fit, losses
from fsdd_jax.data.target import NetworksFn, TargetSet
from fsdd_jax.options import out_of_range
from fsdd_jax.runtime import finite, metrics
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import LabeledSet

# How strongly one network holds labels where they are, as no other network says
# how; chosen on held-out images.
_STRENGTH_OF_ONE = 1.0


def method_name(method: str, config: AdaptationConfig) -> str:
  """The name of what a config makes of a method's translated set."""
  if config.fit_labels:
    method += f', labels({config.network_pool})'
  if config.finishing_steps:
    method += f', then Pool({config.network_pool})'
  return method


def fit_labels(
  network: nn.Module,
  labeled: LabeledSet,
  target: TargetSet,
  *,
  config: AdaptationConfig,
  networks: NetworksFn | None = None,
  clock: metrics.StageClock | None = None,
) -> LabeledSet:
  """Replaces labels by those of least squared error over the pool's networks.

  Translation makes new images, but keeps the labels that were learned in theta
  for the images before; real images have those of their classes. How far labels
  may move, each half of the networks says for the other half.

  Args:
    network: f, as for `adapt`.
    labeled: a translated set, or any other; its images stay.
    target: the target set (X_T, Y_T).
    config: as for `adapt`; the size of the pool, the real images of each
      network and the ridge.
    networks: the pool that `pool_networks` made of the target set, if it is
      there already. It sums nothing here if the config has a number of real
      images.
    clock: gets the seconds of `labels, IPC <I>`; those of the pool's
      statistics are a part of their own.

  Returns:
    The set with new labels, which stay as near the old ones as is best.

  Raises:
    FloatingPointError: if labels are not finite.
    ValueError: if the config has no pool.

  Example:
    >>> import toy
    >>> network, target = toy.problem()[0], toy.target()
    >>> config = AdaptationConfig(network_pool=2)
    >>> real = target.random_real(jax.random.key(0), ipc=2)
    >>> fit_labels(network, real, target, config=config).labels.shape
    (6, 3)
  """
  clock = clock or metrics.StageClock()
  network_at: Callable[[int], tuple[Any, krr_errors.Target | LabeledSet]]
  if not config.network_pool:
    raise out_of_range('network_pool', 0, '1 or more, for fit_labels')
  network_at = networks or pool_networks(
    network, target, config, clock, part='label statistics'
  )
  # More images than there are would be some of them twice.
  if 0 < config.label_images <= len(target.labels):
    network_at = with_batches(network, target, config, config.label_images)
  ipc = int(labeled.mask.sum()) // labeled.labels.shape[1]
  with clock.part(f'labels, IPC {ipc}'):
    halves: list[label_fit.LabelSums] = []
    for index in range(config.network_pool):
      variables, seen = network_at(index)
      found = _sums(network, variables, labeled, seen, config.ridge)
      # The memory of one network's real images serves the next.
      jax.block_until_ready(found)
      if index < 2:
        halves.append(found)
      else:
        before = halves[index % 2]
        halves[index % 2] = jax.tree.map(jnp.add, before, found)
    labels = _fitted(halves, labeled)
    fitted = dataclasses.replace(labeled, labels=labels)
    finite.check(
      fitted,
      'The set with fitted labels',
      'Its images may have no features in these networks, as constant ones, or '
      'the ridge is too small.',
    )
    return fitted


@jax.jit
def _fitted(
  halves: list[label_fit.LabelSums], labeled: LabeledSet
) -> jax.Array:
  labels, mask = labeled.labels, labeled.mask
  if len(halves) == 1:
    return label_fit.fit(halves[0], labels, mask, strength=_STRENGTH_OF_ONE)
  return label_fit.fit_checked((halves[0], halves[1]), labels, mask)[0]


@functools.partial(jax.jit, static_argnums=0)
def _sums(
  network: nn.Module,
  variables: Any,
  labeled: LabeledSet,
  seen: krr_errors.Target | LabeledSet,
  ridge: float,
) -> label_fit.LabelSums:
  features_of = losses.feature_fn(network)
  if isinstance(seen, LabeledSet):
    features = features_of(variables, seen.images)
    seen = krr_errors.FeatureSet(features, seen.labels, seen.mask)
  features = features_of(variables, labeled.images)
  return label_fit.label_sums(features, labeled.mask, seen, ridge=ridge)


def finish(
  network: nn.Module,
  translated: LabeledSet,
  target: TargetSet,
  *,
  ipc: int,
  config: AdaptationConfig,
  networks: NetworksFn,
  options: LoopOptions | None = None,
) -> baseline.DistillationResult:
  """Goes on from translated images by direct steps in the adaptation's pool.

  Its rate is low, as a high one leaves the start behind.

  Args:
    network: f, as for `adapt`.
    translated: what `distill_dataset` returned.
    target: the target set (X_T, Y_T).
    ipc: images per class.
    config: as for `adapt`; `finishing_steps` and `finishing_learning_rate`.
    networks: the pool that `pool_networks` made.
    options: progress, logs, checkpoints.

  Returns:
    What `baseline.distill_over_networks` returns, and it raises the same.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms.adaptation_samples import pool_networks
    >>> network, target = toy.problem()[0], toy.target()
    >>> config = AdaptationConfig(network_pool=2, finishing_steps=2)
    >>> real = target.random_real(jax.random.key(0), ipc=1)
    >>> finish(
    ...   network,
    ...   real,
    ...   target,
    ...   ipc=1,
    ...   config=config,
    ...   networks=pool_networks(network, target, config),
    ... ).synthetic.images.shape
    (3, 8, 8, 3)
  """
  return baseline.distill_over_networks(
    network,
    target,
    config=dataclasses.replace(
      config.distillation(ipc),
      num_steps=config.finishing_steps,
      learning_rate=config.finishing_learning_rate,
      num_networks=config.network_pool,
      revisit=True,
    ),
    options=options,
    start=translated,
    networks=networks,
    part=f'finishing, IPC {ipc}',
  )
