"""Alg. 3: a translator adapts to a target set and then serves any IPC.

A few updates on sets distilled in theta (`in_theta`), each scored in a network
theta' ~ Theta. The paper draws theta' anew for each sample; a pool of networks
whose statistics over all target images are kept makes an update as cheap as a
step of distillation.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import adaptation_samples as samples
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.in_theta import (
  SetName,
  check_set,
  check_target,
  distill_sets,
)
from fsdd_jax.core import distill_step, params_step, translator_step
from fsdd_jax.core.params_step import Params, ParamsState
from fsdd_jax.data import resolution
from fsdd_jax.data.target import NetworksFn, TargetSet
from fsdd_jax.networks import computation, random_networks
from fsdd_jax.runtime import hashes, metrics
from fsdd_jax.runtime.devices import devices_for, local
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir, options_within
from fsdd_jax.storage.translators import ThetaTranslator, check_translator
from fsdd_jax.types import LabeledSet


@dataclasses.dataclass(frozen=True)
class AdaptationResult:
  """What `adapt` returns.

  Attributes:
    translator: after adaptation, with its theta, as `distill_dataset` takes
      it.
    distilled_in_theta: the sets it was adapted on, by IPC, at the resolution
      of theta; `distill_dataset` may take them as well.
    seconds: seconds a part: statistics (of theta), distillation (of each
      IPC), pool statistics, adaptation, compilation.

  Example:
    >>> import toy
    >>> config = AdaptationConfig(
    ...   adapt_ipcs=(1,), num_steps=1, num_adaptation_steps=0
    ... )
    >>> result: AdaptationResult = adapt(
    ...   toy.problem()[0], toy.translator(), toy.target(), config=config
    ... )
    >>> result.distilled_in_theta[1].images.shape, result.translator.theta.seed
    ((3, 8, 8, 3), 0)
  """

  translator: ThetaTranslator
  distilled_in_theta: dict[int, LabeledSet]
  seconds: dict[str, float]


def method_name(start: ThetaTranslator, config: AdaptationConfig) -> str:
  """The column of the paper's Table 1 that a run makes."""
  adapted = start.is_adapted or config.num_adaptation_steps > 0
  names = {'none': 'w/o Pre-Train', 'reconstruction': 'w AE'}
  if start.objective in names:
    name = names[start.objective]
    return name if adapted else f'{name}, w/o Ada'
  return 'w Ada' if adapted else 'w/o Ada'


def adapted_on(ipc: int, config: AdaptationConfig) -> str:
  """What a set of some IPC was to the adaptation, for tables."""
  if not config.num_adaptation_steps:
    return 'nothing'
  return 'this very set' if ipc in config.adapt_ipcs else 'other IPCs'


def adapt(
  network: nn.Module,
  start: ThetaTranslator,
  target: TargetSet,
  *,
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  in_theta: Mapping[int, LabeledSet] | None = None,
  theta_networks: NetworksFn | None = None,
  networks: NetworksFn | None = None,
  clock: metrics.StageClock | None = None,
) -> AdaptationResult:
  """Adapts a translator to a target set (Alg. 3).

  The same arguments on the same machine give the same bytes, also when the
  run was killed and started again on the same work directory.

  Args:
    network: f, whose weights theta' are drawn anew; for images of the target
      set's resolution.
    start: the translator G with omega_0 and theta, from `pretrain`,
      `load_translator` or `random_translator`; it stays intact.
    target: the target set (X_T, Y_T), with the channels of theta; above its
      resolution, sets are distilled at that of theta and up-sampled.
    config: the list of IPCs, T, S, B, alpha, eta, and where theta' come from.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: replaces that of the options; follows each distillation in
      theta, then the adaptation, each from step 1.
    in_theta: sets distilled in theta before, by IPC, instead of anew; with
      their starts, if the translator sees them.
    theta_networks: theta with its statistics, which `in_theta.theta_networks`
      made of the same target set, to share them.
    networks: the pool with its statistics, which `pool_networks` made with
      the same config, to share them.
    clock: adds to these seconds instead of starting at zero.

  Returns:
    The adapted translator and the sets in theta.

  Raises:
    ValueError: if arguments do not fit each other, or the work directory is
      another run's.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import toy
    >>> config = AdaptationConfig(
    ...   adapt_ipcs=(1,),
    ...   num_steps=1,
    ...   num_adaptation_steps=1,
    ...   network_pool=1,
    ...   batch_size=1,
    ... )
    >>> adapted = adapt(
    ...   toy.problem()[0], toy.translator(), toy.target(), config=config
    ... )
    >>> list(adapted.distilled_in_theta), adapted.translator.is_adapted
    ([1], True)
  """
  options, clock = with_clock(with_progress(options, progress_fn), clock)
  target = target.coded(config.label_coding)
  check(start, target, config=config)
  _check_given(config, in_theta, networks)
  seen_ipcs = config.adapt_ipcs if config.num_adaptation_steps else ()
  for ipc, labeled in (in_theta or {}).items():
    translator = start.translator if ipc in seen_ipcs else None
    check_set(start.theta, target, labeled, ipc=ipc, translator=translator)
  given = {(ipc, 0): labeled for ipc, labeled in (in_theta or {}).items()}
  num_starts = config.num_starts if config.num_adaptation_steps else 1
  names = [(ipc, n) for n in range(num_starts) for ipc in config.adapt_ipcs]
  found = distill_sets(  # Lines 2-16.
    start.theta,
    target,
    names=[name for name in names if name not in given],
    config=config,
    options=options,
    networks=theta_networks,
    clock=clock,
  )
  sets = {name: (given | found)[name] for name in names}
  first = {ipc: sets[ipc, 0] for ipc in config.adapt_ipcs}
  if config.num_adaptation_steps:
    if 'start' not in getattr(start.translator, 'inputs', ()):
      sets = {k: dataclasses.replace(x, start=None) for k, x in sets.items()}
    seen = {
      name: resolution.upsample(labeled, target.image_shape)
      for name, labeled in sets.items()
    }
    own = options_within(options, 'adaptation')
    params = _learn(network, start, target, seen, networks, config, own, clock)
    record = {'adaptation': dataclasses.asdict(config)}
    start = start.adapted(params, target.normalization, record=record)
  return AdaptationResult(start, first, clock.seconds())


