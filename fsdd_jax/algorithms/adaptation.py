"""Alg. 3: a translator adapts to a target set and then serves any IPC.

A few updates on sets distilled in theta (`one_network`), each scored in a
network theta' ~ Theta. The paper draws theta' anew for each sample; a pool of
networks whose statistics over all target images are kept makes an update as
cheap as a step of distillation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms import adaptation_samples, baselines
from fsdd_jax.algorithms.adaptation_samples import SamplesFn
from fsdd_jax.algorithms.method_configs import AdaptationConfig
from fsdd_jax.algorithms.one_network import (
  SetName,
  distill_in_theta,
  distill_sets,
  options_within,
)
from fsdd_jax.core import distill_step, translator_step
from fsdd_jax.core.translator_step import TranslatorState
from fsdd_jax.data import inputs, resolution
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.translator import translate
from fsdd_jax.runtime import finite, hashes, metrics
from fsdd_jax.runtime.devices import devices_for, local
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.storage.pretrained import Pretrained, adapted
from fsdd_jax.types import LabeledSet, pad

_PIXELS_A_BATCH = 2**17


@dataclasses.dataclass(frozen=True)
class AdaptationResult:
  """What `adapt` returns.

  Attributes:
    pretrained: the translator after adaptation, with its theta, as
      `distill_dataset` takes it.
    distilled_in_theta: the sets it was adapted on, by IPC, at the resolution
      of theta; `distill_dataset` may take them as well.
    seconds: seconds a part: statistics (of theta), distillation (of each
      IPC), pool statistics, adaptation, compilation.

  Example:
    >>> import toy
    >>> network, dataset, transform = toy.problem()
    >>> config = AdaptationConfig(
    ...   adapt_ipcs=(1,), num_steps=1, num_adaptation_steps=0
    ... )
    >>> result: AdaptationResult = adapt(
    ...   network, toy.translator(), dataset, transform, config=config
    ... )
    >>> result.distilled_in_theta[1].images.shape, result.pretrained.theta.seed
    ((3, 8, 8, 3), 0)
  """

  pretrained: Pretrained
  distilled_in_theta: dict[int, LabeledSet]
  seconds: dict[str, float]

  @property
  def variables(self) -> Any:
    """The adapted translator's, `{'params': omega}`."""
    return self.pretrained.variables


def method_name(pretrained: Pretrained, config: AdaptationConfig) -> str:
  """The column of the paper's Table 1 that a run makes.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import method_configs
    >>> config = method_configs.AdaptationConfig()
    >>> method_name(toy.translator(), config)
    'w/o Pre-Train'
  """
  adapted = pretrained.is_adapted or config.num_adaptation_steps > 0
  names = {'none': 'w/o Pre-Train', 'reconstruction': 'w AE'}
  if pretrained.objective in names:
    name = names[pretrained.objective]
    return name if adapted else f'{name}, w/o Ada'
  return 'w Ada' if adapted else 'w/o Ada'


def adapted_on(ipc: int, config: AdaptationConfig) -> str:
  """What a set of some IPC was to the adaptation, for tables.

  Returns:
    'nothing', 'this very set' or 'other IPCs'.

  Example:
    >>> from fsdd_jax.algorithms.method_configs import AdaptationConfig
    >>> adapted_on(2, AdaptationConfig(adapt_ipcs=(1, 20)))
    'other IPCs'
  """
  if not config.num_adaptation_steps:
    return 'nothing'
  return 'this very set' if ipc in config.adapt_ipcs else 'other IPCs'


