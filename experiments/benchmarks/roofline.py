r"""How much of what the device can do at most the stages reach.

Operations and bytes a second of a step of each stage, over those of large
matrix products and copies; on noise.

  python experiments/benchmarks/roofline.py --ipc=10
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig, TranslatorConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import roofline, settings, timing
from measures.programs import Problem
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is timed."""

  ipc: int = option(10, 'Images per class, of 10 classes.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  batch_size: int = option(16, 'Sets of an update, B.', least=1)
  max_synthetic: int = option(500, 'Distilled images of a subset.', least=1)
  max_images: int = option(2500, 'Real images of a subset.', least=1)
  matrix: int = option(8192, 'Rows of the matrices of the ceilings.', least=1)
  copied_mb: int = option(
    1024, 'Megabytes that are copied for the ceiling of memory.', least=1
  )
  repeats: int = option(10, 'Timed rounds.', least=1)


def _ceilings(found: roofline.Ceilings, own: Settings) -> tables.Table:
  """What products of matrices and copies reach."""
  rows = [
    [f'product, {name}', f'{value / 1e12:.3g} TFLOP/s']
    for name, value in found.flops.items()
  ]
  rows.append(['copy', f'{found.num_bytes / 1e9:.4g} GB/s'])
  caption = (
    f'Matrices of {own.matrix} rows, {own.copied_mb} MB; the fastest of '
    f'{own.repeats} calls; {timing.conditions()}'
  )
  return tables.Table('Ceilings', ['of', 'at most'], rows, caption)


def measure() -> Iterator[tables.Table]:
  """Operations and bytes a second of each step, over the ceilings."""
  own = config_flags.read(Settings)
  size, shape = own.image_size, (own.image_size, own.image_size, 3)
  ceilings = roofline.ceilings(
    size=own.matrix, num_bytes=own.copied_mb * 10**6, repeats=own.repeats
  )
  yield _ceilings(ceilings, own)
  stages = roofline.of_stages(
    Problem(settings.network(shape), shape, 10, num_real=50000),
    problems.make_translator(config_flags.read(TranslatorConfig)),
    batch_size=own.batch_size,
    num_distilled=10 * own.ipc,
    cached=(own.max_synthetic, own.max_images),
  )
  rows = []
  for name, program in stages.items():
    found = roofline.reached(program, repeats=own.repeats)
    numbers = 1e3 * found.seconds, found.flops / 1e9, found.num_bytes / 1e6
    shares = found.shares(ceilings).values()
    formatted = [f'{number:.4g}' for number in numbers]
    rows.append([name, *formatted, *(f'{share:.0%}' for share in shares)])
  caption = (
    f'{own.batch_size} sets an update; subsets of {own.max_synthetic} images '
    f'against {own.max_images}; {10 * own.ipc} images of {size} x {size} a '
    f'set; {timing.conditions()}'
  )
  columns = ['step', 'ms', 'GFLOP', 'MB']
  columns += [f'of {name}' for name in (*ceilings.flops, 'memory')]
  yield tables.Table('Steps under the ceilings', columns, rows, caption)


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, TranslatorConfig, Settings)
