r"""A distillation step by statistics, over the passes of its images alone.

One step in a fixed network against the forward and backward pass of X_S.

  python experiments/benchmarks/step.py --num_real=1000,50000 --ipc=10
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

  num_real: tuple[int, ...] = option(
    (1000, 50000), 'Sizes of the target set, a row each.'
  )


def measure() -> list[tables.Table]:
  """A row for each size of the target set."""
  own = config_flags.read(Settings)
  network, rows = settings.network(own.shape), []
  for num_real in own.num_real:
    pairs = yardsticks.distillation_step(
      network,
      num_real=num_real,
      ipc=own.ipc,
      image_size=own.image_size,
      repeats=own.repeats,
    )
    rows.append(settings.row(str(num_real), pairs))
  table = tables.Table(
    'One distillation step over forward and backward of its images',
    ['target images', 'step s', 'forward + backward s', 'ratio'],
    rows,
    own.conditions,
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
