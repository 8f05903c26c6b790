r"""Subsets a second distilled side by side, over one after another.

python experiments/benchmarks/side_by_side.py --flagfile=cpu_cache.flags
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import settings, side_by_side, timing
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """How often it is timed."""

  repeats: int = option(1, 'Passes after the first, which compiles.', least=0)


def measure() -> list[tables.Table]:
  """Subsets a second side by side, against one after another unpadded."""
  # What both sides compile is measured, so nothing may come from disk.
  jax.config.update('jax_enable_compilation_cache', False)
  data, config = config_flags.read(DataConfig), config_flags.read(CachingConfig)
  result = side_by_side.compare(
    *settings.large_set(),
    config=config,
    repeats=config_flags.read(Settings).repeats,
  )
  rows = [
    [
      'first' if number == 1 else str(number),
      *(f'{config.num_subsets / s:.3g}' for s in (p.batched, p.loop)),
      f'{p.loop / p.batched:.3g}',
      *(f'{s:.1f}' for s in (p.batched_compilation, p.loop_compilation)),
    ]
    for number, p in enumerate(result.passes, 1)
  ]
  table = tables.Table(
    f'Caching {config.subsets_per_batch} subsets side by side over a loop',
    ['pass', 'subsets/s', 'of the loop', 'ratio', 'compiling s', 'of the loop'],
    rows,
    f'{config.num_subsets} subsets of {data.dataset}, {config.num_steps} '
    f'steps, {result.num_shapes} pairs (C, I). Padding: '
    f'{result.padded_synthetic:.0%} of distilled rows. Losses differ by at '
    f'most {result.difference:.1e} (relative). {timing.conditions()}',
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
