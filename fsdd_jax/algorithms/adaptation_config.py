"""Settings of Alg. 3: distillation in theta, then what translation takes."""

import dataclasses

from fsdd_jax.algorithms.configs import (
  DistillationConfig,
  UpdateConfig,
  jitter_option,
  short_classes_option,
)
from fsdd_jax.core import distill_step
from fsdd_jax.options import Config, option, out_of_range, seed_option


@dataclasses.dataclass(frozen=True)
class AdaptationConfig(UpdateConfig):
  """Alg. 3: distillation in theta, then a few updates of the translator.

  `fit_labels` and `finishing_steps` are of what follows translation. `adapt`
  and `distill_dataset` do not look at them: `experiments/adapt.py` does, and
  calls `fsdd_jax.fit_labels` and `fsdd_jax.finish`.

  Example:
    >>> config = AdaptationConfig(adapt_ipcs=(1, 50), network_pool=16)
    >>> config.distillation(50).ipc
    50
  """

  adapt_ipcs: tuple[int, ...] = option(
    (1, 10), 'Images per class to adapt on, the list I of Alg. 3.'
  )
  num_starts: int = option(
    1,
    'Sets of each IPC to adapt on, distilled from different real images; '
    'several spare IPCs that are not among them.',
    least=1,
  )
  thinned: float = option(
    0.0,
    'Share of samples whose set is thinned to fewer images a class, for IPCs '
    'that are not among them [ours].',
    least=0,
    most=1,
  )
  num_adaptation_steps: int = option(
    600, 'Updates S of the translator; 0 is w/o Ada [ours].', least=0
  )
  batch_size: int = option(1, 'Samples an update, B [ours].', least=1)
  adaptation_learning_rate: float = option(
    3e-3, 'eta of Adam at the first update [ours].', above=0
  )
  adaptation_schedule: str = option(
    'cosine', 'cosine (to 0) or constant.', choices=distill_step.SCHEDULES
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
  fit_labels: bool = option(
    False,
    'Fit the labels of translated sets in the networks of the pool, in closed '
    'form, instead of keeping those learned in theta [ours].',
  )
  label_images: int = option(
    0,
    'Class-balanced real images in each network that labels are fitted to; 0: '
    'all, by the statistics of the pool [ours].',
    least=0,
  )
  finishing_steps: int = option(
    0,
    'Direct steps on the translated images, in the networks of the pool; 0: '
    'none [ours].',
    least=0,
  )
  finishing_learning_rate: float = option(
    0.03, 'Adam, images, for direct steps on the translated ones.', above=0
  )
  networks_per_call: int = option(
    1,
    'Networks that run side by side (measured on CPU: 1 is fastest).',
    least=1,
  )
  short_classes: str = short_classes_option()
  jitter: tuple[str, ...] = jitter_option()
  seed: int = seed_option('Seed of every draw but theta.')
  checkpoint_every: int = option(50, 'Steps between checkpoints.', least=1)
  log_every: int = option(10, 'Steps between log lines.', least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    ipcs = self.adapt_ipcs
    if not ipcs or min(ipcs) < 1 or len(set(ipcs)) < len(ipcs):
      raise out_of_range('adapt_ipcs', ipcs, 'different numbers from 1 up')
    steps, size = self.num_adaptation_steps, self.batch_size
    if steps and size % self.networks_per_call:
      raise out_of_range(
        'networks_per_call',
        self.networks_per_call,
        f'a divisor of batch_size = {size}',
      )
    if self.finishing_steps and self.finishing_steps < self.network_pool:
      raise out_of_range(
        'finishing_steps',
        self.finishing_steps,
        f'0, or at least network_pool = {self.network_pool}',
      )
    for name in ('fit_labels', 'finishing_steps'):
      if getattr(self, name) and not self.network_pool:
        raise out_of_range('network_pool', 0, f'1 or more, for {name}')
    if self.label_images and not self.fit_labels:
      raise out_of_range(
        'label_images', self.label_images, '0 without fit_labels'
      )

  @property
  def sums_statistics(self) -> bool:
    """Whether all target images pass the networks of the pool."""
    fits_all = self.fit_labels and not self.label_images
    steps = self.num_adaptation_steps or self.finishing_steps
    return self.network_pool > 0 and (fits_all or steps > 0)

  def distillation(self, ipc: int) -> DistillationConfig:
    """The distillation in theta of one IPC (lines 3-14)."""
    shared = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(DistillationConfig)
      if hasattr(self, field.name) and field.name != 'real_batch'
    }
    return DistillationConfig(**shared, ipc=ipc)


@dataclasses.dataclass(frozen=True)
class LabelConfig(Config):
  """Labels in closed form for a set that no translator made [ours].

  Example:
    >>> LabelConfig(label_networks=16).pool('onehot', seed=3).network_pool
    16
  """

  label_networks: int = option(
    0,
    'Random networks in which the labels of the set are fitted anew, in closed '
    'form; 0: none [ours].',
    least=0,
  )
  label_images: int = option(
    0,
    'Class-balanced real images in each of these networks; 0, or more than '
    'there are: all [ours].',
    least=0,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.label_images and not self.label_networks:
      raise out_of_range(
        'label_images', self.label_images, '0 without label_networks'
      )

  def pool(self, label_coding: str, *, seed: int) -> AdaptationConfig:
    """What `fsdd_jax.fit_labels` takes; `seed` is of networks and images.

    Its ridge is that of the protocol `krr`, for which labels are fitted.
    """
    return AdaptationConfig(
      fit_labels=True,
      network_pool=self.label_networks,
      label_images=self.label_images,
      label_coding=label_coding,
      seed=seed,
    )
