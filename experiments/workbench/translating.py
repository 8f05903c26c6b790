"""Alg. 3 for one IPC, with what may follow translation, in one call."""

import dataclasses
from typing import Any

import flax.linen as nn

from fsdd_jax.algorithms import (
  adaptation,
  baseline,
  finishing,
  translated_sets,
)
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.adaptation_samples import pool_networks
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage.translators import ThetaTranslator


def run(
  network: nn.Module,
  start: ThetaTranslator,
  target: TargetSet,
  config: AdaptationConfig,
  options: LoopOptions,
) -> Any:
  """Adapts a translator, if that has updates, and does what follows.

  Args:
    network: f.
    start: the translator.
    target: the target set (X_T, Y_T).
    config: of one IPC; labels and direct steps follow where it says so.
    options: show states as they are made.

  Returns:
    What holds the last set: of the translator, or of what came after it.
  """
  (ipc,) = config.adapt_ipcs
  common: dict[str, Any] = {'config': config, 'ipc': ipc}
  in_theta = None
  # Nothing is summed before a network is asked for.
  networks = pool_networks(network, target, config)
  # A set is known when it is translated, not while it is made in theta.
  quiet = dataclasses.replace(options, state_fn=None)
  if config.num_adaptation_steps:
    result = adaptation.adapt(
      *(network, start, target),
      config=config,
      options=options,
      networks=networks if config.network_pool else None,
    )
    if not config.fit_labels and not config.finishing_steps:
      return result
    start, in_theta = result.translator, result.distilled_in_theta[ipc]
  translated = translated_sets.distill_dataset(
    start, target, **common, in_theta=in_theta, options=quiet
  )
  if config.fit_labels:
    translated = finishing.fit_labels(
      network, translated, target, config=config, networks=networks
    )
  if not config.finishing_steps:
    last = baseline.DistillationResult(translated, [], {})
    # What an adaptation showed last is the set before this one.
    if config.num_adaptation_steps and options.state_fn is not None:
      options.state_fn(0, last)
    return last
  return finishing.finish(
    network, translated, target, **common, networks=networks, options=options
  )
