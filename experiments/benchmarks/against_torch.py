r"""A step, a statistics pass and a training step, over plain PyTorch.

Both run on the same CPU; it needs `pip install torch`.

  python experiments/benchmarks/against_torch.py --ipcs=1,10,50
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.networks import extractors
from fsdd_jax.options import Config, option
from fsdd_jax.reporting import tables
from measures import against_torch, settings, timing, torch_network
from workbench import config_flags


@dataclasses.dataclass(frozen=True)
class Settings(Config):
  """What is timed."""

  ipcs: tuple[int, ...] = option((1, 10, 50), 'Images per class, of 10.')
  num_real: int = option(1000, 'Images of the statistics pass.', least=1)
  image_size: int = option(32, 'Height and width.', least=1)
  repeats: int = option(15, 'Timed pairs.', least=1)


def measure() -> list[tables.Table]:
  """Ours over plain PyTorch, at each IPC."""
  own, size = (
    config_flags.read(Settings),
    config_flags.read(Settings).image_size,
  )
  network = settings.network((size, size, 3))
  if not isinstance(network, extractors.ConvNet):
    name = config_flags.read(NetworkConfig).network
    raise ValueError(f'--network={name}: only convnet is written twice.')
  found = against_torch.compare(
    network,
    ipcs=own.ipcs,
    num_real=own.num_real,
    image_size=size,
    repeats=own.repeats,
  )
  torch = torch_network.import_torch()
  table = tables.Table(
    'Ours over plain PyTorch',
    ['', 'ours s', 'PyTorch s', 'ratio'],
    [settings.row(name, pairs) for name, pairs in found.items()],
    f'{extractors.describe(network)}, {size} x {size}; median [quartiles] of '
    f'{own.repeats} pairs in turn; PyTorch {torch.__version__} with '
    f'{torch.get_num_threads()} threads, {timing.conditions()}',
  )
  return [table]


if __name__ == '__main__':
  settings.run(measure, NetworkConfig, Settings)
