"""What a cache of distilled subsets holds, as a JSON file beside its shards."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import computation, extractors
from fsdd_jax.runtime import files
from fsdd_jax.runtime.workdir import differences, flatten

FORMAT_VERSION = 2
FILE_NAME = 'manifest.json'
COMPUTES = 'computes'  # Of a network, see `computation.digest`.


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a cache holds; two caches with equal manifests are the same.

  Attributes:
    dataset: name of the large data set Z.
    dataset_fingerprint: hash of its images and labels.
    network: name and fields of the network's module, JSON values, and what it
      computes, if it is from elsewhere.
    network_seed: seed of its weights theta.
    normalization: how uint8 images became network inputs, JSON values.
    configuration: all other settings of the caching stage, JSON values.
    num_subsets: number of entries, N.
    num_heldout: the first so many entries are for choices.
    num_shards: number of files.
    target_size: padded rows m of a target set; 0 where it is all images of
      its classes.
    synthetic_size: padded rows n of a distilled set.
    label_size: padded label columns k.
    image_shape: `(h, w, c)` of distilled images.
    format_version: of the records.
  """

  dataset: str
  dataset_fingerprint: str
  network: Mapping[str, Any]
  network_seed: int
  normalization: Mapping[str, Any]
  configuration: Mapping[str, Any]
  num_subsets: int
  num_heldout: int
  num_shards: int
  target_size: int
  synthetic_size: int
  label_size: int
  image_shape: tuple[int, int, int]
  format_version: int = FORMAT_VERSION

  def __post_init__(self) -> None:
    if not 1 <= self.num_shards <= self.num_subsets:
      raise ValueError(
        f'A cache of {self.num_subsets} subsets cannot have {self.num_shards} '
        f'shards; choose 1 to {max(self.num_subsets, 1)}.'
      )

  def to_json(self) -> str:
    """Canonical JSON: equal manifests give equal text.

    Returns:
      The text.

    Raises:
      ValueError: if a field holds what JSON does not know.
    """
    try:
      text = json.dumps(dataclasses.asdict(self), allow_nan=False)
    except (TypeError, ValueError) as error:
      raise ValueError(
        'A manifest must hold JSON values only (text, finite numbers of '
        f'Python, bool, None, lists, dicts): {error}. Convert the value.'
      ) from error
    # Read back, as keys that are numbers sort otherwise once they are text.
    return json.dumps(json.loads(text), indent=2, sort_keys=True)

  @functools.cached_property
  def digest(self) -> bytes:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(self.to_json().encode()).digest()

  def shard_range(self, shard: int) -> range:
    """The numbers of the subsets that a shard holds."""
    if not 0 <= shard < self.num_shards:
      raise ValueError(
        f'There is no shard {shard}; choose 0 to {self.num_shards - 1}.'
      )
    return range(
      shard * self.num_subsets // self.num_shards,
      (shard + 1) * self.num_subsets // self.num_shards,
    )

  def shard_name(self, shard: int) -> str:
    """The file name of a shard."""
    return f'shard-{shard:05d}-of-{self.num_shards:05d}.array_record'


def facts_of(
  network: nn.Module, large: TargetSet, *, theta_seed: int
) -> dict[str, Any]:
  """The fields of a manifest that name what its entries were made of.

  Args:
    network: f.
    large: the large set Z.
    theta_seed: seed of theta.

  Returns:
    Values by the name of the field.
  """
  described = extractors.describe_network(network)
  if computes := computation.digest(network, large.image_shape):
    described[COMPUTES] = computes
  return {
    **large.facts,
    'image_shape': large.image_shape,
    'network': described,
    'network_seed': theta_seed,
  }


def read_manifest(folder: pathlib.Path) -> Manifest:
  """Reads the manifest of a cache.

  Args:
    folder: the cache.

  Returns:
    Its manifest.

  Raises:
    FileNotFoundError: if the folder has none.
    ValueError: if it is damaged or of another format version.
  """
  path = folder / FILE_NAME
  try:
    fields = files.read_json(path)
    if (version := fields['format_version']) != FORMAT_VERSION:
      raise ValueError(
        f'format version {version}, but this fsdd_jax reads {FORMAT_VERSION}'
      )
    manifest = Manifest(
      **fields | {'image_shape': tuple(fields['image_shape'])}
    )
    _check_types(manifest)
    return manifest
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{path}: no such file. Give the folder of a cache, or make one with the '
      'caching stage.'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path}: not a manifest of a cache: {error!r}. Restore it, or make the '
      'cache anew in another folder.'
    ) from error


def _check_types(manifest: Manifest) -> None:
  """Raises a ValueError for a field of another type."""
  for field in dataclasses.fields(manifest):
    value = getattr(manifest, field.name)
    kind: Any = typing.get_origin(field.type) or field.type
    if not isinstance(value, kind) or isinstance(value, bool):
      raise ValueError(f'{field.name} is {value!r}, no {kind.__name__}')


def check_manifest(
  folder: pathlib.Path, expected: Manifest | Mapping[str, Any]
) -> Manifest:
  """Reads the manifest of a cache and compares it.

  Args:
    folder: the cache.
    expected: a manifest, or only those of its fields that matter, by name.

  Returns:
    The cache's manifest.

  Raises:
    FileNotFoundError: if the folder has none.
    ValueError: if it is damaged, or naming each field that differs.
  """
  found = read_manifest(folder)
  if isinstance(expected, Manifest):
    expected = dataclasses.asdict(expected)
  fields = dataclasses.asdict(found)
  different = differences(
    flatten({name: fields.get(name) for name in expected}),
    flatten(expected),
    line='  {name}: {there!r} in the cache, {here!r} expected',
  )
  if different:
    raise ValueError(
      f'{folder / FILE_NAME} is not the manifest expected:\n'
      + '\n'.join(different)
      + '\nChoose another folder, or set these values as in the cache.'
    )
  return found


def check_made_of(manifest: Manifest, facts: Mapping[str, Any]) -> None:
  """Makes sure that a cache was made of what a stage is given.

  Args:
    manifest: of the cache.
    facts: of `facts_of`.

  Raises:
    ValueError: naming all that differs.
  """
  different = differences(
    {name: getattr(manifest, name) for name in facts},
    facts,
    line='{name}: {there!r} in the cache, {here!r} now',
  )
  if different:
    raise ValueError(
      f'The cache was made of something else ({"; ".join(different)}). Load '
      f'Z ({manifest.dataset or "its name is unknown"}) and make the network '
      'as the caching stage did (of your own one, the code and the version of '
      'JAX count, too), or build another cache.'
    )