def adapt(
  network: nn.Module,
  pretrained: Pretrained,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  in_theta: Mapping[int, LabeledSet] | None = None,
  networks: inputs.InputsFn | None = None,
  clock: metrics.StageClock | None = None,
) -> AdaptationResult:
  """Adapts a translator to a target set (Alg. 3).

  The same arguments on the same machine give the same bytes, also when the
  run was killed and started again on the same work directory.

  Args:
    network: f, whose weights theta' are drawn anew; for images of the target
      set's resolution.
    pretrained: the translator G with omega_0 and theta, as of
      `pretraining.pretrain` or `pretrained.load_pretrained`; it stays intact.
    dataset: the target set (X_T, Y_T), with the channels of theta; above its
      resolution, sets are distilled at that of theta and up-sampled.
    normalization: how its images become network inputs.
    config: the list of IPCs, T, S, B, alpha, eta, and where theta' come from.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options; follows each distillation in
      theta, then the adaptation, each from step 1.
    in_theta: sets distilled in theta before, by IPC, instead of anew.
    networks: the pool with its statistics, as of
      `adaptation_samples.pool_networks` with the same config, to share them.
    clock: adds to these seconds instead of starting at zero.

  Returns:
    The adapted translator and the sets in theta.

  Raises:
    ValueError: if arguments do not fit each other, or the work directory is
      another run's.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import toy
    >>> network, dataset, transform = toy.problem()
    >>> config = AdaptationConfig(
    ...   adapt_ipcs=(1,),
    ...   num_steps=1,
    ...   num_adaptation_steps=1,
    ...   network_pool=1,
    ...   batch_size=1,
    ... )
    >>> adapted = adapt(
    ...   network, toy.translator(), dataset, transform, config=config
    ... )
    >>> list(adapted.distilled_in_theta), adapted.pretrained.theta.seed
    ([1], 0)
  """
  options, clock = with_clock(with_progress(options, progress_fn), clock)
  if in_theta is None:
    in_theta = distill_in_theta(
      pretrained.theta,
      dataset,
      normalization,
      ipcs=config.adapt_ipcs,
      config=config,
      options=options,
      clock=clock,
    )
  if networks and not config.network_pool:
    raise ValueError(
      'Networks were given, but network_pool = 0 draws fresh ones; set it to '
      'their number.'
    )
  if missing := [ipc for ipc in config.adapt_ipcs if ipc not in in_theta]:
    raise ValueError(
      f'No set distilled in theta was given for IPC {missing}; give one for '
      'each of adapt_ipcs, or none.'
    )
  if config.num_adaptation_steps:
    sets = {(ipc, 0): in_theta[ipc] for ipc in config.adapt_ipcs}
    sets |= distill_sets(
      pretrained.theta,
      dataset,
      normalization,
      names=[
        (ipc, number)
        for number in range(1, config.num_starts)
        for ipc in config.adapt_ipcs
      ],
      config=config,
      # Curves follow the first start alone.
      options=dataclasses.replace(options, state_fn=None),
      clock=clock,
    )
    problem = network, dataset, normalization, config, clock
    loss_fn, samples_at = (
      adaptation_samples.pool(*problem, networks)
      if config.network_pool
      else adaptation_samples.fresh(*problem)
    )
    with clock.part('adaptation'):
      params = _update(
        pretrained,
        {
          name: resolution.upsample(
            _as_seen(pretrained.translator, labeled), dataset.images.shape[1:]
          )
          for name, labeled in sets.items()
        },
        loss_fn,
        samples_at,
        config=config,
        options=options_within(options, 'adaptation'),
        settings={
          'network': repr(network),
          'dataset_fingerprint': dataset.fingerprint(),
          'normalization': describe_normalization(normalization),
        },
      )
    pretrained = adapted(
      pretrained,
      {'params': params},
      normalization,
      record={'adaptation': dataclasses.asdict(config)},
    )
  adapted_on = {ipc: in_theta[ipc] for ipc in config.adapt_ipcs}
  return AdaptationResult(pretrained, adapted_on, clock.seconds())


def _as_seen(translator: nn.Module, labeled: LabeledSet) -> LabeledSet:
  """The set without its start, unless the translator sees that."""
  if 'start' in getattr(translator, 'inputs', ()):
    return labeled
  return dataclasses.replace(labeled, start=None)


def distill_dataset(
  pretrained: Pretrained,
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipc: int,
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  in_theta: LabeledSet | None = None,
  clock: metrics.StageClock | None = None,
) -> LabeledSet:
  """Distils a target set in theta and translates it, for any IPC.

  Args:
    pretrained: the translator with its theta, adapted or not.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    ipc: images per class, among those adapted on or not.
    config: as for `adapt`; only the distillation's part matters.
    options: progress, logs, checkpoints.
    progress_fn: in place of that of the options.
    in_theta: the set distilled in theta before, instead of anew.
    clock: gets the seconds of each part, `translation` being the last.

  Returns:
    The distilled set at the target set's resolution; its labels are those
    learned in theta (Alg. 2, line 4).

  Raises:
    ValueError: as for `distill_in_theta`.

  Example:
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> config = AdaptationConfig(num_steps=1)
    >>> distilled = distill_dataset(
    ...   toy.translator(), dataset, transform, ipc=1, config=config
    ... )
    >>> distilled.images.shape
    (3, 8, 8, 3)
  """
  options, clock = with_clock(with_progress(options, progress_fn), clock)
  if in_theta is None:
    in_theta = distill_in_theta(
      pretrained.theta,
      dataset,
      normalization,
      ipcs=(ipc,),
      config=config,
      options=options,
      clock=clock,
    )[ipc]
  with clock.part('translation'):
    labeled = resolution.upsample(in_theta, dataset.images.shape[1:])
    translated = _translate(pretrained, labeled)
    finite.check(
      translated,
      'The translated set',
      'Adapt with a smaller adaptation_learning_rate.',
    )
    return translated


