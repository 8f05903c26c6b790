"""Weights of translators and learned networks as `.safetensors` files.

A translator means nothing without the network it was trained with. So both
travel in one file, with what they were trained on.
"""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fsdd_jax.networks import extractors
from fsdd_jax.storage import containers

NETWORK_KEYS = {
  'theta_seed': int,
  'network': dict,
  'normalization': dict,
  'training': dict,
}
TRANSLATOR_KEYS = {**NETWORK_KEYS, 'translator': dict}

Path = str | os.PathLike[str]


def save_translator(
  path: Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
  """Writes a translator's variables, whole or not at all.

  Args:
    path: the file, usually `*.safetensors`.
    variables: nested mappings of float32 arrays, as `Translator.init` returns.
    metadata: JSON values with at least `TRANSLATOR_KEYS`: `theta_seed` (int),
      `network` and `translator` (name and fields), `normalization` (from
      `describe_normalization`) and `training` (config, steps, losses...).

  Raises:
    ValueError: if a value is not finite or not float32, a name holds '/', a
      branch is empty, or metadata lacks a key. Nothing is written then.
  """
  _save_variables(path, 'translator', TRANSLATOR_KEYS, variables, metadata)


def load_translator(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads what `save_translator` wrote: variables (JAX arrays) and metadata."""
  return _load_variables(path, 'translator', TRANSLATOR_KEYS)


def save_network(
  path: Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
  """Writes a learned network's variables, whole or not at all.

  Args:
    path: the file, usually `*.safetensors`.
    variables: as for `save_translator`.
    metadata: as for `save_translator`, with at least `NETWORK_KEYS`.

  Raises:
    ValueError: as for `save_translator`.
  """
  _save_variables(path, 'network', NETWORK_KEYS, variables, metadata)


def load_network(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads what `save_network` wrote: variables (JAX arrays) and metadata."""
  return _load_variables(path, 'network', NETWORK_KEYS)


def network_of(
  path: Path, metadata: Mapping[str, Any], num_classes: int
) -> tuple[tuple[int, ...], nn.Module]:
  """The image shape `(h, w, c)` and the network that a file names.

  Args:
    path: of the file, for messages.
    metadata: of a translator or a learned network.
    num_classes: logits of the network.

  Raises:
    ValueError: if they name none, or one that is not registered here.
  """
  shape = metadata.get('image_shape')
  if not (
    isinstance(shape, list)
    and len(shape) == 3
    and all(type(size) is int and size > 0 for size in shape)
  ):
    raise ValueError(
      f"{path}: its metadata lack an 'image_shape' [h, w, c]; got {shape!r}. "
      'Write the file anew.'
    )
  try:
    network = extractors.make(
      **metadata['network'], image_shape=tuple(shape), num_classes=num_classes
    )
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: its network cannot be made ({error}). Register it, or write '
      'the file anew.'
    ) from error
  return tuple(shape), network


def _save_variables(
  path: Path,
  kind: str,
  keys: Mapping[str, type],
  variables: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> None:
  flat = traverse_util.flatten_dict(dict(variables), keep_empty_nodes=True)
  if not flat:
    raise ValueError(f'{path}: no variables to save; pass those of init.')
  if bad := [key for key in flat if any('/' in str(part) for part in key)]:
    raise ValueError(f'{path}: no name of a variable may hold "/"; got {bad}.')
  arrays = {}
  for key, value in flat.items():
    array = np.asarray(value)
    if array.dtype != np.float32:
      raise ValueError(
        f'{path}: variable {"/".join(key)} must be a float32 array; got '
        f'{array.dtype}. Convert or drop it before saving.'
      )
    arrays['/'.join(key)] = array
  _check_keys(path, kind, keys, metadata)
  containers.write_container(path, kind, arrays, dict(metadata))


def _load_variables(
  path: Path, kind: str, keys: Mapping[str, type]
) -> tuple[dict[str, Any], dict[str, Any]]:
  arrays, metadata = containers.read_container(path, kind)
  _check_keys(path, kind, keys, metadata)
  variables = traverse_util.unflatten_dict(arrays, sep='/')
  return jax.tree.map(jnp.asarray, variables), metadata


def _check_keys(
  path: Path, what: str, keys: Mapping[str, type], metadata: Mapping[str, Any]
) -> None:
  for key, kind in keys.items():
    if not isinstance(metadata.get(key), kind):
      raise ValueError(
        f'{path}: metadata of a {what} needs {key!r} as '
        f'{kind.__name__}; got {metadata.get(key)!r}. Give all of '
        f'{tuple(keys)}.'
      )
