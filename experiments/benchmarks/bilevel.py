r"""Memory of the gradient of Bi-Level, with steps kept or computed again.

python experiments/benchmarks/bilevel.py --width=32 --ipc=1 --num_real=400
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import settings, timing, yardsticks
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is compiled."""

  ipc: int = option(10, 'Images per class, of 10 classes.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  num_real: tuple[int, ...] = option((1000, 50000), 'Sizes of the target set.')
  unrolled: tuple[int, ...] = option((5, 20, 50), 'Numbers of steps.')


def measure() -> list[tables.Table]:
  """Peak memory of temporaries with steps kept, or computed again."""
  own = config_flags.read(Settings)
  size = own.image_size
  network = settings.network((size, size, 3))
  rows = []
  for num_real in own.num_real:
    for num_steps in own.unrolled:
      kept, again = (
        yardsticks.unrolled_memory(
          network,
          BilevelConfig(num_steps=num_steps, remat=remat),
          num_real=num_real,
          ipc=own.ipc,
          image_size=size,
        )
        for remat in (False, True)
      )
      megabytes = [f'{x / 2**20:.0f}' for x in (kept, again)]
      row = [str(num_real), str(num_steps), *megabytes, f'{kept / again:.1f}']
      rows.append(row)
  table = tables.Table(
    'Temporary memory of the gradient of Bi-Level',
    ['target images', 'steps', 'kept, MiB', 'jax.checkpoint, MiB', 'ratio'],
    rows,
    f"{10 * own.ipc} images of {size} x {size}; by XLA's analysis of the "
    f'compiled program; {timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
