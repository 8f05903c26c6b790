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
import numpy as np
import optax

from fsdd_jax import (
  adaptation_samples,
  artifacts,
  containers,
  distill,
  metrics,
  random_networks,
  resolution,
  translator_step,
)
from fsdd_jax.adaptation_samples import SamplesFn
from fsdd_jax.datasets import Dataset
from fsdd_jax.method_configs import AdaptationConfig
from fsdd_jax.normalization import Normalization
from fsdd_jax.one_network import (
  FixedNetwork,
  distill_in_theta,
  options_within,
)
from fsdd_jax.stage_loop import LoopOptions, StageLoop, claim_workdir
from fsdd_jax.translator import translate
from fsdd_jax.translator_step import TranslatorState
from fsdd_jax.types import LabeledSet, pad

_PIXELS_A_BATCH = 2**17


@dataclasses.dataclass(frozen=True)
class AdaptationResult:
  """What `adapt` returns.

  Attributes:
    variables: the adapted translator's, `{'params': omega}`.
    distilled_in_theta: the sets it was adapted on, by IPC, at the resolution
      of theta; `distill_dataset` takes them.
    seconds: seconds a part: statistics (of theta), distillation (of each
      IPC), pool statistics, adaptation, compilation.
  """

  variables: Any
  distilled_in_theta: dict[int, LabeledSet]
  seconds: dict[str, float]


def adapt(
  network: nn.Module,
  translator: nn.Module,
  variables: Mapping[str, Any],
  dataset: Dataset,
  normalization: Normalization,
  *,
  theta: FixedNetwork,
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  in_theta: Mapping[int, LabeledSet] | None = None,
  clock: metrics.StageClock | None = None,
) -> AdaptationResult:
  """Adapts a translator to a target set (Alg. 3).

  The same arguments on the same machine give the same bytes, also when the
  run was killed and started again on the same work directory.

  Args:
    network: f, whose weights theta' are drawn anew; for images of the target
      set's resolution.
    translator: the module G.
    variables: its variables before, `{'params': omega_0}`; they stay intact.
    dataset: the target set (X_T, Y_T), with the channels of theta; above its
      resolution, sets are distilled at that of theta and up-sampled.
    normalization: how its images become network inputs.
    theta: the fixed network that the translator was pre-trained for.
    config: the list of IPCs, T, S, B, alpha, eta, and where theta' come from.
    options: progress, logs, checkpoints; by default only a progress bar.
    in_theta: sets distilled in theta before, by IPC, instead of anew.
    clock: adds to these seconds instead of starting at zero.

  Returns:
    The adapted translator and the sets in theta.

  Raises:
    ValueError: if arguments do not fit each other, or the work directory is
      another run's.
    FloatingPointError: when a loss is not finite.
  """
  options, clock = options or LoopOptions(), clock or metrics.StageClock()
  if in_theta is None:
    in_theta = distill_in_theta(
      theta,
      dataset,
      normalization,
      ipcs=config.adapt_ipcs,
      config=config,
      options=options,
      clock=clock,
    )
  if missing := [ipc for ipc in config.adapt_ipcs if ipc not in in_theta]:
    raise ValueError(
      f'No set distilled in theta was given for IPC {missing}; give one for '
      'each of adapt_ipcs, or none.'
    )
  sets = {ipc: in_theta[ipc] for ipc in config.adapt_ipcs}
  if config.num_adaptation_steps:
    samples_of = (
      adaptation_samples.pool
      if config.network_pool
      else adaptation_samples.fresh
    )
    loss_fn, samples_at = samples_of(
      network, dataset, normalization, config, clock
    )
    with clock.part('adaptation'):
      params = _update(
        translator,
        variables['params'],
        {
          ipc: resolution.upsample(labeled, dataset.images.shape[1:])
          for ipc, labeled in sets.items()
        },
        loss_fn,
        samples_at,
        config=config,
        options=options_within(options, 'adaptation'),
        settings={
          'network': repr(network),
          'dataset_fingerprint': dataset.fingerprint(),
          'normalization': artifacts.describe_normalization(normalization),
        },
      )
    variables = {'params': params}
  return AdaptationResult(variables, sets, clock.seconds())


