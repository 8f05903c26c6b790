r"""A step of adaptation, over passes of the translator and networks alone.

The step works in a pool of networks.

  python experiments/benchmarks/adaptation.py --width=32 --ipc=10 --batch_size=2
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig, TranslatorConfig
from fsdd_jax.options import option
from fsdd_jax.reporting import tables
from measures import adaptation_yardstick, settings
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(settings.NoiseSettings):
  """What is timed."""

  batch_size: int = option(2, 'Sets a step, B.', least=1)


def measure() -> list[tables.Table]:
  """A row for B sets a step."""
  own = config_flags.read(Settings)
  pairs = adaptation_yardstick.adaptation_step(
    settings.network(own.shape),
    problems.make_translator(config_flags.read(TranslatorConfig)),
    batch_size=own.batch_size,
    ipc=own.ipc,
    image_size=own.image_size,
    repeats=own.repeats,
  )
  table = tables.Table(
    'One adaptation step over forward and backward of translator and networks',
    ['sets', 'step s', 'forward + backward s', 'ratio'],
    [settings.row(str(own.batch_size), pairs)],
    own.conditions.replace(';', ' a set;', 1),
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, TranslatorConfig, Settings)
