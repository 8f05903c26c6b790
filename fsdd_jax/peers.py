"""What the peers' methods start with: FRePo, RFAD and KIP.

Unlike Algs. 3 and 4 these take a batch of real images a step.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from fsdd_jax import artifacts, baselines, containers, inputs
from fsdd_jax.configs import Config, DistillationConfig, out_of_range
from fsdd_jax.datasets import Dataset
from fsdd_jax.normalization import Normalization
from fsdd_jax.stage_loop import LoopOptions, claim_workdir
from fsdd_jax.types import LabeledSet


class Prepared(NamedTuple):
  """Start and random keys of a method.

  Attributes:
    start: the set before the first step.
    network_key: for the networks.
    order_key: for the order in which they are used.
    batch_key: for the real images.

  Example:
    >>> from fsdd_jax import configs, peer_configs, stage_loop, toy
    >>> _, dataset, transform = toy.problem()
    >>> found: Prepared = prepare(
    ...   'KIP',
    ...   dataset,
    ...   transform,
    ...   config=configs.DistillationConfig(ipc=1, real_batch=6),
    ...   own=peer_configs.KipConfig(),
    ...   options=stage_loop.LoopOptions(),
    ...   start=None,
    ...   network='Mlp',
    ... )
    >>> found.start.images.shape
    (3, 8, 8, 3)
  """

  start: LabeledSet
  network_key: jax.Array
  order_key: jax.Array
  batch_key: jax.Array


def prepare(
  method: str,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  own: Config,
  options: LoopOptions,
  start: LabeledSet | None,
  network: Any,
) -> Prepared:
  """Checks the settings, claims the work directory, and draws the start.

  Args:
    method: its name.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: what all methods share.
    own: the method's own settings.
    options: names the work directory.
    start: the set to start from; random real images by default.
    network: the feature extractor, for the record.

  Returns:
    Where the method starts.

  Raises:
    ValueError: without a number of real images a step, for a start that does
      not fit the data set, or a work directory of another run.

  Example:
    >>> from fsdd_jax import configs, peer_configs, stage_loop, toy
    >>> _, dataset, transform = toy.problem()
    >>> prepare(
    ...   'KIP',
    ...   dataset,
    ...   transform,
    ...   config=configs.DistillationConfig(),
    ...   own=peer_configs.KipConfig(),
    ...   options=stage_loop.LoopOptions(),
    ...   start=None,
    ...   network='Mlp',
    ... )
    Traceback (most recent call last):
    ValueError: real_batch = 0 is out of range: use 1 or more, as KIP takes a \
batch of real images a step.
  """
  if not config.real_batch:
    raise out_of_range(
      'real_batch',
      0,
      f'1 or more, as {method} takes a batch of real images a step',
    )
  initial_key, *keys = jax.random.split(jax.random.key(config.seed), 4)
  facts = {
    **dataclasses.asdict(own),  # type: ignore[call-overload]
    'method': method,
    'network_fields': repr(network),
    'dataset_fingerprint': dataset.fingerprint(),
    'normalization': artifacts.describe_normalization(normalization),
  }
  if start is None:
    start = baselines.random_real(
      initial_key,
      dataset,
      normalization,
      ipc=config.ipc,
      label_coding=config.label_coding,
      short_classes=config.short_classes,
    )
  else:
    baselines.check_start(start, dataset, config)
    facts['start_sha256'] = containers.hash_tree(start)
  claim_workdir(options, config, **facts)
  return Prepared(start, *keys)


def batches(
  key: jax.Array,
  draw: inputs.DrawFn,
  dataset: Dataset,
  normalization: Normalization,
  config: DistillationConfig,
) -> inputs.InputsFn:
  """Inputs of a step: what `draw` makes of its number, and real images.

  Example:
    >>> import jax
    >>> from fsdd_jax import configs, toy
    >>> _, dataset, transform = toy.problem()
    >>> config = configs.DistillationConfig(real_batch=6)
    >>> draw = lambda step: ()
    >>> inputs_of = batches(
    ...   jax.random.key(0), draw, dataset, transform, config
    ... )
    >>> inputs_of(0, 0)[1].images.shape
    (6, 8, 8, 3)
  """
  return inputs.from_batches(
    key,
    draw,
    dataset,
    normalization,
    label_coding=config.label_coding,
    size=config.real_batch,
    keep=1,
    devices=inputs.devices_for_batch(config.real_batch),
  )
