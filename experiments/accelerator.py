r"""What a device does best, and how much of it the stages reach.

  python experiments/accelerator.py choices --ipc=10 --batch_size=16
  python experiments/accelerator.py roofline --ipc=10

`choices`: ways to compute the same, timed in turn: networks side by side,
convolutions or patches, precisions, steps compiled together. `roofline`:
operations and bytes of a step of each stage a second, over those of large
matrix products and copies. All on noise.
"""

from collections.abc import Mapping

import flax.linen as nn
import numpy as np
from absl import flags

from benchmarks import choices as choices_lib
from benchmarks import roofline as roofline_lib
from benchmarks import timing
from benchmarks.programs import Problem
from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.algorithms.method_configs import TranslatorConfig
from fsdd_jax.reporting import tables
from workbench import config_flags, launching, problems

_IPC = flags.DEFINE_integer('ipc', 10, 'Images per class, of 10 classes.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Sets of an update, B.')
_PER_CALL = flags.DEFINE_list(
  'networks_per_call', ['1', '4', '16'], 'Networks at once; each divides B.'
)
_STEPS = flags.DEFINE_integer('steps_per_call', 10, 'Steps compiled together.')
_SUBSET = flags.DEFINE_list(
  'subset', ['500', '2500'], 'Distilled and real images of a subset of Z.'
)
_REPEATS = flags.DEFINE_integer('repeats', 10, 'Timed rounds.')
_MATRIX = flags.DEFINE_integer(
  'matrix', 8192, 'Rows of the matrices of the ceilings.'
)
_COPIED = flags.DEFINE_integer(
  'copied_mb', 1024, 'Megabytes that are copied for the ceiling of memory.'
)

CONFIGS = (NetworkConfig, TranslatorConfig)


def _problem() -> tuple[Problem, nn.Module]:
  shape = _IMAGE_SIZE.value, _IMAGE_SIZE.value, 3
  network = problems.make_network(config_flags.read(NetworkConfig), shape, 10)
  translator = problems.make_translator(config_flags.read(TranslatorConfig))
  return Problem(network, shape, 10, num_real=1000), translator


def _conditions() -> str:
  return (
    f'{10 * _IPC.value} images of {_IMAGE_SIZE.value} x {_IMAGE_SIZE.value} a '
    f'set; {timing.conditions()}'
  )


def _table(title: str, found: Mapping[str, choices_lib.Choice]) -> tables.Table:
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
    f'Median [quartiles] of {_REPEATS.value} rounds; {_conditions()}',
  )


def choices() -> list[tables.Table]:
  """Each way's milliseconds, and how far its results are from the first's."""
  (problem, translator), count = _problem(), 10 * _IPC.value
  return [
    _table(
      f'An update of a translator on {_BATCH_SIZE.value} sets',
      choices_lib.networks_side_by_side(
        problem,
        translator,
        num_synthetic=count,
        batch_size=_BATCH_SIZE.value,
        per_call=config_flags.integers('networks_per_call'),
        repeats=_REPEATS.value,
      ),
    ),
    _table(
      'Loss and gradient of a distilled set, by the type of features',
      choices_lib.precisions(
        problem, num_synthetic=count, repeats=_REPEATS.value
      ),
    ),
    _table(
      'Steps on a distilled set in one network',
      choices_lib.steps_together(
        problem,
        num_synthetic=count,
        num_steps=_STEPS.value,
        repeats=_REPEATS.value,
      ),
    ),
  ]


def roofline() -> list[tables.Table]:
  """Operations and bytes a second of each step, over the ceilings."""
  problem, translator = _problem()
  ceilings = roofline_lib.ceilings(
    size=_MATRIX.value,
    num_bytes=_COPIED.value * 10**6,
    repeats=_REPEATS.value,
  )
  synthetic, target = config_flags.integers('subset')
  stages = roofline_lib.of_stages(
    problem,
    translator,
    batch_size=_BATCH_SIZE.value,
    num_distilled=10 * _IPC.value,
    cached=(synthetic, target),
  )
  rows = []
  for name, program in stages.items():
    found = roofline_lib.reached(program, repeats=_REPEATS.value)
    numbers = 1e3 * found.seconds, found.flops / 1e9, found.num_bytes / 1e6
    shares = found.shares(ceilings).values()
    formatted = [f'{number:.4g}' for number in numbers]
    rows.append([name, *formatted, *(f'{share:.0%}' for share in shares)])
  most = [f'{name} {x / 1e12:.3g}' for name, x in ceilings.flops.items()]
  caption = (
    f'Ceilings: {", ".join(most)} TFLOP/s, {ceilings.num_bytes / 1e9:.4g} GB/s.'
    f' {_BATCH_SIZE.value} sets an update; subsets of {synthetic} images '
    f'against {target}; {_conditions()}'
  )
  columns = ['step', 'ms', 'GFLOP', 'MB']
  columns += [f'of {name}' for name in (*ceilings.flops, 'memory')]
  return [tables.Table('Steps under the ceilings', columns, rows, caption)]


PARTS = {'choices': choices, 'roofline': roofline}


def main(arguments: list[str]) -> None:
  """Runs the part that the first argument names."""
  for table in launching.chosen(arguments, PARTS)():
    print(tables.to_markdown(table))


if __name__ == '__main__':
  config_flags.define(*CONFIGS)
  launching.run(main)
