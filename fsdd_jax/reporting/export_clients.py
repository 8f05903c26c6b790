"""Programs for an exported set that do without this package: `clients/*.py`."""

import pathlib
from collections.abc import Callable
from typing import Any

from fsdd_jax.networks import convnet
from fsdd_jax.runtime import files
from fsdd_jax.storage.distilled_set import DistilledSet

_FOLDER = pathlib.Path(__file__).parent / 'clients'


def convnet_of(distilled: DistilledSet) -> dict[str, Any] | None:
  """Fields of the ConvNet that a set was distilled in, as PyTorch builds it.

  Args:
    distilled: the set.

  Returns:
    Width, depth, width_multiplier and norm; None for another network, and for
    weights that are drawn otherwise than by PyTorch.

  Example:
    >>> import dataclasses
    >>> import toy
    >>> distilled = toy.distilled()
    >>> network = {'network': 'convnet', 'width': 8, 'depth': 0}
    >>> metadata = dataclasses.replace(distilled.metadata, network=network)
    >>> convnet_of(dataclasses.replace(distilled, metadata=metadata))
    {'width': 8, 'width_multiplier': 1, 'norm': 'instance', 'depth': 1}
  """
  network = distilled.metadata.network
  # Binaries record flags, where 0 and '' stand for the network's own; others
  # what `describe_network` says.
  name = str(network.get('network', network.get('name', ''))).lower()
  own = convnet.ConvNet(
    depth=convnet.depth_for(min(distilled.images.shape[1:3]))
  )
  fields = ('width', 'width_multiplier', 'norm', 'depth', 'initialization')
  found = {x: network.get(x) or getattr(own, x) for x in fields}
  if found.pop('initialization') != 'pytorch' or name != 'convnet':
    return None
  return found


# By their names, which sets they read.
PROGRAMS: dict[str, Callable[[DistilledSet], bool]] = {
  'train_torch.py': lambda distilled: convnet_of(distilled) is not None,
  'dd_ranking.py': lambda distilled: distilled.normalization.zca is None,
}


def write_programs(distilled: DistilledSet, folder: pathlib.Path) -> list[str]:
  """Copies the programs that can read an exported set.

  Args:
    distilled: the set.
    folder: that of `distilled_torch.safetensors`.

  Returns:
    Names of the files: `train_torch.py` for a set of a ConvNet, and
    `dd_ranking.py` for one without ZCA.
  """
  names = [name for name, reads in PROGRAMS.items() if reads(distilled)]
  for name in names:
    files.write_bytes_atomic(folder / name, (_FOLDER / name).read_bytes())
  return names
