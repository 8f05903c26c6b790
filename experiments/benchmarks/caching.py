r"""Four subsets of a cache by a feature bank, over X_T passing theta.

python experiments/benchmarks/caching.py --flagfile=cpu_cache.flags
"""

import dataclasses
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import banks, settings, timing
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """How often it is timed."""

  repeats: int = option(5, 'Timed pairs.', least=1)


def measure() -> list[tables.Table]:
  """A row for the M of the flags, and one for all images of the classes."""
  data, config = config_flags.read(DataConfig), config_flags.read(CachingConfig)
  repeats, problem = config_flags.read(Settings).repeats, settings.large_set()
  rows = []
  for max_images in (config.max_images, 0):
    own = dataclasses.replace(
      config, max_images=max_images, augmentation='none'
    )
    with tempfile.TemporaryDirectory() as folder:
      pairs = banks.caching_pairs(
        *problem, config=own, bank_root=pathlib.Path(folder), repeats=repeats
      )
    rows.append(settings.row(str(max_images or 'all'), pairs))
  table = tables.Table(
    'Four subsets by feature banks, over X_T passing the network',
    ['target images M', 'by banks, s', 'by passing, s', 'ratio'],
    rows,
    f'{data.dataset}, {config.num_steps} steps a subset; median [quartiles] '
    f'of {repeats} pairs; {timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(
    measure,
    DataConfig,
    NetworkConfig,
    CachingConfig,
    Settings,
    **settings.LARGE,
  )
