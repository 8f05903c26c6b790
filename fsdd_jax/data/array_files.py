"""Arrays in `.npz` files as sources: `npz:PATH` of `datasets.load`.

PATH is one file with the arrays `train_images`, `train_labels`, `test_images`,
`test_labels` and `class_names`, or with `images`, `labels` and `class_names`
alone. Or it is a folder of `train.npz` and `test.npz`, each of the latter kind.
Nothing is unpickled, and the checksum of each array is compared.
"""

import contextlib
import functools
import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from fsdd_jax.data.undecoded import Source, test_rows

_SPLITS = ('train', 'test')
_HOW = (
  'np.savez(FILE, train_images=..., train_labels=..., test_images=..., '
  'test_labels=..., class_names=...)'
)
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


class _Split(NamedTuple):
  """Where the arrays of a split are: a file, and how their names begin."""

  path: pathlib.Path
  prefix: str = ''


class _Header(NamedTuple):
  """What an array is, known without reading it."""

  shape: tuple[int, ...]
  is_fortran: bool
  dtype: np.dtype


def open_npz(root: pathlib.Path, split: str) -> Source:
  """The `train` or `test` split of a file or a folder of `npz:PATH`.

  A file of one split (`images`, `labels`) gives a fifth of its images to
  `test`, as a folder of class folders does.

  Args:
    root: the file or the folder.
    split: `train` or `test`.

  Returns:
    The split. Its images are read at the first call of `read`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file, if it lacks an array or the split, is damaged,
      or an array has another type or shape than it needs.
  """
  splits = _splits(root)
  if split not in splits:
    raise ValueError(
      f'{root} has no {split} images; add the arrays {split}_images and '
      f'{split}_labels (in a folder: {split}.npz), or keep training images '
      "apart by holdout=0.1 and take split='holdout'."
    )
  train, own = splits['train'], splits[split]
  shape, channels = _shape(own), _channels(_shape(train))
  names, labels = _class_names(own.path), _labels(own)
  if _channels(shape) != channels or names != _class_names(train.path):
    raise ValueError(
      f'The {split} images of {own.path} have other channels or class_names '
      f'than the train images of {train.path}; make them the same.'
    )
  if len(labels) != shape[0]:
    raise ValueError(
      f'{own.path} holds {len(labels)} {own.prefix}labels for {shape[0]} '
      f'{own.prefix}images; give one label an image.'
    )
  rows = np.arange(len(labels))
  if splits['train'] == splits.get('test'):
    _check_labels(labels, len(names), own)
    rows = test_rows(labels.astype(np.int64), split)

  @functools.cache
  def images() -> np.ndarray:
    found = _array(own.path, f'{own.prefix}images')
    return found[..., 0] if found.shape[3:] == (1,) else found

  return Source(
    labels=labels[rows],
    class_names=names,
    channels=channels,
    read=lambda chosen: list(images()[rows[chosen]]),
  )


def has_test_split(root: pathlib.Path) -> bool:
  """Whether a file or folder of `npz:PATH` has test images."""
  return 'test' in _splits(root)


def files_of(root: pathlib.Path) -> list[pathlib.Path]:
  """The files that `npz:PATH` reads."""
  return sorted({split.path for split in _splits(root).values()})


def _splits(root: pathlib.Path) -> dict[str, _Split]:
  """The splits that are there, `train` among them."""
  if root.is_dir():
    paths = {split: root / f'{split}.npz' for split in _SPLITS}
    found = {k: _Split(path) for k, path in paths.items() if path.is_file()}
    if 'train' not in found:
      raise FileNotFoundError(
        f'There is no file {paths["train"]}; a folder of npz:FOLDER holds '
        'train.npz and test.npz.'
      )
    return found
  if not root.is_file():
    raise FileNotFoundError(
      f'There is no file {root}; write it by {_HOW}, and name it npz:FILE.'
    )
  with _opened(root) as archive:
    names = _names(archive)
  own = [name for name in names if name.startswith(('train_', 'test_'))]
  if 'images' in names and own:
    raise ValueError(
      f'{root} has the array images, and {", ".join(own)} beside it; name the '
      'arrays images and labels alone, or all by train_ and test_.'
    )
  if 'images' in names:
    return dict.fromkeys(_SPLITS, _Split(root))
  if 'train_images' not in names:
    raise ValueError(
      f'{root} has neither the array train_images nor images, only '
      f'{names[:10]}; write it by {_HOW}.'
    )
  return {
    split: _Split(root, f'{split}_')
    for split in _SPLITS
    if f'{split}_images' in names
  }


