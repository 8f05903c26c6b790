"""Settings of caching, Bi-Level and pre-training: Algs. 1 and 2."""

import dataclasses

from fsdd_jax import types
from fsdd_jax.algorithms.configs import (
  SubsetConfig,
  jitter_option,
  loss_option,
)
from fsdd_jax.core import augment, distill_step, krr_errors
from fsdd_jax.options import Config, option, out_of_range, seed_option


@dataclasses.dataclass(frozen=True)
class CachingConfig(SubsetConfig):
  """Alg. 1: subsets of a large set, distilled in one fixed network.

  Example:
    >>> CachingConfig(num_subsets=100, max_classes=20).num_subsets
    100
  """

  num_subsets: int = option(
    1000, 'Subsets N that are distilled [ours].', least=1
  )
  heldout_subsets: int = option(
    32,
    'The first so many of them, at most a tenth, are for choices [ours].',
    least=1,
  )
  heldout_classes: int = option(
    0,
    'Classes that held-out subsets are drawn from, and no others; 0: all.',
    least=0,
  )
  augmentation: str = option(
    'dsa',
    'Augmentation of real images each step: dsa (Alg. 1), frepo, none.',
    choices=augment.STRATEGIES,
  )
  augmented_copies: int = option(
    4,
    'Augmented copies of Z whose features are kept and serve the steps in '
    'turn; 0: images are augmented anew each step (literal) [ours].',
    least=0,
  )
  jitter: tuple[str, ...] = jitter_option()
  subsets_per_batch: int = option(
    4, 'Subsets distilled at once, which make one file [ours].', least=1
  )
  features_per_call: int = option(
    1000,
    'Real images that pass the network at once, to bound memory [ours].',
    least=1,
  )
  log_every: int = option(20, 'Steps between checks of the losses.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.augmentation != 'none' and not (
      self.augmented_copies or self.max_images
    ):
      raise out_of_range(
        'max_images',
        self.max_images,
        'some number, or augmented_copies of 1 or more: all images of a class '
        'cannot be augmented anew each step',
      )

  @property
  def num_heldout(self) -> int:
    """How many subsets are held out; they come first."""
    return min(self.heldout_subsets, max(1, self.num_subsets // 10))


@dataclasses.dataclass(frozen=True)
class BilevelConfig(SubsetConfig):
  """Bi-Level: a network's weights, learned through unrolled distillation.

  Example:
    >>> BilevelConfig(num_steps=50, truncation=10).truncation
    10
  """

  num_steps: int = option(
    20, 'Steps T of each distillation, unrolled [ours].', least=1
  )
  truncation: int = option(
    0, 'Gradients pass the last so many of them; 0: all [ours].', least=0
  )
  remat: bool = option(
    True, 'Compute steps again instead of keeping them (jax.checkpoint).'
  )
  num_updates: int = option(200, 'Updates of the weights [ours].', least=1)
  batch_size: int = option(1, 'Subsets an update [ours].', least=1)
  update_rate: float = option(
    1e-3, 'Learning rate of Adam for the weights [ours].', above=0
  )
  checkpoint_every: int = option(50, 'Updates between checkpoints.', least=1)
  log_every: int = option(10, 'Updates between log lines.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.max_images:
      raise out_of_range(
        'max_images', 0, '1 or more: each step sees the real images themselves'
      )


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Config):
  """Alg. 2: the translator learns to carry images from theta to Theta.

  Example:
    >>> PretrainingConfig(num_steps=500, batch_size=4).objective
    'translation'
  """

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
    choices=distill_step.OPTIMIZERS,
  )
  learning_rate: float = option(1e-4, 'eta at the first step [ours].', above=0)
  schedule: str = option(
    'warmup_cosine',
    'warmup_cosine (a twentieth of the steps), cosine or constant [ours].',
    choices=distill_step.SCHEDULES,
  )
  ridge: float = option(
    1e-6,
    'Ridge relative to the mean trace (KIP, FRePo); 0 is literal.',
    least=0,
  )
  loss: str = loss_option(krr_errors.OF_SUMS)
  label_coding: str = option(
    'centered',
    'centered (one-hot minus 1/C) or onehot (literal), as in the cache.',
    choices=types.LABEL_CODINGS,
  )
  clip_norm: float = option(
    1.0, 'Largest norm of a gradient; 0: not clipped [ours].', least=0
  )
  jitter: tuple[str, ...] = jitter_option()
  num_subsets: int = option(
    0,
    'Learn from the first so many cached subsets; 0: all that are not held '
    'out.',
    least=0,
  )
  bank_networks: int = option(
    4,
    "Networks theta' to choose from, whose features of Z are kept; 0: a fresh "
    'one a sample, through which X_T passes (literal) [ours].',
    least=0,
  )
  bank_renewal: int = option(
    200,
    'Updates after which the oldest of them is replaced; 0: never [ours].',
    least=0,
  )
  bank_images: int = option(
    100, 'Most images of each class in a bank; 0: all [ours].', least=0
  )
  heldout_subsets: int = option(
    32, 'Most held-out subsets that are scored.', least=1
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
  theta_seed: int = seed_option("Seed of the cache's network, theta.")
  seed: int = seed_option('Seed of omega, of networks and of the order.')
  checkpoint_every: int = option(100, 'Steps between checkpoints.', least=1)
  log_every: int = option(10, 'Steps between log lines.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.batch_size % self.networks_per_call:
      raise out_of_range(
        'networks_per_call',
        self.networks_per_call,
        f'a divisor of batch_size = {self.batch_size}',
      )
