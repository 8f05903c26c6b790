r"""A step of FRePo, RFAD or RCIG, over the passes that it cannot do without.

Of FRePo these are forward and backward of X_S and forward of a real batch, of
RFAD the same in each of two networks, of RCIG the products with the slope of
the network and its transpose: for X_S in each of ten steps of its solvers, for
the real batch once.

  python experiments/benchmarks/peers.py --real_batch=256,1024 --ipc=10
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.options import option
from fsdd_jax.reporting import tables
from measures import peer_yardsticks, settings
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(settings.NoiseSettings):
  """What is timed."""

  real_batch: tuple[int, ...] = option(
    (256, 1024), 'Real images a step, a row each.'
  )


def measure() -> list[tables.Table]:
  """Rows for each method and batch."""
  own = config_flags.read(Settings)
  network, rows = settings.network(own.shape), []
  for method, config in peer_yardsticks.CPU_SETTINGS.items():
    for real_batch in own.real_batch:
      pairs = peer_yardsticks.step_of(
        method,
        network,
        config,
        real_batch=real_batch,
        ipc=own.ipc,
        image_size=own.image_size,
        repeats=own.repeats,
      )
      rows.append(settings.row(f'{method}, {real_batch}', pairs))
  table = tables.Table(
    "One step of the peers' methods over the passes that it needs",
    ['method, real images', 'step s', 'passes s', 'ratio'],
    rows,
    own.conditions,
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
