"""Alg. 3 without adaptation, for any IPC: distil in theta, then translate."""

import dataclasses
from typing import Any

from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import UpdateConfig
from fsdd_jax.algorithms.in_theta import check_set, distill_in_theta
from fsdd_jax.data import resolution
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import finite, metrics
from fsdd_jax.runtime.loop import (
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.storage.translators import ThetaTranslator, check_translator
from fsdd_jax.types import LabeledSet

# Of a distillation, what the sets depend on that a translator learned from.
SETTINGS = (
  *(field.name for field in dataclasses.fields(UpdateConfig)),
  'jitter',
)


def settings_of(start: ThetaTranslator) -> dict[str, Any]:
  """How the sets were distilled that a translator learned from.

  Sets that are distilled otherwise are not what it knows.

  Args:
    start: the translator.

  Returns:
    Fields of `AdaptationConfig`; none for a translator that learned nothing.

  Example:
    >>> import fsdd_jax
    >>> omega = fsdd_jax.load_translator('tiny_imagenet_32_moving')
    >>> AdaptationConfig(**settings_of(omega), adapt_ipcs=(1,)).jitter
    ('flip', 'shift')
  """
  known = (start.metadata or {}).get('caching', {})
  return {name: known[name] for name in SETTINGS if name in known}


def distill_dataset(
  start: ThetaTranslator,
  target: TargetSet,
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
    start: the translator with its theta, adapted or not.
    target: the target set (X_T, Y_T).
    ipc: images per class, among those adapted on or not.
    config: as for `adapt`; only the distillation's part matters.
    options: progress, logs, checkpoints.
    progress_fn: replaces that of the options.
    in_theta: the set distilled in theta before, instead of anew.
    clock: gets the seconds of each part, the last `translation, IPC <I>`.

  Returns:
    The distilled set at the target set's resolution; its labels are those
    learned in theta (Alg. 2, line 4).

  Raises:
    ValueError: as for `distill_in_theta`; if the translator was pre-trained
      on images that were normalised otherwise, or `in_theta` has another IPC,
      other classes or another resolution, or no start for a translator that
      sees it.

  Example:
    >>> import toy
    >>> distilled = distill_dataset(
    ...   toy.translator(),
    ...   toy.target(),
    ...   ipc=1,
    ...   config=AdaptationConfig(num_steps=1),
    ... )
    >>> distilled.images.shape
    (3, 8, 8, 3)
  """
  options, clock = with_clock(with_progress(options, progress_fn), clock)
  check_translator(start, target.normalization)
  if in_theta is not None:
    translator = start.translator
    check_set(start.theta, target, in_theta, ipc=ipc, translator=translator)
  else:
    in_theta = distill_in_theta(
      start.theta,
      target,
      ipcs=(ipc,),
      config=config,
      options=options,
      clock=clock,
    )[ipc]
  with clock.part(f'translation, IPC {ipc}'):
    translated = start.translate(
      resolution.upsample(in_theta, target.image_shape)
    )
    finite.check(
      translated,
      'The translated set',
      'Adapt with a smaller adaptation_learning_rate.',
    )
    return translated
