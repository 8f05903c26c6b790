r"""An update of pre-training by banks, over X_T passing fresh networks.

python experiments/benchmarks/pretraining.py --flagfile=cpu_cache.flags
"""

import dataclasses
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import (
  DataConfig,
  NetworkConfig,
  TranslatorConfig,
)
from fsdd_jax.algorithms.method_configs import CachingConfig, PretrainingConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import banks, settings, timing
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is timed."""

  batch_size: int = option(2, 'Sets an update, B.', least=1)
  repeats: int = option(5, 'Timed pairs.', least=1)


def measure() -> list[tables.Table]:
  """A row for the M of the flags, and one for all images of the classes."""
  data, config = config_flags.read(DataConfig), config_flags.read(CachingConfig)
  own = config_flags.read(Settings)
  network, large = settings.large_set()
  translator = problems.make_translator(config_flags.read(TranslatorConfig))
  rows = []
  for max_images in (config.max_images, 0):
    cached = dataclasses.replace(
      config,
      max_images=max_images,
      augmentation='none',
      num_subsets=8,
      num_steps=1,
    )
    pretraining = PretrainingConfig(
      batch_size=own.batch_size, bank_images=100 if max_images else 0
    )
    with tempfile.TemporaryDirectory() as folder:
      pairs = banks.pretraining_pairs(
        network,
        translator,
        large,
        caching_config=cached,
        config=pretraining,
        folder=pathlib.Path(folder),
        repeats=own.repeats,
      )
    rows.append(settings.row(str(max_images or 'all'), pairs))
  table = tables.Table(
    'An update of pre-training by feature banks, over X_T passing the network',
    ['target images M', 'by banks, s', 'by passing, s', 'ratio'],
    rows,
    f'{data.dataset}, B = {own.batch_size}; median [quartiles] of '
    f'{own.repeats} pairs; {timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(
    measure,
    *(DataConfig, NetworkConfig, TranslatorConfig, CachingConfig, Settings),
    **settings.LARGE,
  )
