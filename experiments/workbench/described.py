"""Data and networks as the file of a distilled set describes them."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
from absl import flags

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.data import datasets, resolution
from fsdd_jax.storage import distilled_set, weight_files
from workbench import problems

Made = TypeVar('Made')


def define_place() -> None:
  """Defines the flags that say where a set's data are now."""
  flags.DEFINE_string(
    'dataset',
    None,
    'The data set where it is now, such as a folder that moved.',
  )
  flags.DEFINE_string(
    'data_dir', None, 'TFDS data directory, if not that of the distillation.'
  )


def data_config(path: str, distilled: distilled_set.DistilledSet) -> DataConfig:
  """The data that a set was distilled from, by its file or the flags.

  Args:
    path: of the set, for errors.
    distilled: the set.

  Returns:
    The config.

  Raises:
    ValueError: if neither says which data.
  """
  place, data_dir = flags.FLAGS.dataset, flags.FLAGS.data_dir
  fields = distilled.metadata.recipe.get('data')
  if not isinstance(fields, dict):
    fields = None
  if fields is None and place is None:
    raise ValueError(
      f'{path} does not say how its data were loaded, as experiments/ write '
      f'it; its data set is named {distilled.metadata.dataset!r}. Give '
      '--dataset.'
    )
  changed = {'dataset': place, 'data_dir': data_dir}
  fields = {
    **(fields or {'image_size': distilled.images.shape[1]}),
    **{name: value for name, value in changed.items() if value is not None},
  }
  return _config(DataConfig, fields, path)


def _config(kind: Callable[..., Made], fields: Any, path: str) -> Made:
  """A config of the fields in a file; its errors name the file."""
  try:
    return kind(**fields)
  except (TypeError, ValueError) as error:
    name = getattr(kind, '__name__', str(kind))
    raise ValueError(f'{path}: its metadata make no {name}: {error}') from error


def load(
  data: DataConfig, split: str, distilled: distilled_set.DistilledSet
) -> datasets.Dataset:
  """A split, with grey images repeated where they were distilled as RGB."""
  try:
    dataset = problems.load_dataset(data, split)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{error} If these data lie elsewhere now, or {data.dataset} was named '
      'from another folder, give --dataset or --data_dir.'
    ) from error
  names = distilled.metadata.class_names
  if dataset.class_names != names:
    raise ValueError(
      f'{data.dataset} has the classes {dataset.class_names[:10]}, the set was '
      f'distilled for {names[:10]}; give the --dataset that has these.'
    )
  return resolution.repeat_channels(dataset, distilled.images.shape[-1])


def network_name(distilled: distilled_set.DistilledSet) -> str | None:
  """The architecture that a set was distilled in."""
  described = distilled.metadata.network
  return described.get('name', described.get('network'))


def make_network(
  path: str,
  distilled: distilled_set.DistilledSet,
  dataset: datasets.Dataset,
  name: str | None = None,
) -> nn.Module:
  """The network that a set was distilled in, or another architecture.

  Stages write the fields of their config, Python those of a module by its name.

  Args:
    path: of the set, for errors.
    distilled: the set.
    dataset: whose images and classes the network is made for.
    name: of the architecture; None: that of the distillation, as it was there.

  Returns:
    The network; another architecture has the width of a config.
  """
  described = distilled.metadata.network
  kind = 'name' if 'name' in described else 'network'
  shape, count = dataset.images.shape[1:], dataset.num_classes
  name = name or network_name(distilled)
  if kind == 'name' and name == described[kind]:
    own = {'image_shape': list(shape), 'network': described}
    return weight_files.network_of(path, own, count)[1]
  config = _config(NetworkConfig, described if kind == 'network' else {}, path)
  if name != described.get(kind):
    config = NetworkConfig(network=str(name), width=config.width)
  return problems.make_network(config, shape, count)
