"""Alg. 3, lines 2-16: distillation in the one network of the caching stage."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax

from fsdd_jax.algorithms import baselines
from fsdd_jax.algorithms.distill_loop import distill_from, in_features
from fsdd_jax.algorithms.method_configs import AdaptationConfig
from fsdd_jax.core import losses
from fsdd_jax.data import inputs, resolution
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.runtime import metrics
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.storage.pretrained import stage_keys
from fsdd_jax.types import LabeledSet

SetName = tuple[int, int]  # Images a class, and number of the start.


def options_within(options: LoopOptions, *names: str) -> LoopOptions:
  """The same options with a folder inside the work directory.

  Example:
    >>> from fsdd_jax.runtime import stage_loop
    >>> options = stage_loop.LoopOptions('runs/adapt')
    >>> options_within(options, 'in_theta', 'ipc_1').workdir.as_posix()
    'runs/adapt/in_theta/ipc_1'
  """
  if options.workdir is None:
    return options
  workdir = pathlib.Path(options.workdir).joinpath(*names)
  return dataclasses.replace(options, workdir=workdir)


def inputs_in_theta(
  theta: FixedNetwork,
  dataset: Dataset,
  normalization: Normalization,
  *,
  label_coding: str = 'centered',
  clock: metrics.StageClock | None = None,
) -> inputs.InputsFn:
  """The fixed network and its statistics, as the one network of Alg. 4.

  Args:
    theta: the fixed network.
    dataset: the target set (X_T, Y_T), with the channels of theta.
    normalization: how its images become network inputs.
    label_coding: a name in `LABEL_CODINGS`.
    clock: gets the seconds of `statistics`.

  Returns:
    A function of numbers of the network and of the step, of which neither
    plays a part; `baselines.distill_over_networks` takes it as `networks`.

  Example:
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> inputs_of = inputs_in_theta(toy.translator().theta, dataset, transform)
    >>> inputs_of(0, 0)[1].count.item()
    24.0
  """
  return inputs.from_statistics(
    losses.feature_fn(theta.network),
    lambda index: theta.sample(dataset.images.shape[1:]),
    dataset,
    normalization,
    label_coding=label_coding,
    num_networks=1,
    keep=1,
    clock=clock or metrics.StageClock(),
  )


def distill_in_theta(
  theta: FixedNetwork,
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipcs: Sequence[int],
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  clock: metrics.StageClock | None = None,
) -> dict[int, LabeledSet]:
  """Distils a target set in theta for some IPCs (Alg. 3, lines 2-16).

  The statistics of all target images are computed once for all IPCs. A set
  does not depend on which other IPCs are asked for. Images above the
  resolution of theta are scaled down to it.

  Args:
    theta: the fixed network.
    dataset: the target set (X_T, Y_T), with the channels of theta.
    normalization: how its images become network inputs.
    ipcs: numbers of images per class.
    config: T, alpha and the rest of the distillation.
    options: progress, logs, checkpoints; each IPC has a folder
      `in_theta/ipc_<I>` in the work directory.
    clock: gets the seconds of `statistics` and of `distillation, IPC <I>`.

  Returns:
    The distilled set of each IPC, with its start, at the resolution of theta.

  Raises:
    ValueError: if channels or normalisation do not fit theta, a class has
      fewer images than an IPC, or the work directory is another run's.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import method_configs
    >>> _, dataset, transform = toy.problem()
    >>> theta = toy.translator().theta
    >>> config = method_configs.AdaptationConfig(num_steps=1)
    >>> sets = distill_in_theta(
    ...   theta, dataset, transform, ipcs=(1,), config=config
    ... )
    >>> sets[1].images.shape
    (3, 8, 8, 3)
  """
  names = [(ipc, 0) for ipc in ipcs]
  found = distill_sets(
    theta,
    dataset,
    normalization,
    names=names,
    config=config,
    options=options,
    clock=clock,
  )
  return {ipc: labeled for (ipc, _), labeled in found.items()}


def distill_sets(
  theta: FixedNetwork,
  dataset: Dataset,
  normalization: Normalization,
  *,
  names: Sequence[SetName],
  config: AdaptationConfig,
  options: LoopOptions | None = None,
  clock: metrics.StageClock | None = None,
) -> dict[SetName, LabeledSet]:
  """Distils several sets of an IPC in theta, from different real images.

  Args:
    theta: as of `distill_in_theta`, like what is not named here.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    names: IPC and number of the start of each set; 0 is the set that
      `distill_in_theta` gives.
    config: T, alpha and the rest of the distillation.
    options: progress, logs, checkpoints; each set has a folder
      `in_theta/ipc_<I>`, or `in_theta/ipc_<I>_start_<number>` above 0.
    clock: gets the seconds of `statistics` and of `distillation, IPC <I>`.

  Returns:
    The sets by name, with their starts, at the resolution of theta.

  Raises:
    ValueError: as `distill_in_theta`.
    FloatingPointError: when a loss is not finite.
  """
  options, clock = with_clock(options or LoopOptions(), clock)
  _check_target(theta, dataset, normalization)
  dataset = resolution.reduce_resolution(dataset, theta.image_shape)
  features_of = losses.feature_fn(theta.network)
  loss_fn = losses.LOSSES[config.loss].on_statistics
  inputs_of = inputs_in_theta(
    theta,
    dataset,
    normalization,
    label_coding=config.label_coding,
    clock=clock,
  )
  starts = {
    name: start_of(theta, dataset, normalization, name=name, config=config)
    for name in names
  }
  found = {}
  for (ipc, number), start in starts.items():
    own = config.distillation(ipc)
    name = f'ipc_{ipc}' + (f'_start_{number}' if number else '')
    folder = options_within(options, 'in_theta', name)
    claim_workdir(
      folder,
      own,
      theta=repr(theta),
      dataset_fingerprint=dataset.fingerprint(),
      normalization=describe_normalization(normalization),
    )
    with clock.part(f'distillation, IPC {ipc}'):
      distilled = distill_from(
        start,
        functools.partial(loss_fn, features_of, ridge=config.ridge),
        lambda step: inputs_of(0, step),
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
  dataset: Dataset,
  normalization: Normalization,
  *,
  name: SetName,
  config: AdaptationConfig,
) -> LabeledSet:
  """The real images that `distill_sets` begins a set with.

  Args:
    theta: the fixed network.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    name: IPC and number of the start.
    config: the seed and the coding of labels.

  Returns:
    The set before the first step, at the resolution of theta.

  Raises:
    ValueError: if a class has fewer images than the IPC.
  """
  ipc, number = name
  return baselines.random_real(
    _start_key(config.seed, ipc, number),
    resolution.reduce_resolution(dataset, theta.image_shape),
    normalization,
    ipc=ipc,
    label_coding=config.label_coding,
    short_classes=config.short_classes,
  )


def _start_key(seed: int, ipc: int, number: int) -> jax.Array:
  key = jax.random.fold_in(stage_keys(seed)[0], ipc)
  return jax.random.fold_in(key, number) if number else key


def _check_target(
  theta: FixedNetwork, dataset: Dataset, normalization: Normalization
) -> None:
  """Raises ValueError unless theta can see the images of a data set."""
  shape = dataset.images.shape[1:]
  if shape[2] != theta.image_shape[2]:
    raise ValueError(
      f'The images have {shape[2]} channels, theta and its translator '
      f'{theta.image_shape[2]}. Pass grey images through '
      'resolution.repeat_channels, or take another translator.'
    )
  if normalization.zca is not None and resolution.is_above(
    shape, theta.image_shape
  ):
    raise ValueError(
      f'Images of {shape[0]} x {shape[1]} are whitened (ZCA) at that '
      f'resolution and cannot be scaled to the {theta.image_shape[0]} x '
      f'{theta.image_shape[1]} of theta. Take a standardised translator, or '
      f'load the data set with image_size {theta.image_shape[0]}.'
    )
