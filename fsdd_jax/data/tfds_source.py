"""Data sets of TFDS as sources, without TensorFlow.

TFDS reads array_record files through its random-access data sources.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epy

from fsdd_jax.data.undecoded import (
  ACCEPTED,
  DATA_DIR_VARIABLE,
  PathLike,
  Size,
  Source,
  fingerprint_of,
)
from fsdd_jax.runtime import array_store, files, hashes

with epy.lazy_imports():  # Slow, and some data sets come without it.
  import tensorflow_datasets as tfds

_RECORDS_AT_ONCE = 1000


def open_tfds(name: str, split: str, data_dir: PathLike | None) -> Source:
  """A split of a TFDS data set, through its random-access data source."""
  builder = _prepared_builder(name, data_dir)
  image_key, label_key = _feature_keys(builder.info, name)
  image, label = (builder.info.features[k] for k in (image_key, label_key))
  part = _split_name(builder, name, split)
  try:
    with _reading(name, builder.data_dir):
      records: Any = builder.as_data_source(
        split=part, decoders={image_key: tfds.decode.SkipDecoding()}
      )
      total = len(records)
  except NotImplementedError as error:
    raise ValueError(
      f'{name!r} under {builder.data_dir} is not stored as array_record; '
      "prepare it elsewhere: download_and_prepare(file_format='array_record')."
    ) from error
  # Labels alone are kept, as the encoded images may not fit in memory.
  pieces = array_store.pieces_of(total, _RECORDS_AT_ONCE)

  def read(rows: Sequence[int], key: str) -> list[Any]:
    with _reading(name, builder.data_dir):
      found = [record[key] for record in records.__getitems__(rows)]
      if any(value is None for value in found):
        raise EOFError('it ends before its last record')
      return found

  def read_labels(number: int) -> dict[str, np.ndarray]:
    own = read(range(total)[pieces[number]], label_key)
    return {'labels': np.asarray(own, np.int64)}

  facts = {
    'labels of': fingerprint(name, data_dir),
    'split': split,
    'code': hashes.package_code('data/tfds_source.py'),
  }
  labels = array_store.fill(
    array_store.folder_for(array_store.default_root() / 'labels', facts),
    facts,
    {'labels': ((total,), 'int64')},
    pieces,
    read_labels,
  )['labels']
  return Source(
    labels=np.asarray(labels),
    class_names=tuple(label.names),
    channels=1 if image.shape[-1] == 1 else 3,
    read=lambda rows: list(map(io.BytesIO, read(rows.tolist(), image_key))),
  )


@contextlib.contextmanager
def _reading(name: str, folder: Any) -> Iterator[None]:
  """Names a data set of damaged files, for which TFDS has many errors."""
  try:
    yield
  except (MemoryError, NotImplementedError):
    raise
  except Exception as error:
    reason = [*str(error).strip().splitlines(), type(error).__name__][0]
    raise ValueError(
      f'{name!r} cannot be read: its files under {folder} are damaged or '
      f'incomplete ({reason}). Copy or prepare them again.'
    ) from error


def tfds_size(name: str, split: str, data_dir: PathLike | None) -> Size:
  """Size of a split by TFDS; height and width may be None."""
  builder, _ = _find_builder(name, data_dir)
  if not builder.info.splits:
    raise FileNotFoundError(
      f'{name!r} is not on disk, and TFDS does not know its size before it is '
      'prepared; load it once, or set data_dir to where it lies.'
    )
  part = builder.info.splits[_split_name(builder, name, split)]
  image_key, label_key = _feature_keys(builder.info, name)
  image, label = (builder.info.features[k] for k in (image_key, label_key))
  height, width, channels = image.shape
  shape = height, width, 1 if channels == 1 else 3
  return Size(part.num_examples, len(label.names), shape)


def has_test_split(name: str, data_dir: PathLike | None) -> bool:
  """Whether a data set has a test split; True while TFDS does not know."""
  builder, _ = _find_builder(name, data_dir)
  splits = builder.info.splits
  return not splits or 'test' in splits or 'validation' in splits


def _split_name(builder: Any, name: str, split: str) -> str:
  """TFDS's name of a split: the validation split where there is no test."""
  names = [split, 'validation'] if split == 'test' else [split]
  found = [part for part in names if part in builder.info.splits]
  if not found:
    raise ValueError(
      f'{name!r} has no split {" or ".join(map(repr, names))}, only '
      f"{sorted(builder.info.splits)}; use another one, or split='holdout'."
    )
  return found[0]


def _feature_keys(info: Any, name: str) -> tuple[str, str]:
  """Keys of the image and of the class, by the types of the features."""
  keys = []
  for kind in (tfds.features.Image, tfds.features.ClassLabel):
    found = [k for k, f in info.features.items() if isinstance(f, kind)]
    # CIFAR-100 has two labels; one of them is the supervised one.
    supervised = [k for k in found if k in (info.supervised_keys or ())]
    if len(found) != 1 and len(supervised) != 1:
      raise ValueError(
        f'{name!r} has {len(found)} features of type {kind.__name__}, but one '
        'image and one label are needed; use another data set.'
      )
    keys.append(supervised[0] if supervised else found[0])
  dtype = info.features[keys[0]].np_dtype
  if dtype != np.uint8:
    raise ValueError(
      f'Images of {name!r} are {np.dtype(dtype)}, not uint8; use another data '
      'set, or convert it to an image folder (folder:PATH).'
    )
  return keys[0], keys[1]


def _find_builder(name: str, data_dir: PathLike | None) -> tuple[Any, str]:
  """The builder of a data set, prepared or not, and where it was sought."""
  builder: Any = None
  path = files.resolve(name)
  if (path / 'dataset_info.json').is_file():
    with _reading(name, path):
      builder = tfds.builder_from_directory(path)
      dict(builder.info.features)
    return builder, name
  given = data_dir or os.environ.get(DATA_DIR_VARIABLE)
  resolved = files.resolve(given) if given else None
  folders = [resolved] if data_dir else [resolved, None]
  reason: Any = None
  where = ' or '.join(str(f) for f in folders if f) or "TFDS's default folder"
  for folder in folders:
    try:
      builder = tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError) as error:  # Unknown name or version.
      reason = error
      continue
    except Exception:
      with _reading(name, folder or where):
        raise
    if builder.is_prepared():
      with _reading(name, builder.data_dir):
        dict(builder.info.features)
      break
  if builder is None:
    raise ValueError(
      f'Unknown data set {name!r} (looked in {where}: '
      f'{str(reason).strip().splitlines()[0]}). Known are {ACCEPTED}.'
    ) from reason
  return builder, where


def _prepared_builder(name: str, data_dir: PathLike | None) -> Any:
  """The builder of a data set on disk, prepared now if it was not before."""
  builder, where = _find_builder(name, data_dir)
  if builder.is_prepared():
    return builder
  try:
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:  # TFDS and its datasets raise any type.
    raise FileNotFoundError(
      f'{name!r} is not on disk in {where}, and preparing it in '
      f'{builder.data_dir} failed ({type(error).__name__}: {error}). Set '
      f'data_dir or {DATA_DIR_VARIABLE} to a folder with an array_record copy.'
    ) from error
  return builder


def fingerprint(name: str, data_dir: PathLike | None) -> str:
  """Hexadecimal digits of a data set's files; its name if there are none."""
  builder, _ = _find_builder(name, data_dir)
  if not builder.is_prepared():
    return name
  return fingerprint_of(pathlib.Path(builder.data_dir))
