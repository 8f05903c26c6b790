"""What the experiment binaries share: flags of configs, loading, one error."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import numpy as np
from absl import app, flags, logging

from fsdd_jax import artifacts, baselines, datasets, networks
from fsdd_jax import normalization as normalization_lib
from fsdd_jax.configs import DataConfig, DistillationConfig, NetworkConfig
from fsdd_jax.types import LabeledSet

Config = TypeVar('Config')

_DEFINE: dict[Any, Callable[..., Any]] = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  tuple[str, ...]: flags.DEFINE_list,
}


def define_flags(*config_classes: type, **defaults: Any) -> None:
  """Defines an absl flag for each field of the given dataclasses.

  Args:
    *config_classes: dataclasses of `configs`.
    **defaults: values that replace the dataclass's own default.
  """
  for config_class in config_classes:
    for field in dataclasses.fields(config_class):
      default = defaults.get(field.name, field.default)
      if isinstance(default, tuple):
        default = list(default)
      _DEFINE[field.type](field.name, default, field.metadata['help'])


def from_flags(config_class: type[Config]) -> Config:
  """Builds a config of the parsed flags; its own checks name a bad value."""
  values = {}
  for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
    value = flags.FLAGS[field.name].value
    values[field.name] = tuple(value) if isinstance(value, list) else value
  return config_class(**values)


def run(main: Callable[[list[str]], None]) -> None:
  """Runs a binary; a known error ends it with one line and status 1."""

  def guarded(arguments: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    try:
      main(arguments)
    except (ArithmeticError, ImportError, OSError, ValueError) as error:
      if flags.FLAGS.traceback:
        raise
      sys.exit(f'error: {error}')

  flags.DEFINE_bool('traceback', False, 'Show where an error arose.')
  app.run(guarded)


def load_dataset(config: DataConfig, split: str) -> datasets.Dataset:
  """Loads one split; `limit` holds for the training images alone."""
  return datasets.load(
    config.dataset,
    split=split,
    image_size=config.image_size or None,
    data_dir=config.data_dir or None,
    classes=config.classes or None,
    limit=config.limit or None if split == 'train' else None,
    holdout=config.holdout,
  )


def fit_normalization(
  config: DataConfig, train: datasets.Dataset
) -> normalization_lib.Normalization:
  """Standardisation, with ZCA where the config asks for it."""
  if config.zca:
    return normalization_lib.zca_whitening(train.images)
  return normalization_lib.standardization(train.images)


def make_network(
  config: NetworkConfig, image_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
  """The network of a config for images `[h, w, c]`."""
  fields: dict[str, Any] = {'initialization': config.initialization}
  if config.norm:
    fields['norm'] = config.norm
  if config.network == 'convnet':
    fields['width'] = config.width
    fields['width_multiplier'] = config.width_multiplier
    if config.depth:
      fields['depth'] = config.depth
  return networks.make(
    config.network, image_shape=image_shape, num_classes=num_classes, **fields
  )


def describe_result(
  synthetic: LabeledSet,
  normalization: normalization_lib.Normalization,
  dataset: datasets.Dataset,
  data: DataConfig,
  network: NetworkConfig,
  config: DistillationConfig,
  scores: Sequence[dict[str, Any]] = (),
) -> artifacts.DistilledSet:
  """A distilled set with all that its file tells about it."""
  learned = config.label_learning_rate > 0
  metadata = artifacts.Metadata(
    dataset=data.dataset,
    class_names=dataset.class_names,
    label_coding='learned' if learned else config.label_coding,
    ipc=config.ipc,
    network=dataclasses.asdict(network),
    recipe={
      'method': baselines.method_name(config),
      'data': dataclasses.asdict(data),
      'distillation': dataclasses.asdict(config),
    },
    seeds={'distillation': config.seed},
    scores=tuple(scores),
  )
  return artifacts.DistilledSet(
    np.asarray(synthetic.images),
    np.asarray(synthetic.labels),
    normalization,
    metadata,
  )