def finish(
  network: nn.Module,
  translated: LabeledSet,
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipc: int,
  config: AdaptationConfig,
  networks: inputs.InputsFn,
  options: LoopOptions | None = None,
) -> baselines.DistillationResult:
  """Goes on from translated images by direct steps in the adaptation's pool.

  Not in the paper: the pool of networks is the translator's rival, and its
  statistics are there already.

  Args:
    network: f, as of `adapt`.
    translated: what `distill_dataset` returned.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    ipc: images per class.
    config: as of `adapt`; `finishing_steps` is the number of steps.
    networks: the pool, as of `adaptation_samples.pool_networks`.
    options: progress, logs, checkpoints.

  Returns:
    As `baselines.distill_over_networks`.

  Raises:
    ValueError: as that.
    FloatingPointError: when a loss is not finite.
  """
  return baselines.distill_over_networks(
    network,
    dataset,
    normalization,
    config=dataclasses.replace(
      config.distillation(ipc),
      num_steps=config.finishing_steps,
      num_networks=config.network_pool,
      revisit=True,
    ),
    options=options,
    start=translated,
    networks=networks,
    part=f'finishing, IPC {ipc}',
  )


def _update(
  pretrained: Pretrained,
  sets: Mapping[SetName, LabeledSet],
  loss_fn: random_networks.LossFn,
  samples_at: SamplesFn,
  *,
  config: AdaptationConfig,
  options: LoopOptions,
  settings: dict[str, Any],
) -> translator_step.Params:
  """S updates of omega on random sets of D (Alg. 3, lines 17-27)."""
  params = pretrained.variables['params']
  claim_workdir(
    options,
    config,
    **settings,
    translator=repr(pretrained.translator),
    translator_sha256=hashes.hash_tree(params),
    in_theta_sha256=hashes.hash_tree(
      {f'{ipc}, {number}': s for (ipc, number), s in sets.items()}
    ),
  )
  num_steps = config.num_adaptation_steps
  sets_at = adaptation_samples.entries(sets, config)
  inputs_at = adaptation_samples.stacked(sets_at, samples_at)

  def diagnose(step: int, state: TranslatorState) -> str:
    sizes = [
      f'{int(labeled.mask.sum())} images up to {abs(labeled.images).max():g}'
      for labeled in sets_at(step)
    ]
    return f'Sets before translation: {", ".join(sizes)}.'

  schedule = distill_step.SCHEDULES[config.adaptation_schedule]
  tx = optax.adam(schedule(config.adaptation_learning_rate, num_steps))
  devices = devices_for(config.batch_size)
  step_fn = translator_step.make_step(
    pretrained.translator,
    loss_fn,
    tx,
    networks_per_call=config.networks_per_call,
    spread=devices.mean,
    maps_of=pretrained.maps_of,
  )
  own = jax.tree.map(jnp.array, params)  # The first step donates them.
  state = TranslatorState(jnp.zeros((), jnp.int32), own, tx.init(own))
  loop = Loop(
    'adapt',
    devices.replicate(state),
    num_steps=num_steps,
    options=options,
    diagnose=diagnose,
  )
  with loop:
    for step in loop:
      loop.state, loop.metrics = step_fn(
        loop.state, *devices.shard(inputs_at(step))
      )
    return local(jax.block_until_ready(loop.state.params))


_jitted_translate = jax.jit(translate, static_argnums=(0, 3))


def _translate(pretrained: Pretrained, labeled: LabeledSet) -> LabeledSet:
  """Translates a set some images at a time, to bound the memory of maps."""
  total, height, width, _ = labeled.images.shape
  size = min(total, max(1, _PIXELS_A_BATCH // (height * width)))
  whole = pad(labeled, -(-total // size) * size)
  parts = [
    _jitted_translate(
      pretrained.translator,
      pretrained.variables,
      jax.tree.map(lambda x, i=start: x[i : i + size], whole),
      pretrained.maps_of,
    )
    for start in range(0, total, size)
  ]
  joined = jax.tree.map(lambda *x: jnp.concatenate(x)[:total], *parts)
  return dataclasses.replace(labeled, images=joined.images, start=None)