def distill_dataset(
  translator: nn.Module,
  variables: Mapping[str, Any],
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipc: int,
  theta: FixedNetwork,
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  in_theta: LabeledSet | None = None,
  clock: metrics.StageClock | None = None,
) -> LabeledSet:
  """Distils a target set in theta and translates it, for any IPC.

  Args:
    translator: the module G.
    variables: its variables, adapted or not.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    ipc: images per class, among those adapted on or not.
    theta: as for `adapt`.
    config: as for `adapt`; only the distillation's part matters.
    options: progress, logs, checkpoints.
    in_theta: the set distilled in theta before, instead of anew.
    clock: gets the seconds of each part, `translation` being the last.

  Returns:
    The distilled set at the target set's resolution; its labels are those
    learned in theta (Alg. 2, line 4).

  Raises:
    ValueError: as for `distill_in_theta`.
  """
  clock = clock or metrics.StageClock()
  if in_theta is None:
    in_theta = distill_in_theta(
      theta,
      dataset,
      normalization,
      ipcs=(ipc,),
      config=config,
      options=options,
      clock=clock,
    )[ipc]
  with clock.part('translation'):
    labeled = resolution.upsample(in_theta, dataset.images.shape[1:])
    return jax.block_until_ready(_translate(translator, variables, labeled))


def _update(
  translator: nn.Module,
  params: translator_step.Params,
  sets: Mapping[int, LabeledSet],
  loss_fn: random_networks.LossFn,
  samples_at: SamplesFn,
  *,
  config: AdaptationConfig,
  options: LoopOptions,
  settings: dict[str, Any],
) -> translator_step.Params:
  """S updates of omega on random sets of D (Alg. 3, lines 17-27)."""
  claim_workdir(
    options,
    config,
    **settings,
    translator=repr(translator),
    translator_sha256=_hash(params),
    in_theta_sha256=_hash({str(ipc): s for ipc, s in sets.items()}),
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

  schedule = distill.SCHEDULES[config.adaptation_schedule]
  tx = optax.adam(schedule(config.adaptation_learning_rate, num_steps))
  step_fn = translator_step.make_step(
    translator, loss_fn, tx, networks_per_call=config.networks_per_call
  )
  own = jax.tree.map(jnp.array, params)  # The first step donates them.
  state = TranslatorState(jnp.zeros((), jnp.int32), own, tx.init(own))
  loop = StageLoop(
    'adapt', num_steps=num_steps, options=options, diagnose=diagnose
  )
  with loop:
    state = loop.restore_or(state)
    for index in range(int(state.step), num_steps):
      state, values = step_fn(state, *inputs_at(index))
      loop.on_step(index + 1, state, values)
    return jax.block_until_ready(state.params)


def _hash(tree: Any) -> str:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return containers.hash_arrays(
    {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
  )


_jitted_translate = jax.jit(translate, static_argnums=0)


def _translate(
  translator: nn.Module, variables: Mapping[str, Any], labeled: LabeledSet
) -> LabeledSet:
  """Translates a set some images at a time, to bound the memory of maps."""
  total, height, width, _ = labeled.images.shape
  size = min(total, max(1, _PIXELS_A_BATCH // (height * width)))
  whole = pad(labeled, -(-total // size) * size)
  parts = [
    _jitted_translate(
      translator,
      variables,
      jax.tree.map(lambda x, i=start: x[i : i + size], whole),
    )
    for start in range(0, total, size)
  ]
  joined = jax.tree.map(lambda *x: jnp.concatenate(x)[:total], *parts)
  return dataclasses.replace(labeled, images=joined.images)
