r"""Ways to compute the same, timed in turn on the device at hand.

Precisions, regressions one after another or side by side, steps compiled
together, networks side by side, convolutions or patches; on noise.

  python experiments/benchmarks/choices.py --ipc=10 --batch_size=16
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from fsdd_jax.algorithms.configs import NetworkConfig, TranslatorConfig
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import choices, settings, timing
from measures.programs import Problem
from workbench import config_flags, problems


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is timed."""

  ipc: int = option(10, 'Images per class, of 10 classes.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  batch_size: int = option(16, 'Sets of an update, B.', least=1)
  networks_at_once: tuple[int, ...] = option(
    (1, 4, 16), 'Networks side by side; each number divides B.'
  )
  subsets: int = option(16, 'Subsets of a batch of caching.', least=1)
  max_images: int = option(2000, 'Real images of each of them.', least=1)
  steps_per_call: int = option(10, 'Steps compiled together.', least=1)
  repeats: int = option(10, 'Timed rounds.', least=1)


def _table(
  title: str, found: Mapping[str, choices.Choice], own: Settings
) -> tables.Table:
  """Milliseconds of each way, and how far its results are from the first's."""
  first = np.array(next(iter(found.values())).seconds)
  rows = []
  for name, choice in found.items():
    seconds = np.array(choice.seconds)
    spread, ratio = timing.quartiles(1e3 * seconds), np.median(seconds / first)
    rows.append([name, spread, f'{ratio:.2f}', f'{choice.error:.1e}'])
  return tables.Table(
    title,
    ['way', 'ms', 'over the first', 'difference'],
    rows,
    f'Median [quartiles] of {own.repeats} rounds; {10 * own.ipc} images of '
    f'{own.image_size} x {own.image_size} a set; {timing.conditions()}',
  )


def measure() -> Iterator[tables.Table]:
  """A table for each choice, those that compile soonest first."""
  own = config_flags.read(Settings)
  shape = own.image_size, own.image_size, 3
  problem = Problem(settings.network(shape), shape, 10, num_real=50000)
  count, repeats = 10 * own.ipc, own.repeats
  yield _table(
    'Loss and gradient of a distilled set, by the type of features',
    choices.precisions(problem, num_synthetic=count, repeats=repeats),
    own,
  )
  yield _table(
    f'Regressions of {own.subsets} subsets, by their features',
    choices.regressions(
      problem,
      num_synthetic=count,
      num_target=own.max_images,
      subsets=own.subsets,
      repeats=repeats,
    ),
    own,
  )
  yield _table(
    'Steps on a distilled set in one network',
    choices.steps_together(
      problem,
      num_synthetic=count,
      num_steps=own.steps_per_call,
      repeats=repeats,
    ),
    own,
  )
  yield _table(
    f'An update of a translator on {own.batch_size} sets',
    choices.networks_side_by_side(
      problem,
      problems.make_translator(config_flags.read(TranslatorConfig)),
      num_synthetic=count,
      batch_size=own.batch_size,
      per_call=own.networks_at_once,
      repeats=repeats,
    ),
    own,
  )


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, TranslatorConfig, Settings)