def _shape(split: _Split) -> tuple[int, ...]:
  """The shape of the images of a split, which are checked."""
  key = f'{split.prefix}images'
  shape, _, dtype = _header(split.path, key)
  if dtype != np.uint8:
    raise ValueError(
      f'{key} of {split.path} are {dtype}, not uint8 in [0, 255]; for values '
      'in [0, 1] save np.round(255 * images).astype(np.uint8).'
    )
  if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
    raise ValueError(
      f'{key} of {split.path} have shape {shape}, but must be [n, h, w], or '
      '[n, h, w, c] with c in {1, 3}; np.moveaxis(images, 1, -1) moves '
      'channels to the end.'
    )
  if not math.prod(shape):
    raise ValueError(f'{key} of {split.path} hold nothing; save some images.')
  return shape


def _channels(shape: tuple[int, ...]) -> int:
  return shape[3] if len(shape) == 4 else 1


def _labels(split: _Split) -> np.ndarray:
  key = f'{split.prefix}labels'
  labels = _array(split.path, key)
  if labels.ndim != 1 or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'{key} of {split.path} are {labels.dtype} of shape {labels.shape}, but '
      'must be [n] integers; save the number of the class of each image.'
    )
  return labels


def _check_labels(labels: np.ndarray, num_classes: int, split: _Split) -> None:
  """As `datasets.load` does later; a split by class needs it before."""
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f'labels of {split.path} lie in [{labels.min()}, {labels.max()}], not in '
      f'[0, {num_classes}) as class_names say; number the classes from 0.'
    )


def _class_names(path: pathlib.Path) -> tuple[str, ...]:
  names = _array(path, 'class_names')
  if names.dtype.kind != 'U' or names.ndim != 1 or not names.size:
    raise ValueError(
      f'class_names of {path} are {names.dtype} of shape {names.shape}, but '
      "must be [k] texts; save class_names=['cat', 'dog'], a name a class."
    )
  found = tuple(names.tolist())
  if len(set(found)) < len(found):
    raise ValueError(
      f'Two classes have the same name among the class_names of {path}: '
      f'{found[:10]}; rename one.'
    )
  return found


def _array(path: pathlib.Path, key: str) -> np.ndarray:
  """An array of a file, read-only, after its checksum was compared."""
  with _opened(path) as archive, _member(archive, path, key) as file:
    shape, is_fortran, dtype = _read_header(file)
    data = file.read()  # To the end, where zipfile compares the checksum.
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
      raise ValueError(f'{key} has {len(data)} bytes instead of {size}')
    found = np.frombuffer(data, dtype)
    return found.reshape(shape[::-1]).T if is_fortran else found.reshape(shape)


def _header(path: pathlib.Path, key: str) -> _Header:
  """What an array of a file is, without reading it."""
  with _opened(path) as archive, _member(archive, path, key) as file:
    return _read_header(file)


def _read_header(file: IO[bytes]) -> _Header:
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f'arrays of format {version} are not read')
  header = _Header(*_HEADERS[version](file))
  if header.dtype.hasobject:
    raise ValueError(
      'it holds pickled Python objects, which are never loaded; save numbers, '
      'images of one size, and names as np.array(names, str)'
    )
  return header


def _names(archive: zipfile.ZipFile) -> list[str]:
  """Names of the arrays of a file."""
  return [name.removesuffix('.npy') for name in archive.namelist()]


@contextlib.contextmanager
def _member(
  archive: zipfile.ZipFile, path: pathlib.Path, key: str
) -> Iterator[IO[bytes]]:
  if key not in (names := _names(archive)):
    raise KeyError(f'it has no array {key}, only {names[:10]}')
  with archive.open(f'{key}.npy') as file:
    yield file


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
  """Opens a file; whatever is wrong with it is a ValueError that names it."""
  try:
    with zipfile.ZipFile(path) as archive:
      yield archive
  except Exception as error:  # zipfile raises many kinds for damaged files.
    reason = error.args[0] if isinstance(error, KeyError) else error
    raise ValueError(
      f'Cannot read {path} ({reason or type(error).__name__}); write it again '
      'by np.savez.'
    ) from error
