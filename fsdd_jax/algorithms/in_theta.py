"""Alg. 3, lines 2-16: sets distilled in theta, the network of the cache."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax

from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import DistillationConfig, UpdateConfig
from fsdd_jax.algorithms.distillation import (
  check_size,
  distill_from,
  in_features,
)
from fsdd_jax.core import losses
from fsdd_jax.data import resolution
from fsdd_jax.data.target import NetworksFn, TargetSet
from fsdd_jax.networks import computation
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.runtime import hashes, metrics
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claim_workdir, options_within
from fsdd_jax.storage.learned_network import LearnedNetwork
from fsdd_jax.storage.translators import stage_keys
from fsdd_jax.types import LabeledSet

SetName = tuple[int, int]  # Images a class, and number of the start.


def theta_networks(
  theta: FixedNetwork,
  target: TargetSet,
  config: UpdateConfig,
  clock: metrics.StageClock | None = None,
) -> NetworksFn:
  """The fixed network and its statistics, as the one network of Alg. 4.

  Args:
    theta: the fixed network.
    target: the target set (X_T, Y_T), with the channels of theta; images above
      its resolution are scaled down to it.
    config: the loss and the coding of labels.
    clock: gets the seconds of `statistics`.

  Returns:
    A function whose number plays no part, and which sums the statistics at its
    first call; `baseline.distill_over_networks` takes it as `networks`.
  """
  target = target.coded(config.label_coding).at_most(theta.image_shape)
  return target.networks(
    losses.feature_fn(theta.network),
    lambda index: theta.sample(target.image_shape),
    error=config.loss,
    clock=clock,
  )


def distill_in_theta(
  theta: FixedNetwork,
  target: TargetSet,
  *,
  ipcs: Sequence[int],
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  networks: NetworksFn | None = None,
  starts: Mapping[int, LabeledSet] | None = None,
  clock: metrics.StageClock | None = None,
) -> dict[int, LabeledSet]:
  """Distils a target set in theta for some IPCs (Alg. 3, lines 2-16).

  A set does not depend on which other IPCs are asked for.

  Args:
    theta: the fixed network.
    target: the target set (X_T, Y_T), with the channels of theta.
    ipcs: numbers of images per class.
    config: T, alpha and the rest of the distillation.
    options: progress, logs, checkpoints; each IPC has a folder
      `in_theta/ipc_<I>` in the work directory.
    networks: theta with its statistics, which `theta_networks` made of the same
      target set, to share them.
    starts: the set before the first step, by IPC, at the resolution of theta;
      others begin with random real images (lines 4-8).
    clock: gets the seconds of `statistics` and of `distillation, IPC <I>`.

  Returns:
    The distilled set of each IPC, with its start, at the resolution of theta.

  Raises:
    ValueError: if channels or normalisation do not fit theta, a class has
      fewer images than an IPC, or the work directory is another run's.
    FloatingPointError: when a loss is not finite.
  """
  found = distill_sets(
    theta,
    target,
    names=[(ipc, 0) for ipc in ipcs],
    config=config,
    options=options,
    networks=networks,
    starts=starts,
    clock=clock,
  )
  return {ipc: labeled for (ipc, _), labeled in found.items()}


def distill_sets(
  theta: FixedNetwork,
  target: TargetSet,
  *,
  names: Sequence[SetName],
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  networks: NetworksFn | None = None,
  starts: Mapping[int, LabeledSet] | None = None,
  clock: metrics.StageClock | None = None,
) -> dict[SetName, LabeledSet]:
  """Distils several sets of an IPC in theta, from different real images.

  The statistics of all target images are summed once for all sets. Images
  above the resolution of theta are scaled down to it.

  Args:
    theta: like what is not named here, as for `distill_in_theta`.
    target: the target set (X_T, Y_T).
    names: IPC and number of the start of each set; 0 is the set that
      `distill_in_theta` gives.
    config: T, alpha and the rest of the distillation.
    options: progress, logs, checkpoints; each set has a folder
      `in_theta/ipc_<I>`, or `in_theta/ipc_<I>_start_<number>` above 0. Curves
      (`state_fn`) follow the starts of number 0 alone.
    networks: as for `distill_in_theta`.
    starts: as for `distill_in_theta`, of number 0.
    clock: gets the seconds of `statistics` and of `distillation, IPC <I>`.

  Returns:
    The sets by name, with their starts, at the resolution of theta.

  Raises:
    ValueError: as `distill_in_theta`.
    FloatingPointError: when a loss is not finite.
  """
  options, clock = with_clock(options or LoopOptions(), clock)
  check_target(theta, target)
  target = target.coded(config.label_coding).at_most(theta.image_shape)
  features_of = losses.feature_fn(theta.network)
  loss_fn = losses.LOSSES[config.loss].on_statistics
  # Line 9.
  network = networks or theta_networks(theta, target, config, clock)
  given = {(ipc, 0): labeled for ipc, labeled in (starts or {}).items()}
  for (ipc, _), labeled in given.items():
    check_set(theta, target, labeled, ipc=ipc)
  first = {
    name: given.get(name) or start_of(theta, target, name=name, config=config)
    for name in names
  }
  named = f'{theta!r}{computation.digest(theta.network, theta.image_shape)}'
  found = {}
  for (ipc, number), start in first.items():  # Lines 2-3.
    own = config.distillation(ipc)
    folder = _folder(options, ipc, number)
    facts = {'theta': named, **target.facts}
    if (ipc, number) in given:
      facts['start_sha256'] = hashes.hash_tree(start)
    claim_workdir(folder, own, **facts)
    with clock.part(f'distillation, IPC {ipc}'):
      distilled = distill_from(  # Lines 10-14.
        start,
        functools.partial(loss_fn, features_of, ridge=config.ridge),
        lambda step: network(0),
        num_steps=own.num_steps,
        config=own,
        options=folder,
        diagnose=in_features(features_of, ridge=config.ridge),
        description=f'distil in theta, IPC {ipc}',
      )
    found[ipc, number] = dataclasses.replace(distilled, start=start.images)
  return found


def start_of(
  theta: FixedNetwork,
  target: TargetSet,
  *,
  name: SetName,
  config: AdaptationConfig | DistillationConfig,
) -> LabeledSet:
  """The real images that `distill_sets` begins a set with (lines 4-8).

  Args:
    theta: the fixed network.
    target: the target set (X_T, Y_T).
    name: IPC and number of the start.
    config: the seed, the coding of labels, and what short classes do.

  Returns:
    The set before the first step, at the resolution of theta.

  Raises:
    ValueError: if a class has fewer images than the IPC.
  """
  target = target.coded(config.label_coding).at_most(theta.image_shape)
  ipc, number = name
  key = jax.random.fold_in(stage_keys(config.seed)[0], ipc)
  return target.random_real(
    jax.random.fold_in(key, number) if number else key,
    ipc=ipc,
    short_classes=config.short_classes,
  )


def _folder(options: LoopOptions, ipc: int, number: int) -> LoopOptions:
  """The options of one set."""
  if not number:
    return options_within(options, 'in_theta', f'ipc_{ipc}')
  options = dataclasses.replace(options, state_fn=None)
  return options_within(options, 'in_theta', f'ipc_{ipc}_start_{number}')


def check_set(
  theta: FixedNetwork,
  target: TargetSet,
  labeled: LabeledSet,
  *,
  ipc: int,
  translator: nn.Module | None = None,
) -> None:
  """Raises a ValueError unless a set may have been distilled in theta.

  Args:
    theta: the fixed network.
    target: the target set.
    labeled: the set, unpadded.
    ipc: the images per class that it is to have.
    translator: the module G that is to see the set; None: none is.
  """
  check_target(theta, target)
  # Of shapes alone, as scaling the images down takes seconds.
  shape = target.image_shape
  if resolution.is_above(shape, theta.image_shape):
    shape = theta.image_shape
  check_size(labeled, shape, target.num_classes, ipc=ipc)
  inputs = getattr(translator, 'inputs', ())
  if labeled.start is None and 'start' in inputs:
    raise ValueError(
      f'The given set of IPC {ipc} has no start, the images that distillation '
      f'began with, which the translator sees (its inputs are {inputs}). Give '
      'a set as `distill_in_theta` returns it, or none.'
    )


def check_target(theta: FixedNetwork, target: TargetSet) -> None:
  """Raises a ValueError unless theta can see the images of a target set."""
  whitened = target.normalization.zca is not None
  if isinstance(theta, LearnedNetwork) and (
    theta.is_whitened not in (None, whitened)
  ):
    raise ValueError(
      f'theta learned from images with whitening (ZCA) {theta.is_whitened}, '
      f'these have {whitened}; give zca = {theta.is_whitened}.'
    )
  shape = target.image_shape
  if shape[2] != theta.image_shape[2]:
    raise ValueError(
      f'The images have {shape[2]} channels, theta and its translator '
      f'{theta.image_shape[2]}. Pass grey images through '
      'resolution.repeat_channels, or take another translator.'
    )
  if whitened and resolution.is_above(shape, theta.image_shape):
    raise ValueError(
      f'Images of {shape[0]} x {shape[1]} are whitened (ZCA) at that '
      f'resolution and cannot be scaled to the {theta.image_shape[0]} x '
      f'{theta.image_shape[1]} of theta. Take a standardised translator, or '
      f'load the data set with image_size {theta.image_shape[0]}.'
    )
