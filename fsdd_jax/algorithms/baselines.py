"""Alg. 4: distillation over R networks, one after another or as a pool.

R = 1 is the column `1 Net` of the paper's tables, R = T the column `Baseline`.
`Pool(R)` is ours: it keeps the statistics of all R networks and visits them in
random order, so that R passes over the target images pay for all T steps.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.distill_loop import LossFn, distill_from, in_features
from fsdd_jax.core import losses
from fsdd_jax.data import inputs, subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import (
  Normalization,
  describe_normalization,
  normalize,
)
from fsdd_jax.networks import random_networks
from fsdd_jax.options import whole
from fsdd_jax.runtime import hashes, metrics
from fsdd_jax.runtime.loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.types import LABEL_CODINGS, LabeledSet, labeled_set

# Seen networks a report scores in: the last of a long sequence say enough.
_MAX_SEEN = 5


@dataclasses.dataclass(frozen=True)
class DistillationResult:
  """What `distill_over_networks` returns.

  Attributes:
    synthetic: the distilled set (X_S, Y_S).
    seen: variables of (at most five of) the networks it was distilled in.
    seconds: seconds a part: statistics, distillation, compilation.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import configs
    >>> config = configs.DistillationConfig(ipc=1, num_steps=1)
    >>> result: DistillationResult = distill_over_networks(
    ...   *toy.problem(), config=config
    ... )
    >>> len(result.seen), sorted(result.seconds)
    (1, ['compilation', 'distillation', 'statistics'])
  """

  synthetic: LabeledSet
  seen: list[Any]
  seconds: dict[str, float]


def method_name(config: DistillationConfig) -> str:
  """The row of a table that a config makes.

  Example:
    >>> from fsdd_jax.algorithms import configs
    >>> method_name(configs.DistillationConfig(num_networks=16, revisit=True))
    'Pool(16)'
  """
  if config.num_networks == 1:
    return '1 Net'
  if config.revisit:
    return f'Pool({config.num_networks})'
  if config.num_networks == config.num_steps:
    return 'Baseline'
  return f'Baseline(R={config.num_networks})'


def random_real(
  key: jax.Array,
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipc: int,
  label_coding: str = 'centered',
  short_classes: str = 'error',
) -> LabeledSet:
  """Random images of each class: the start of Alg. 4 (lines 1-6), and a row.

  Args:
    key: consumed.
    dataset: the target set.
    normalization: how its images become network inputs.
    ipc: images per class, I.
    label_coding: a name in `LABEL_CODINGS`.
    short_classes: of a class with fewer than `ipc` images: `error`, `repeat`
      (they recur in turn), or `noise` (normal pixels in their place).

  Returns:
    `ipc * k` images, class by class.

  Raises:
    ValueError: naming the class that has fewer than `ipc` images.

  Example:
    >>> import jax
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> random_real(jax.random.key(0), dataset, transform, ipc=2).images.shape
    (6, 8, 8, 3)
  """
  num_classes = dataset.num_classes
  ipc = whole('ipc', ipc, least=1)
  table = subsets.class_table(dataset.labels, num_classes)
  counts = np.asarray(table.counts)
  if short_classes == 'error' and counts.min() < ipc:
    raise ValueError(
      f'Class {dataset.class_names[int(counts.argmin())]!r} has {counts.min()} '
      f'images, fewer than ipc = {ipc}; take a smaller ipc, or set '
      'short_classes to repeat or noise.'
    )
  rows = np.asarray(subsets.sample_ipc_in_turn(key, table, ipc))
  labels = LABEL_CODINGS[label_coding](
    jnp.asarray(dataset.labels[rows]), num_classes
  )
  images = normalize(dataset.images[rows], normalization)
  if short_classes == 'noise' and counts.min() < ipc:
    missing = np.tile(np.arange(ipc), num_classes) >= np.repeat(counts, ipc)
    noise = jax.random.normal(
      jax.random.fold_in(key, 1), images.shape, jnp.float32
    )
    images = jnp.where(missing[:, None, None, None], noise, images)
  return labeled_set(images, labels)


def network_order(
  key: jax.Array, num_networks: int, num_steps: int, *, revisit: bool
) -> np.ndarray:
  """Which network each step uses.

  Args:
    key: consumed; only a pool draws from it.
    num_networks: R.
    num_steps: T.
    revisit: visit all networks in a new random order each round (Pool),
      instead of floor(T/R) steps in one after another (Alg. 4, lines 7-10).

  Returns:
    `[steps]` int array; R * floor(T/R) steps without `revisit`, else T.

  Example:
    >>> import jax
    >>> network_order(jax.random.key(0), 3, 6, revisit=False).tolist()
    [0, 0, 1, 1, 2, 2]
  """
  if not revisit:
    return np.repeat(np.arange(num_networks), num_steps // num_networks)
  rounds = -(-num_steps // num_networks)
  shuffle = jax.vmap(lambda key: jax.random.permutation(key, num_networks))
  return np.asarray(shuffle(jax.random.split(key, rounds))).ravel()[:num_steps]


def distill_over_networks(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
  networks: inputs.InputsFn | None = None,
  part: str = 'distillation',
) -> DistillationResult:
  """Distils a target set in R random networks (Alg. 4).

  The same config on the same machine gives the same bytes, also when the run
  was killed and started again on the same work directory.

  Args:
    network: f, whose weights are drawn anew for each of the R networks.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: R, T, alpha and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.
    start: the set before the first step, such as a translated one; by default
      random real images (Alg. 4, lines 1-6).
    networks: at least R networks with their statistics over `dataset`, such as
      those of an adaptation (`adaptation_samples.pool_networks`), instead of
      new ones.
    part: what the clock calls the steps.

  Returns:
    The distilled set, the networks seen last, and seconds.

  Raises:
    ValueError: for a config or a start that the data set cannot serve, or a
      work directory of another run.
    FloatingPointError: when a loss is not finite; it names the step, the
      norms and the condition number of the kernel.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import configs
    >>> config = configs.DistillationConfig(ipc=1, num_steps=2, num_networks=2)
    >>> result = distill_over_networks(*toy.problem(), config=config)
    >>> result.synthetic.images.shape, len(result.seen)
    ((3, 8, 8, 3), 2)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  initial_key, network_key, order_key, batch_key = jax.random.split(
    jax.random.key(config.seed), 4
  )
  order = network_order(
    order_key, config.num_networks, config.num_steps, revisit=config.revisit
  )
  draw = functools.partial(
    _draw, network_key, network, dataset.images.shape[1:]
  )
  facts = {
    'network_fields': repr(network),
    'dataset_fingerprint': dataset.fingerprint(),
    'normalization': describe_normalization(normalization),
  }
  if networks is not None:
    draw = functools.partial(_given, networks)
    facts['network_sha256'] = hashes.hash_tree(draw(0))
  loss_fn, inputs_of = _loss_and_inputs(
    batch_key, network, draw, dataset, normalization, config, clock, networks
  )
  if start is None:
    start = random_real(
      initial_key,
      dataset,
      normalization,
      ipc=config.ipc,
      label_coding=config.label_coding,
      short_classes=config.short_classes,
    )
  else:
    check_start(start, dataset, config)
    facts['start_sha256'] = hashes.hash_tree(start)
  claim_workdir(options, config, **facts)
  with clock.part(part):
    features_of = losses.feature_fn(network)
    synthetic = distill_from(
      start,
      functools.partial(loss_fn, features_of, ridge=config.ridge),
      lambda step: inputs_of(int(order[step]), step),
      num_steps=len(order),
      config=config,
      options=options,
      diagnose=in_features(features_of, ridge=config.ridge),
    )
  last_seen = list(dict.fromkeys(order[::-1].tolist()))[:_MAX_SEEN]
  return DistillationResult(
    synthetic, [draw(index) for index in last_seen], clock.seconds()
  )


