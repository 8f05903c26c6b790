r"""Operations and communication of each of 1, 2, 4, ... devices.

By the compiled programs, so that forced host devices serve.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \
      python experiments/benchmarks/scaling.py --width=32
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax

from fsdd_jax.algorithms.configs import NetworkConfig, TranslatorConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from fsdd_jax.runtime.devices import Devices, data_mesh
from measures import scaling, settings, timing
from measures.programs import Problem
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is compiled."""

  ipc: int = option(10, 'Images per class of a distilled set.', least=1)
  num_classes: int = option(10, 'Classes of the target set.', least=2)
  num_real: int = option(50000, 'Images of the target set.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  batch_size: int = option(2, 'Sets a device and step.', least=1)
  max_synthetic: int = option(100, 'Distilled images of a subset.', least=1)
  max_images: int = option(500, 'Real images of a subset.', least=1)


def measure() -> list[tables.Table]:
  """A row for each step and number of devices."""
  own = config_flags.read(Settings)
  shape = own.image_size, own.image_size, 3
  sets, num_distilled = (
    own.batch_size * jax.device_count(),
    own.num_classes * own.ipc,
  )
  network = settings.network(shape, own.num_classes)
  translator = problems.make_translator(config_flags.read(TranslatorConfig))
  rows = []
  for power in range(jax.device_count().bit_length()):
    devices = Devices(data_mesh(2**power) if power else None)
    steps = scaling.steps(
      Problem(network, shape, own.num_classes, own.num_real),
      translator,
      devices,
      batch_size=sets,
      num_distilled=num_distilled,
      cached=(own.max_synthetic, own.max_images),
    )
    for name, cost in steps.items():
      sizes = cost.accessed, cost.held, cost.communicated
      numbers = (cost.flops / 1e9, *(size / 1e6 for size in sizes))
      formatted = [f'{number:.4g}' for number in numbers]
      rows.append([name, str(devices.count), *formatted, str(cost.collectives)])
  rows.sort(key=lambda row: row[0])
  table = tables.Table(
    'A step of each stage on one of several devices',
    [
      *('step', 'devices', 'GFLOP', 'MB accessed', 'MB held', 'MB between'),
      'collectives',
    ],
    rows,
    f'{sets} sets a step over all devices, of {own.max_synthetic} images '
    f'against {own.max_images} (pre-training), or of {num_distilled} '
    f'against statistics of {own.num_real} images. By the compiled program; '
    f'{timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, TranslatorConfig, Settings)
