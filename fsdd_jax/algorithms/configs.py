"""Settings of each stage as frozen dataclasses; flags can be made of them.

A default is stated once, here, with its source. "[ours]" marks a value that
the supplement does not give and that we chose on held-out training images.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fsdd_jax import types
from fsdd_jax.core import distill_step, jitter, krr_errors
from fsdd_jax.networks import translator
from fsdd_jax.options import SEEDS, Config, option, out_of_range, seed_option

_LOSSES = {
  'squared': 'the paper',
  'scale_free': 'squared, of the best multiple of the predictions [ours]',
  'platt': 'cross-entropy of their best multiple, as RFAD, in the features of '
  'all target images [ours]',
}


def loss_option(names: Iterable[str] = krr_errors.ERRORS) -> Any:
  """The error of predictions on target images that a stage minimises."""
  listed = '; '.join(f'{name} ({_LOSSES[name]})' for name in names)
  return option('scale_free', f'Error: {listed}.', choices=tuple(names))


def jitter_option() -> Any:
  """How distilled images move at each step."""
  return option(
    (),
    'How distilled images move at random at each step: flip, shift (by up to '
    '1/32 of a side), or both; empty: not at all (the paper).',
    choices=jitter.MOVES,
  )


def short_classes_option() -> Any:
  """What a set starts from where a class has fewer images than IPC."""
  return option(
    'error',
    'Start of a class with fewer images than ipc: error, repeat (its images '
    'recur) or noise (normal pixels beyond them).',
    choices=('error', 'repeat', 'noise'),
  )


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
  """Which images a stage works on.

  Example:
    >>> DataConfig(dataset='cifar10', holdout=0.1).holdout
    0.1
  """

  dataset: str = option(
    'digits',
    'digits, fractals, fractals:CLASSES, a TFDS name or directory, '
    'folder:PATH, or npz:PATH (arrays in a .npz file).',
  )
  data_dir: str = option(
    '', "TFDS data directory; empty means $FSDD_DATA_DIR, else TFDS's own."
  )
  image_size: int = option(
    0, 'Resize to this height and width; 0 keeps the size.', least=0
  )
  classes: tuple[str, ...] = option(
    (), 'Only these classes, by name or number; empty means all.'
  )
  limit: int = option(
    0,
    'At most this many training images, balanced over classes; 0: all.',
    least=0,
  )
  holdout: float = option(
    0.0,
    'Share of the training images kept apart for choices, in [0, 1).',
    least=0,
    below=1,
  )
  zca: bool = option(False, 'Whiten images (ZCA) after standardisation.')


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Config):
  """The feature extractor f and its distribution of weights, Theta.

  Example:
    >>> NetworkConfig(width=32).network
    'convnet'
  """

  network: str = option(
    'convnet', 'convnet, mlp, alexnet, vgg11, resnet18 or a registered name.'
  )
  width: int = option(
    128, 'Channels of a ConvNet (DC, MTT and HaBa: 128) or Mlp.', least=1
  )
  width_multiplier: int = option(
    1,
    'Factor of the width a block: 1 is constant (DC), 2 doubles (FRePo).',
    least=1,
  )
  depth: int = option(
    0,
    'Blocks of a ConvNet; 0: by resolution (3 at 32, 4 at 64, 5 at 128). '
    'Layers of an Mlp; 0: 3.',
    least=0,
  )
  norm: str = option(
    '', "none, instance, batch or group; empty: the network's own default."
  )
  initialization: str = option('pytorch', 'pytorch or lecun weights.')
  dtype: str = option(
    'float32',
    'What convolutions compute in: float32, or bfloat16 for speed on '
    'accelerators; Gram matrices and solves stay float32.',
    choices=('float32', 'bfloat16'),
  )


@dataclasses.dataclass(frozen=True)
class TranslatorConfig(Config):
  """The translator G; its size is not in the supplement."""

  translator_body: str = option(
    'light',
    'auto_encoder (the paper) or light: half the resolution throughout [ours].',
    choices=translator.TRANSLATORS,
  )
  translator_inputs: tuple[str, ...] = option(
    ('images', 'start', 'theta'),
    'What it sees: images (the paper), start (what distillation added), theta '
    '(its feature maps) [ours].',
  )
  translator_width: int = option(
    32, 'Channels of its first stage [ours].', least=1
  )
  translator_blocks: int = option(2, 'Residual blocks inside [ours].', least=0)
  head_scale: float = option(
    0.01,
    'Initial weights of its head: 0.01 starts near the identity; use 1 for '
    'w AE. Of w/o Pre-Train 1 diverged on a GPU [ours].',
    least=0,
  )


@dataclasses.dataclass(frozen=True)
class UpdateConfig(Config):
  """The steps on synthetic images and labels, common to Algs. 1, 3 and 4."""

  num_steps: int = option(300, 'Optimiser steps T in total [ours].', least=1)
  optimizer: str = option(
    'adam',
    'adam, adabelief, lamb or sgd (literal).',
    choices=distill_step.OPTIMIZERS,
  )
  learning_rate: float = option(0.1, 'alpha for images [ours].', above=0)
  label_learning_rate: float = option(
    0.03, 'alpha for labels; 0 keeps them fixed [ours].', least=0
  )
  schedule: str = option(
    'cosine',
    'Of both rates: cosine (to 0, as [ours]) or constant (literal).',
    choices=distill_step.SCHEDULES,
  )
  label_coding: str = option(
    'centered',
    'centered (one-hot minus 1/C) or onehot (literal).',
    choices=types.LABEL_CODINGS,
  )
  ridge: float = option(
    1e-6,
    'Ridge relative to the mean trace (KIP, FRePo); 0 is literal.',
    least=0,
  )
  loss: str = loss_option()


@dataclasses.dataclass(frozen=True)
class DistillationConfig(UpdateConfig):
  """Alg. 4, and the distillation of Alg. 3, lines 9-14.

  Example:
    >>> config = DistillationConfig(ipc=1, num_networks=16, revisit=True)
    >>> config.ipc, config.num_networks, config.revisit
    (1, 16, True)
  """

  ipc: int = option(10, 'Images per class, I.', least=1)
  num_networks: int = option(
    1, 'Networks R: 1 is 1 Net, num_steps Baseline.', least=1
  )
  revisit: bool = option(
    False,
    'Keep the statistics of all networks and visit them in random order '
    '(Pool) instead of one after another.',
  )
  real_batch: int = option(
    0,
    'Class-balanced real images a step; 0: all, by statistics, which FRePo, '
    'RFAD and KIP cannot.',
    least=0,
  )
  short_classes: str = short_classes_option()
  jitter: tuple[str, ...] = jitter_option()
  seed: int = seed_option(
    'Seed of every draw: initial images, networks, order.'
  )
  checkpoint_every: int = option(50, 'Steps between checkpoints.', least=1)
  log_every: int = option(10, 'Steps between log lines.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.num_networks > self.num_steps:
      raise out_of_range(
        'num_networks',
        self.num_networks,
        f'at most num_steps = {self.num_steps}, one step a network',
      )


@dataclasses.dataclass(frozen=True)
class SubsetConfig(UpdateConfig):
  """Random subsets of a large set, and their distillation (Alg. 1, 3-19)."""

  min_classes: int = option(
    10,
    'Least classes of a subset, C_min; M / C_min must fit a class [ours].',
    least=2,
  )
  max_classes: int = option(
    100,
    'Most classes of a subset, C_max (supplement, section B: 100).',
    least=1,
  )
  max_images: int = option(
    5000,
    'Most real images of a subset, M: 50 a class at C_max; 0: all images of '
    'its classes [ours].',
    least=0,
  )
  max_synthetic: int = option(
    500,
    'Most distilled images, I_max: the supplement tests up to 50 x 10.',
    least=1,
  )
  loss: str = loss_option(krr_errors.OF_SUMS)
  seed: int = seed_option('Seed of every draw but theta.')
  theta_seed: int = seed_option('Seed of the arbitrary network, theta.')


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Config):
  """How a distilled set is scored.

  Example:
    >>> EvaluationConfig(protocols=('krr', 'frepo')).protocols
    ('krr', 'frepo')
  """

  protocols: tuple[str, ...] = option(
    ('krr',), 'Names among krr, frepo, dc, nngp and ntk.'
  )
  networks: tuple[str, ...] = option(
    (), 'Architectures to score in; empty: the one it was distilled in.'
  )
  width: int = option(
    0, 'Channels of their first layer; 0: as it was distilled.', least=0
  )
  repeats: int = option(5, 'Fresh networks a protocol.', least=1)
  split: str = option(
    'test',
    'test, or holdout for choices (needs a held-out share).',
    choices=('test', 'holdout'),
  )
  evaluation_seed: int = option(
    1000, 'Seed of the fresh networks.', least=0, below=SEEDS
  )
  learning_rate: float = option(
    0.0,
    "Of frepo and dc; 0: the protocol's own.",
    least=0,
  )
  kernel_float64: bool = option(
    False, 'Compute the kernels of nngp and ntk in double precision.'
  )