def check(
  start: ThetaTranslator,
  target: TargetSet,
  *,
  config: AdaptationConfig,
  ipcs: Iterable[int] = (),
) -> None:
  """Raises the ValueError that a run would end in, before it begins.

  `adapt` calls it. A program that makes more of a work directory calls it
  before it claims that, as a refused run must leave it free.

  Args:
    start: the translator.
    target: the target set (X_T, Y_T).
    config: as for `adapt`.
    ipcs: images per class of sets that will be distilled in theta.
  """
  check_translator(start, target.normalization)
  check_target(start.theta, target)
  for ipc in ipcs:
    target.check_ipc(ipc, config.short_classes)
  if config.num_adaptation_steps:
    size = config.batch_size // devices_for(config.batch_size).count
    random_networks.check_per_call(config.networks_per_call, size)


def _check_given(
  config: AdaptationConfig,
  in_theta: Mapping[int, LabeledSet] | None,
  networks: NetworksFn | None,
) -> None:
  """Raises a ValueError for arguments that do not fit the config."""
  if networks and not config.network_pool:
    raise ValueError(
      'Networks were given, but network_pool = 0 draws fresh ones; set it to '
      'their number.'
    )
  missing = [ipc for ipc in config.adapt_ipcs if ipc not in (in_theta or {})]
  if in_theta is not None and missing:
    raise ValueError(
      f'No set distilled in theta was given for IPC {missing}; give one for '
      'each of adapt_ipcs, or none.'
    )


def _learn(
  network: nn.Module,
  start: ThetaTranslator,
  target: TargetSet,
  sets: Mapping[SetName, LabeledSet],
  networks: NetworksFn | None,
  config: AdaptationConfig,
  options: LoopOptions,
  clock: metrics.StageClock,
) -> Params:
  """S updates of omega on random sets of D (Alg. 3, lines 17-27)."""
  params = start.variables['params']
  names = {f'{ipc}, {number}': s for (ipc, number), s in sets.items()}
  claim_workdir(
    options,
    config,
    network=computation.named(network, target.image_shape),
    translator=repr(start.translator),
    translator_sha256=hashes.hash_tree(params),
    in_theta_sha256=hashes.hash_tree(names),
    **target.facts,
  )
  sets_at = samples.entries(sets, config)
  if config.network_pool:
    pool = networks or samples.pool_networks(network, target, config, clock)
    loss_fn, samples_at = samples.pool(pool, network, config)
  else:
    loss_fn, samples_at = samples.fresh(network, target, config, clock)
  num_steps = config.num_adaptation_steps
  devices = devices_for(config.batch_size)
  schedule = distill_step.SCHEDULES[config.adaptation_schedule]
  tx = optax.adam(schedule(config.adaptation_learning_rate, num_steps))
  update = translator_step.make_step(
    start.translator,
    loss_fn,
    tx,
    networks_per_call=config.networks_per_call,
    spread=devices.mean,
    maps_of=start.maps_of,
  )
  own = jax.tree.map(jnp.array, params)  # The first step donates them.
  state = params_step.init_state(own, tx)
  loop = Loop(
    'adapt',
    devices.replicate(state),
    num_steps=num_steps,
    options=options,
    diagnose=functools.partial(_diagnose, sets_at),
  )
  with clock.part('adaptation'), loop:
    for step in loop:  # Line 18.
      batch = samples.stacked(sets_at(step), samples_at(step))  # 19-22.
      loop.state, loop.metrics = update(loop.state, *devices.shard(batch))
    return local(jax.block_until_ready(loop.state.params))


def _diagnose(sets_at: samples.EntriesFn, step: int, state: ParamsState) -> str:
  del state
  sizes = [
    f'{int(labeled.mask.sum())} images up to {abs(labeled.images).max():g}'
    for labeled in sets_at(step)
  ]
  return f'Sets before translation: {", ".join(sizes)}.'
