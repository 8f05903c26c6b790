r"""A step of FRePo, over the passes that it cannot do without.

These are forward and backward of X_S and forward of a real batch.

  python experiments/benchmarks/frepo.py --real_batch=256,1024 --ipc=10
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.options import option
from fsdd_jax.reporting import tables
from measures import settings, yardsticks
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(settings.NoiseSettings):
  """What is timed."""

  real_batch: tuple[int, ...] = option(
    (1000, 50000), 'Real images a step, two rows each.'
  )


def measure() -> list[tables.Table]:
  """Rows for each batch, without and with mirror images."""
  own = config_flags.read(Settings)
  network, rows = settings.network(own.shape), []
  for real_batch in own.real_batch:
    for mirror in (False, True):
      pairs = yardsticks.frepo_step(
        network,
        real_batch=real_batch,
        ipc=own.ipc,
        image_size=own.image_size,
        repeats=own.repeats,
        mirror=mirror,
      )
      name = f'{real_batch}{" and mirror images" if mirror else ""}'
      rows.append(settings.row(name, pairs))
  table = tables.Table(
    'One step of FRePo over forward and backward of X_S and forward of a batch',
    ['real images', 'step s', 'passes s', 'ratio'],
    rows,
    own.conditions,
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
