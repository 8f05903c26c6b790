"""Alg. 4: distillation over R networks, one after another or as a pool.

R = 1 is the column `1 Net` of the paper's tables, R = T the column `Baseline`.
`Pool(R)` is ours: it keeps the statistics of all R networks and visits them in
random order, so that R passes over the target images pay for all T steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.distillation import (
  check_size,
  distill_from,
  in_features,
)
from fsdd_jax.core import losses
from fsdd_jax.data.target import (
  DrawFn,
  NetworksFn,
  TargetSet,
  devices_for_batch,
  drawn,
)
from fsdd_jax.networks import computation
from fsdd_jax.runtime import hashes, metrics
from fsdd_jax.runtime.loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.types import LabeledSet

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
    ...   toy.problem()[0], toy.target(), config=config
    ... )
    >>> len(result.seen), sorted(result.seconds)
    (1, ['compilation', 'distillation', 'statistics'])
  """

  synthetic: LabeledSet
  seen: list[Any]
  seconds: dict[str, float]


def method_name(config: DistillationConfig) -> str:
  """The row of a table that a config makes."""
  if config.num_networks == 1:
    return '1 Net'
  if config.revisit:
    return f'Pool({config.num_networks})'
  if config.num_networks == config.num_steps:
    return 'Baseline'
  return f'Baseline(R={config.num_networks})'


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
  """
  if not revisit:
    return np.repeat(np.arange(num_networks), num_steps // num_networks)
  rounds = -(-num_steps // num_networks)
  shuffle = jax.vmap(lambda key: jax.random.permutation(key, num_networks))
  return np.asarray(shuffle(jax.random.split(key, rounds))).ravel()[:num_steps]


def distill_over_networks(
  network: nn.Module,
  target: TargetSet,
  *,
  config: DistillationConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
  networks: NetworksFn | None = None,
  part: str = 'distillation',
) -> DistillationResult:
  """Distils a target set in R random networks (Alg. 4).

  The same config on the same machine gives the same bytes, also when the run
  was killed and started again on the same work directory.

  Args:
    network: f, whose weights are drawn anew for each of the R networks.
    target: the target set (X_T, Y_T).
    config: R, T, alpha and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: replaces that of the options.
    start: the set before the first step, such as a translated one; by default
      random real images (Alg. 4, lines 1-6).
    networks: at least R networks with their statistics over the target set,
      such as those of an adaptation (`adaptation.pool_networks`), instead of
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
    >>> result = distill_over_networks(
    ...   toy.problem()[0], toy.target(), config=config
    ... )
    >>> result.synthetic.images.shape, len(result.seen)
    ((3, 8, 8, 3), 2)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  target = target.coded(config.label_coding)
  start_key, network_key, order_key, batch_key = jax.random.split(
    jax.random.key(config.seed), 4
  )
  order = network_order(  # Lines 7 and 10.
    order_key, config.num_networks, config.num_steps, revisit=config.revisit
  )
  draw = drawn(network_key, network, target.image_shape)
  named = computation.named(network, target.image_shape)
  facts = {'network_fields': named, **target.facts}
  if networks is not None:
    draw = functools.partial(_given, networks)
    facts['network_sha256'] = hashes.hash_tree(draw(0))
  start, start_facts = first_set(start_key, start, target, config)  # 1-6.
  loss_fn, inputs_at = _loss_and_inputs(
    batch_key, network, draw, order, target, config, clock, networks
  )
  claim_workdir(options, config, **facts, **start_facts)
  features_of = losses.feature_fn(network)
  with clock.part(part):
    synthetic = distill_from(  # Lines 10-15.
      start,
      functools.partial(loss_fn, features_of, ridge=config.ridge),
      inputs_at,
      num_steps=len(order),
      config=config,
      options=options,
      diagnose=in_features(features_of, ridge=config.ridge),
    )
  last_seen = list(dict.fromkeys(order[::-1].tolist()))[:_MAX_SEEN]
  return DistillationResult(
    synthetic, [draw(index) for index in last_seen], clock.seconds()
  )


def first_set(
  key: jax.Array,
  start: LabeledSet | None,
  target: TargetSet,
  config: DistillationConfig,
) -> tuple[LabeledSet, dict[str, str]]:
  """The set before the first step, and what a work directory notes of it.

  Args:
    key: consumed, for random real images.
    start: a set that the caller gave, which has to fit; None takes real images.
    target: the target set (X_T, Y_T).
    config: IPC, and what to do where a class has fewer images.

  Raises:
    ValueError: if the given set does not have I images of each class, or a
      class has too few images.
  """
  if start is None:
    real = target.random_real(
      key, ipc=config.ipc, short_classes=config.short_classes
    )
    return real, {}
  check_size(start, target.image_shape, target.num_classes, ipc=config.ipc)
  return start, {'start_sha256': hashes.hash_tree(start)}


def _given(networks: NetworksFn, index: int) -> Any:
  """The variables of network `index` of those that a caller gave."""
  return networks(index)[0]


def _loss_and_inputs(
  key: jax.Array,
  network: nn.Module,
  draw: DrawFn,
  order: np.ndarray,
  target: TargetSet,
  config: DistillationConfig,
  clock: metrics.StageClock,
  networks: NetworksFn | None,
) -> tuple[Callable[..., jax.Array], Callable[[int], tuple[Any, Any]]]:
  """What a step minimises, by statistics or by batches of real images."""
  loss, size = losses.LOSSES[config.loss], config.real_batch
  keep = config.num_networks if config.revisit else 1
  if networks is not None and size:
    raise ValueError(
      'Networks were given with their statistics, which real_batch = '
      f'{size} would not use; set it to 0.'
    )
  if size:
    kept, devices = functools.lru_cache(keep)(draw), devices_for_batch(size)

    def on_batch(step: int) -> tuple[Any, LabeledSet]:
      batch = target.batch(jax.random.fold_in(key, step), size)
      return kept(int(order[step])), devices.shard(batch)

    return loss.on_images, on_batch
  if networks is None:
    networks = target.networks(  # Lines 8-9.
      losses.feature_fn(network),
      draw,
      error=config.loss,
      num_networks=config.num_networks,
      keep=keep,
      clock=clock,
    )
  return loss.on_statistics, lambda step: networks(int(order[step]))
