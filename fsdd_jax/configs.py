"""Settings of each stage as frozen dataclasses; `cli` makes absl flags of them.

A default is stated once, here, with its source. "[ours]" marks a value that
the supplement does not give and that we chose on held-out training images.
"""

import dataclasses
from typing import Any


def option(default: Any, help_text: str) -> Any:
  """A dataclass field whose help text becomes that of its flag."""
  return dataclasses.field(default=default, metadata={'help': help_text})


def _require(condition: bool, name: str, value: Any, remedy: str) -> None:
  if not condition:
    raise ValueError(f'{name} = {value!r} is out of range: {remedy}.')


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which images a stage works on."""

  dataset: str = option(
    'digits',
    'digits, fractals, fractals:CLASSES, a TFDS name or directory, or '
    'folder:PATH.',
  )
  data_dir: str = option(
    '', "TFDS data directory; empty means $FSDD_DATA_DIR, else TFDS's own."
  )
  image_size: int = option(
    0, 'Resize to this height and width; 0 keeps the size.'
  )
  classes: tuple[str, ...] = option(
    (), 'Only these classes, by name or number; empty means all.'
  )
  limit: int = option(
    0, 'At most this many training images, balanced over classes; 0: all.'
  )
  holdout: float = option(
    0.0, 'Share of the training images kept apart for choices, in [0, 1).'
  )
  zca: bool = option(False, 'Whiten images (ZCA) after standardisation.')

  def __post_init__(self) -> None:
    _require(self.image_size >= 0, 'image_size', self.image_size, 'use 0 or up')
    _require(self.limit >= 0, 'limit', self.limit, 'use 0 or up')
    _require(
      0 <= self.holdout < 1, 'holdout', self.holdout, 'use a share in [0, 1)'
    )


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The feature extractor f and its distribution of weights, Theta."""

  network: str = option(
    'convnet', 'convnet, alexnet, vgg11, resnet18 or a registered name.'
  )
  width: int = option(128, 'Channels of a ConvNet (DC, MTT and HaBa: 128).')
  width_multiplier: int = option(
    1, 'Factor of the width a block: 1 is constant (DC), 2 doubles (FRePo).'
  )
  depth: int = option(
    0, 'Blocks of a ConvNet; 0: by resolution (3 at 32, 4 at 64, 5 at 128).'
  )
  norm: str = option(
    '', "none, instance, batch or group; empty: the network's own default."
  )
  initialization: str = option('pytorch', 'pytorch or lecun weights.')

  def __post_init__(self) -> None:
    for name in ('width', 'width_multiplier'):
      value = getattr(self, name)
      _require(value >= 1, name, value, 'use 1 or up')
    _require(self.depth >= 0, 'depth', self.depth, 'use 0 or up')


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
  """Alg. 4, and the distillation of Alg. 3, lines 9-14."""

  ipc: int = option(10, 'Images per class, I.')
  num_networks: int = option(1, 'Networks R: 1 is 1 Net, num_steps Baseline.')
  num_steps: int = option(300, 'Optimiser steps T in total [ours].')
  revisit: bool = option(
    False,
    'Keep the statistics of all networks and visit them in random order '
    '(Pool) instead of one after another.',
  )
  real_batch: int = option(
    0, 'Class-balanced real images a step; 0: all, by their statistics.'
  )
  optimizer: str = option('adam', 'adam, adabelief, lamb or sgd (literal).')
  learning_rate: float = option(0.01, 'alpha for images [ours].')
  label_learning_rate: float = option(
    0.001, 'alpha for labels; 0 keeps them fixed [ours].'
  )
  label_coding: str = option(
    'centered', 'centered (one-hot minus 1/C) or onehot (literal).'
  )
  ridge: float = option(
    1e-6, 'Ridge relative to the mean trace (KIP, FRePo); 0 is literal.'
  )
  seed: int = option(0, 'Seed of every draw: initial images, networks, order.')
  checkpoint_every: int = option(50, 'Steps between checkpoints.')
  log_every: int = option(10, 'Steps between log lines.')

  def __post_init__(self) -> None:
    for name in (
      'ipc',
      'num_networks',
      'num_steps',
      'checkpoint_every',
      'log_every',
    ):
      value = getattr(self, name)
      _require(value >= 1, name, value, 'use 1 or up')
    _require(
      self.num_networks <= self.num_steps,
      'num_networks',
      self.num_networks,
      f'use at most num_steps = {self.num_steps}, one step a network',
    )
    for name in ('ridge', 'label_learning_rate', 'real_batch'):
      value = getattr(self, name)
      _require(value >= 0, name, value, 'use 0 or up')
    _require(
      self.learning_rate > 0, 'learning_rate', self.learning_rate, 'use > 0'
    )
    _require(
      self.label_coding in ('centered', 'onehot'),
      'label_coding',
      self.label_coding,
      'use centered or onehot',
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """How a distilled set is scored."""

  protocols: tuple[str, ...] = option(
    ('krr',), 'Names among krr, frepo and dc.'
  )
  networks: tuple[str, ...] = option(
    (), 'Architectures to score in; empty: the one it was distilled in.'
  )
  repeats: int = option(5, 'Fresh networks a protocol.')
  split: str = option(
    'test', 'test, or holdout for choices (needs a held-out share).'
  )
  evaluation_seed: int = option(1000, 'Seed of the fresh networks.')

  def __post_init__(self) -> None:
    _require(self.repeats >= 1, 'repeats', self.repeats, 'use 1 or up')
    _require(
      self.split in ('test', 'holdout'),
      'split',
      self.split,
      'use test or holdout',
    )
