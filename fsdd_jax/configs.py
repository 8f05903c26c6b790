"""Settings of each stage as frozen dataclasses; `cli` makes absl flags of them.

A default is stated once, here, with its source. "[ours]" marks a value that
the supplement does not give and that we chose on held-out training images.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fsdd_jax import augment, distill, types


def option(
  default: Any,
  help_text: str,
  *,
  least: float | None = None,
  above: float | None = None,
  below: float | None = None,
  choices: Iterable[str] | None = None,
) -> Any:
  """A dataclass field; its help text becomes that of its flag.

  Args:
    default: the value where none is given.
    help_text: what it means, with the source of the default.
    least: the smallest value allowed.
    above: values must be larger than this.
    below: values must be smaller than this.
    choices: the values allowed.

  Returns:
    A field of a `Config`, which checks the limits.
  """
  limits = {'least': least, 'above': above, 'below': below}
  names = None if choices is None else tuple(choices)
  return dataclasses.field(
    default=default, metadata={'help': help_text, 'choices': names, **limits}
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """Checks its options on construction."""

  def __post_init__(self) -> None:
    """Raises a ValueError that names the first bad value and the remedy."""
    for field in dataclasses.fields(self):
      value, limits = getattr(self, field.name), field.metadata
      if limits['choices'] is not None and value not in limits['choices']:
        raise ValueError(
          f'Unknown {field.name} {value!r}; choose one of '
          f'{", ".join(limits["choices"])}.'
        )
      for name, good in (
        ('least', lambda limit, value=value: value >= limit),
        ('above', lambda limit, value=value: value > limit),
        ('below', lambda limit, value=value: value < limit),
      ):
        limit = limits[name]
        if limit is not None and not good(limit):
          words = {'least': f'{limit} or more'}.get(name, f'{name} {limit}')
          raise out_of_range(field.name, value, words)


def out_of_range(name: str, value: Any, remedy: str) -> ValueError:
  """The error for an option whose value cannot be used."""
  return ValueError(f'{name} = {value!r} is out of range: use {remedy}.')


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
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
  """The feature extractor f and its distribution of weights, Theta."""

  network: str = option(
    'convnet', 'convnet, alexnet, vgg11, resnet18 or a registered name.'
  )
  width: int = option(
    128, 'Channels of a ConvNet (DC, MTT and HaBa: 128).', least=1
  )
  width_multiplier: int = option(
    1,
    'Factor of the width a block: 1 is constant (DC), 2 doubles (FRePo).',
    least=1,
  )
  depth: int = option(
    0,
    'Blocks of a ConvNet; 0: by resolution (3 at 32, 4 at 64, 5 at 128).',
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
class UpdateConfig(Config):
  """The steps on synthetic images and labels, common to Algs. 1, 3 and 4."""

  num_steps: int = option(300, 'Optimiser steps T in total [ours].', least=1)
  optimizer: str = option(
    'adam',
    'adam, adabelief, lamb or sgd (literal).',
    choices=distill.OPTIMIZERS,
  )
  learning_rate: float = option(0.03, 'alpha for images [ours].', above=0)
  label_learning_rate: float = option(
    0.01, 'alpha for labels; 0 keeps them fixed [ours].', least=0
  )
  schedule: str = option(
    'cosine',
    'Of both rates: cosine (to 0, as [ours]) or constant (literal).',
    choices=distill.SCHEDULES,
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


@dataclasses.dataclass(frozen=True)
class DistillationConfig(UpdateConfig):
  """Alg. 4, and the distillation of Alg. 3, lines 9-14."""

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
    0, 'Class-balanced real images a step; 0: all, by statistics.', least=0
  )
  seed: int = option(0, 'Seed of every draw: initial images, networks, order.')
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
class EvaluationConfig(Config):
  """How a distilled set is scored."""

  protocols: tuple[str, ...] = option(
    ('krr',), 'Names among krr, frepo and dc.'
  )
  networks: tuple[str, ...] = option(
    (), 'Architectures to score in; empty: the one it was distilled in.'
  )
  repeats: int = option(5, 'Fresh networks a protocol.', least=1)
  split: str = option(
    'test',
    'test, or holdout for choices (needs a held-out share).',
    choices=('test', 'holdout'),
  )
  evaluation_seed: int = option(1000, 'Seed of the fresh networks.')


@dataclasses.dataclass(frozen=True)
class CachingConfig(UpdateConfig):
  """Alg. 1: subsets of a large set, distilled in one fixed network."""

  num_subsets: int = option(
    1000, 'Subsets N that are distilled [ours].', least=1
  )
  min_classes: int = option(
    10,
    'Least classes of a subset, C_min; M / C_min must fit a class [ours].',
    least=1,
  )
  max_classes: int = option(
    100,
    'Most classes of a subset, C_max (supplement, section B: 100).',
    least=1,
  )
  max_images: int = option(
    5000,
    'Most real images of a subset, M: 50 a class at C_max [ours].',
    least=1,
  )
  max_synthetic: int = option(
    500,
    'Most distilled images, I_max: the supplement tests up to 50 x 10.',
    least=1,
  )
  augmentation: str = option(
    'dsa',
    'Augmentation of real images each step: dsa (Alg. 1), frepo, none.',
    choices=augment.STRATEGIES,
  )
  subsets_per_batch: int = option(
    4, 'Subsets distilled at once, which make one file [ours].', least=1
  )
  features_per_call: int = option(
    1000,
    'Real images that pass the network at once, to bound memory [ours].',
    least=1,
  )
  seed: int = option(0, 'Seed of subsets and of their augmentation.')
  theta_seed: int = option(0, 'Seed of the fixed network, theta.')
  log_every: int = option(20, 'Steps between checks of the losses.', least=1)


@dataclasses.dataclass(frozen=True)
class TranslatorConfig(Config):
  """The translator G; its size is not in the supplement."""

  translator_width: int = option(
    64, 'Channels of its first stage [ours].', least=1
  )
  translator_blocks: int = option(4, 'Residual blocks inside [ours].', least=0)
  head_scale: float = option(
    0.01,
    'Initial weights of its head: 0.01 starts near the identity; use 1 for '
    'w/o Pre-Train and w AE [ours].',
    least=0,
  )


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Config):
  """Alg. 2: the translator learns to carry images from theta to Theta."""

  objective: str = option(
    'translation',
    'translation (Alg. 2) or reconstruction (w AE).',
    choices=('translation', 'reconstruction'),
  )
  num_steps: int = option(
    10000, 'Most updates of the translator [ours].', least=1
  )
  batch_size: int = option(
    8, 'Samples a step over all devices, B [ours].', least=1
  )
  optimizer: str = option(
    'adam',
    'adam, adabelief, lamb or sgd (literal).',
    choices=distill.OPTIMIZERS,
  )
  learning_rate: float = option(1e-4, 'eta at the first step [ours].', above=0)
  schedule: str = option(
    'cosine', 'cosine (to 0) or constant [ours].', choices=distill.SCHEDULES
  )
  ridge: float = option(
    1e-6,
    'Ridge relative to the mean trace (KIP, FRePo); 0 is literal.',
    least=0,
  )
  heldout_share: float = option(
    0.1,
    'Share of the cached subsets, the last ones, that decides [ours].',
    above=0,
    below=1,
  )
  heldout_subsets: int = option(
    32,
    'Most held-out subsets that are scored; their d x d sums are kept.',
    least=1,
  )
  heldout_networks: int = option(
    4,
    'Fresh networks, the same each time, that score them in turn [ours].',
    least=1,
  )
  eval_every: int = option(
    200, 'Steps between scores of held-out subsets.', least=1
  )
  patience: int = option(
    10,
    'Scores without a better one that end the stage; 0: never [ours].',
    least=0,
  )
  networks_per_call: int = option(
    1,
    'Networks that run side by side (measured on CPU: 1 is fastest).',
    least=1,
  )
  theta_seed: int = option(0, "Seed of the cache's network, theta.")
  seed: int = option(0, 'Seed of omega, of networks and of the order.')
  checkpoint_every: int = option(100, 'Steps between checkpoints.', least=1)
  log_every: int = option(10, 'Steps between log lines.', least=1)


@dataclasses.dataclass(frozen=True)
class AdaptationConfig(UpdateConfig):
  """Alg. 3: distillation in theta, then a few updates of the translator."""

  adapt_ipcs: tuple[int, ...] = option(
    (1, 10), 'Images per class to adapt on, the list I of Alg. 3.'
  )
  num_adaptation_steps: int = option(
    200, 'Updates S of the translator; 0 is w/o Ada [ours].', least=0
  )
  batch_size: int = option(2, 'Samples an update, B [ours].', least=1)
  adaptation_learning_rate: float = option(
    3e-4, 'eta of Adam at the first update [ours].', above=0
  )
  adaptation_schedule: str = option(
    'cosine', 'cosine (to 0) or constant.', choices=distill.SCHEDULES
  )
  network_pool: int = option(
    0,
    'Networks whose statistics over all target images are kept and visited in '
    'random order; 0: a fresh network a sample (literal).',
    least=0,
  )
  real_batch: int = option(
    500,
    'Class-balanced real images a sample in fresh networks; 0: all (literal).',
    least=0,
  )
  networks_per_call: int = option(
    1,
    'Networks that run side by side (measured on CPU: 1 is fastest).',
    least=1,
  )
  seed: int = option(0, 'Seed of every draw but theta.')
  checkpoint_every: int = option(50, 'Steps between checkpoints.', least=1)
  log_every: int = option(10, 'Steps between log lines.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    ipcs = self.adapt_ipcs
    if not ipcs or min(ipcs) < 1 or len(set(ipcs)) < len(ipcs):
      raise out_of_range('adapt_ipcs', ipcs, 'different numbers from 1 up')

  def distillation(self, ipc: int) -> DistillationConfig:
    """The distillation in theta of one IPC (lines 3-14)."""
    shared = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(DistillationConfig)
      if hasattr(self, field.name) and field.name != 'real_batch'
    }
    return DistillationConfig(**shared, ipc=ipc)
