r"""Pairs of images a second in infinitely wide networks.

python experiments/benchmarks/kernel.py --network=mlp --num_real=1000 --ipc=1
"""

import dataclasses
import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.networks import extractors, infinite
from fsdd_jax.options import option
from fsdd_jax.reporting import tables
from measures import settings, timing
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(settings.NoiseSettings):
  """What is timed."""

  num_real: int = option(50000, 'Images beside the 10 x --ipc.', least=1)


def measure() -> list[tables.Table]:
  """Pairs of images a second of each kernel."""
  own = config_flags.read(Settings)
  config = dataclasses.replace(config_flags.read(NetworkConfig), norm='none')
  network = problems.make_network(config, own.shape, 10)
  count, size = own.num_real, own.image_size
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, *own.shape)).astype(np.float32)
  rows = []
  for kind in infinite.KINDS:
    for float64 in (False, True):
      call = functools.partial(
        infinite.gram, network, kind, x, x[: 10 * own.ipc], float64=float64
      )
      seconds = timing.in_turn({'gram': call}, repeats=own.repeats)['gram']
      pairs = count * 10 * own.ipc / np.array(seconds)
      dtype = 'float64' if float64 else 'float32'
      rows.append(
        [kind, dtype, timing.quartiles(seconds), timing.quartiles(pairs)]
      )
  table = tables.Table(
    f'A kernel between {count} and {10 * own.ipc} images',
    ['kernel', 'type', 'seconds', 'pairs a second'],
    rows,
    f'{extractors.describe(network)} at infinite width, {size} x {size}; '
    f'median [quartiles] of {own.repeats} calls; {timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
