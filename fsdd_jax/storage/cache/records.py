"""Entries of a cache of distilled subsets, and their bytes in a shard."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
import safetensors
import safetensors.numpy

from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.types import LabeledSet, Subset


@flax.struct.dataclass
class CacheEntry:
  """One subset and what was distilled from it (Alg. 1, line 20).

  Attributes:
    target: rows of Z and labels of the target set (X_T, Y_T); none where it
      is all images of the classes.
    synthetic: the distilled set (X_S, Y_S), class by class.
    start_rows: `[n]` int32, the rows of Z that X_S started from.
    classes: `[k]` int32, numbers of the classes in Z; -1 where unused.
    num_classes: `[]` int32, C.
    ipc: `[]` int32, distilled images per class, I.
    losses: `[t]` float32 losses while it was distilled.
  """

  target: Subset
  synthetic: LabeledSet
  start_rows: jax.Array  # [n]
  classes: jax.Array  # [k]
  num_classes: jax.Array  # []
  ipc: jax.Array  # []
  losses: jax.Array  # [t]


def to_record(entry: CacheEntry, manifest: Manifest, subset: int) -> bytes:
  """Serialises an entry without its padding.

  Args:
    entry: of the manifest's sizes; padding may lie anywhere.
    manifest: of the cache.
    subset: the entry's number.

  Returns:
    Bytes in the safetensors format; the same for the same entry.

  Raises:
    ValueError: if a shape is not that of the manifest, or a value is NaN or
      infinite.
  """
  arrays = {
    'target_rows': np.asarray(entry.target.rows, np.int32),
    'target_labels': np.asarray(entry.target.labels, np.float32),
    'target_mask': np.asarray(entry.target.mask, np.float32),
    'images': np.asarray(entry.synthetic.images, np.float32),
    'labels': np.asarray(entry.synthetic.labels, np.float32),
    'mask': np.asarray(entry.synthetic.mask, np.float32),
    'start_rows': np.asarray(entry.start_rows, np.int32),
    'classes': np.asarray(entry.classes, np.int32),
    'num_classes': np.asarray(entry.num_classes, np.int32),
    'ipc': np.asarray(entry.ipc, np.int32),
    'losses': np.asarray(entry.losses, np.float32),
  }
  _check_entry(arrays, manifest, subset)
  keep_target, keep = arrays.pop('target_mask') > 0, arrays.pop('mask') > 0
  for name in ('target_rows', 'target_labels'):
    arrays[name] = arrays[name][keep_target]
  for name in ('images', 'labels', 'start_rows'):
    arrays[name] = arrays[name][keep]
  # Columns of classes that the subset lacks are 0, and padding restores them.
  both = np.concatenate([arrays['target_labels'], arrays['labels']])
  num_labels = np.max(np.flatnonzero(both.any(axis=0)), initial=-1) + 1
  for name in ('target_labels', 'labels'):
    arrays[name] = arrays[name][:, :num_labels]
  arrays['subset'] = np.asarray(subset, np.int32)
  arrays['manifest'] = np.frombuffer(manifest.digest, np.uint8)
  # safetensors writes the memory of a strided array as it lies.
  return safetensors.numpy.save(
    {name: np.array(array, order='C') for name, array in arrays.items()}
  )


def from_record(record: bytes, manifest: Manifest, subset: int) -> CacheEntry:
  """The inverse of `to_record`.

  Args:
    record: its bytes.
    manifest: of the cache.
    subset: the number that the entry must have.

  Returns:
    The entry as NumPy arrays, with padding at the end of each axis.

  Raises:
    ValueError: if the record is damaged, has another number or belongs to a
      cache with another manifest.
  """
  try:
    arrays: dict[str, Any] = safetensors.numpy.load(record)
    if arrays['subset'] != subset:
      raise ValueError(f'it holds entry {arrays["subset"]} instead')
    if arrays['manifest'].tobytes() != manifest.digest:
      raise ValueError('it was written for another manifest')
    return _pad_entry(arrays, manifest)
  except (KeyError, safetensors.SafetensorError) as error:
    raise ValueError(f'not a record of a cache ({error!r})') from error


def _pad_entry(arrays: Mapping[str, Any], manifest: Manifest) -> CacheEntry:
  m, n, k = manifest.target_size, manifest.synthetic_size, manifest.label_size
  rows, images = arrays['target_rows'], arrays['images']
  return CacheEntry(
    target=Subset(
      rows=_pad(rows, (m,)),
      labels=_pad(arrays['target_labels'], (m, k)),
      mask=_pad(np.ones(len(rows), np.float32), (m,)),
    ),
    synthetic=LabeledSet(
      images=_pad(images, (n, *manifest.image_shape)),
      labels=_pad(arrays['labels'], (n, k)),
      mask=_pad(np.ones(len(images), np.float32), (n,)),
    ),
    start_rows=_pad(arrays['start_rows'], (n,)),
    classes=arrays['classes'],
    num_classes=arrays['num_classes'],
    ipc=arrays['ipc'],
    losses=arrays['losses'],
  )


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> Any:
  """Appends zeros along all axes up to `shape`."""
  padded = np.zeros(shape, array.dtype)
  padded[tuple(slice(size) for size in array.shape)] = array
  return padded


def _check_entry(
  arrays: Mapping[str, np.ndarray], manifest: Manifest, subset: int
) -> None:
  m, n, k = manifest.target_size, manifest.synthetic_size, manifest.label_size
  shapes = {
    'target_rows': (m,),
    'target_labels': (m, k),
    'target_mask': (m,),
    'images': (n, *manifest.image_shape),
    'labels': (n, k),
    'mask': (n,),
    'start_rows': (n,),
    'classes': (k,),
    'num_classes': (),
    'ipc': (),
    'losses': (arrays['losses'].size,),
  }
  for name, array in arrays.items():
    if array.shape != shapes[name]:
      raise ValueError(
        f'Entry {subset}: {name} has shape {array.shape}, but by the manifest '
        f'{shapes[name]}. Give the manifest the sizes of the entries.'
      )
    if not np.isfinite(array).all():
      raise ValueError(
        f'Entry {subset}: {name} has values that are NaN or infinite. Lower '
        'the learning rate or raise the ridge.'
      )
    if name.endswith('mask') and not np.isin(array, (0, 1)).all():
      raise ValueError(f'Entry {subset}: {name} must hold 0 and 1 only.')
