"""What the commands of benchmarks share: settings, networks, rows, a start."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import console, tables
from measures import timing, yardsticks
from workbench import config_flags, launching, problems

# Of the commands that need a large set Z.
LARGE = {
  'dataset': 'fractals:20',
  'image_size': 32,
  'num_subsets': 16,
  'min_classes': 5,
  'max_classes': 20,
  'max_images': 500,
  'max_synthetic': 100,
  'num_steps': 20,
}


@dataclasses.dataclass(frozen=True)
class NoiseSettings(Config):
  """Sets of noise, and how often they are timed."""

  ipc: int = option(10, 'Images per class, of 10 classes.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  repeats: int = option(15, 'Timed rounds.', least=1)

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image."""
    return self.image_size, self.image_size, 3

  @property
  def conditions(self) -> str:
    """For the caption of a table."""
    size = self.image_size
    return (
      f'{10 * self.ipc} images of {size} x {size}; median [quartiles] of '
      f'{self.repeats} pairs; {timing.conditions()}'
    )


def network(image_shape: tuple[int, ...], num_classes: int = 10) -> nn.Module:
  """The network of the flags."""
  config = config_flags.read(NetworkConfig)
  return problems.make_network(config, image_shape, num_classes)


def large_set() -> tuple[nn.Module, TargetSet]:
  """Network and large set of the flags."""
  data = config_flags.read(DataConfig)
  train = problems.load_dataset(data, 'train')
  found = network(train.images.shape[1:], train.num_classes)
  return found, TargetSet(train, problems.fit_normalization(data, train))


def row(name: str, pairs: yardsticks.Pairs) -> list[str]:
  """A name, then seconds, those of the yardstick, and ratios."""
  values = pairs.measured, pairs.yardstick, pairs.ratios
  return [name, *map(timing.quartiles, values)]


def run(
  measure: Callable[[], Iterable[tables.Table]],
  *config_classes: type,
  **defaults: Any,
) -> None:
  """Defines the flags of a command, and prints each table once it is there."""

  def main(_: list[str]) -> None:
    for table in measure():
      console.show(table)

  config_flags.define(*config_classes, **defaults)
  launching.run(main)