def check_start(
  start: LabeledSet, dataset: Dataset, config: DistillationConfig
) -> None:
  """Raises a ValueError unless a set has I images of each class.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import configs
    >>> _, dataset, transform = toy.problem()
    >>> real = random_real(jax.random.key(0), dataset, transform, ipc=2)
    >>> check_start(real, dataset, configs.DistillationConfig(ipc=2))
  """
  num_classes, count = dataset.num_classes, config.ipc * dataset.num_classes
  expected = (count, *dataset.images.shape[1:]), (count, num_classes)
  found = start.images.shape, start.labels.shape
  if found != expected:
    raise ValueError(
      f'The set to start from has images {found[0]} and labels {found[1]}, but '
      f'{expected[0]} and {expected[1]} are needed for ipc = {config.ipc} of '
      f'{num_classes} classes. Give a set of this data set, unpadded, and its '
      'ipc.'
    )


def _draw(
  key: jax.Array, network: nn.Module, image_shape: tuple[int, ...], index: int
) -> Any:
  """The variables of network `index` (Alg. 4, line 8)."""
  key = jax.random.fold_in(key, index)
  return random_networks.sample(key, network, image_shape)


def _given(networks: inputs.InputsFn, index: int) -> Any:
  """The variables of network `index` of those that a caller gave."""
  return networks(index, 0)[0]


def _loss_and_inputs(
  key: jax.Array,
  network: nn.Module,
  draw: inputs.DrawFn,
  dataset: Dataset,
  normalization: Normalization,
  config: DistillationConfig,
  clock: metrics.StageClock,
  networks: inputs.InputsFn | None,
) -> tuple[LossFn, inputs.InputsFn]:
  """What a step minimises, by statistics or by batches of real images."""
  loss = losses.LOSSES[config.loss]
  if networks is not None:
    if config.real_batch:
      raise ValueError(
        'Networks were given with their statistics, which real_batch = '
        f'{config.real_batch} would not use; set it to 0.'
      )
    return loss.on_statistics, networks
  keep = config.num_networks if config.revisit else 1
  if config.real_batch:
    return loss.on_images, inputs.from_batches(
      key,
      draw,
      dataset,
      normalization,
      label_coding=config.label_coding,
      size=config.real_batch,
      keep=keep,
      devices=inputs.devices_for_batch(config.real_batch),
    )
  return loss.on_statistics, inputs.from_statistics(
    losses.feature_fn(network),
    draw,
    dataset,
    normalization,
    label_coding=config.label_coding,
    num_networks=config.num_networks,
    keep=keep,
    clock=clock,
  )
