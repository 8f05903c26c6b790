"""Where pictures come from: shipped, procedural, TFDS, folders or arrays."""

import pathlib

import numpy as np

from fsdd_jax.data import array_files, fractals, image_folders, tfds_source
from fsdd_jax.data.undecoded import (
  PathLike,
  Size,
  Source,
  as_shown,
  fingerprint_of,
  opened,
  test_rows,
)
from fsdd_jax.runtime import files

_FRACTAL_CLASSES = 100
_FRACTAL_IMAGES = {'train': 100, 'test': 20}  # Images a class.
_FRACTAL_SIZE = 32


def open_source(
  name: str,
  split: str,
  *,
  image_size: int | None = None,
  data_dir: PathLike | None = None,
) -> Source:
  """Opens the `train` or `test` split of a named source, decoding nothing.

  Args:
    name: as in `datasets.load`.
    split: `train` or `test`.
    image_size: the size at which fractals are drawn; others ignore it.
    data_dir: as in `datasets.load`.

  Raises:
    ValueError, FileNotFoundError: as `datasets.load`.
  """
  if name == 'digits':
    return _open_digits(split)
  if name == 'fractals' or name.startswith('fractals:'):
    return _open_fractals(name, split, image_size or _FRACTAL_SIZE)
  if name.startswith('folder:'):
    return image_folders.open_folder(_path(name), split)
  if name.startswith('npz:'):
    return array_files.open_npz(_path(name), split)
  return tfds_source.open_tfds(name, split, data_dir)


def size(
  name: str,
  split: str,
  *,
  image_size: int | None = None,
  data_dir: PathLike | None = None,
) -> Size:
  """Tells the size of a split; nothing is downloaded.

  Args:
    name: as in `datasets.load`.
    split: `train` or `test`.
    image_size: height and width to scale to; None: those of the source.
    data_dir: as in `datasets.load`.

  Raises:
    ValueError, FileNotFoundError: as `datasets.load`, and where TFDS does not
      know a data set's size before it is prepared.
  """
  found = (
    tfds_source.tfds_size(name, split, data_dir) if _is_tfds(name) else None
  )
  if found is None or (image_size is None and None in found.image_shape):
    source = open_source(name, split, image_size=image_size, data_dir=data_dir)
    with opened(source.read(np.arange(1))[0]) as picture:
      shape = (*as_shown(picture).size[::-1], source.channels)
    found = Size(len(source.labels), len(source.class_names), shape)
  if image_size is not None:
    shape = (image_size, image_size, found.image_shape[2])
    found = found._replace(image_shape=shape)
  return found


def fingerprint(name: str, data_dir: PathLike | None = None) -> str:
  """Names data without reading it all, for what depends on it.

  Args:
    name: as in `datasets.load`.
    data_dir: as in `datasets.load`.

  Returns:
    Hexadecimal digits of the files of arrays, a folder or TFDS data set; the
    name of what this library makes itself, and of what is not on disk yet.
  """
  if name.startswith('folder:'):
    return fingerprint_of(_path(name))
  if name.startswith('npz:'):
    return files.fingerprint(array_files.files_of(_path(name)))
  return tfds_source.fingerprint(name, data_dir) if _is_tfds(name) else name


def is_on_disk(name: str) -> bool:
  """Whether pictures come from files, rather than from this library."""
  return name.startswith(('folder:', 'npz:')) or _is_tfds(name)


def has_test_split(name: str, data_dir: PathLike | None = None) -> bool:
  """Whether a folder, arrays or a TFDS data set on disk have test images.

  Args:
    name: as in `datasets.load`.
    data_dir: as in `datasets.load`.
  """
  if name.startswith('folder:'):
    return image_folders.has_test_split(_path(name))
  if name.startswith('npz:'):
    return array_files.has_test_split(_path(name))
  return not _is_tfds(name) or tfds_source.has_test_split(name, data_dir)


def _path(name: str) -> pathlib.Path:
  """What stands behind `folder:` or `npz:`."""
  return files.resolve(name.partition(':')[2])


def _open_digits(split: str) -> Source:
  """The 8x8 grey digits that scikit-learn ships."""
  from sklearn import datasets  # Slow to import.

  data = datasets.load_digits()
  images = np.round(data.images * (255 / 16)).astype(np.uint8)
  rows = test_rows(data.target, split)
  return Source(
    labels=data.target[rows],
    class_names=tuple(str(name) for name in data.target_names),
    channels=1,
    read=lambda chosen: images[rows[chosen]],
  )


def _open_fractals(name: str, split: str, image_size: int) -> Source:
  """Fractals: training and test images are different draws of a class."""
  number = name.partition(':')[2] if ':' in name else str(_FRACTAL_CLASSES)
  if not number.isdecimal() or int(number) < 1:
    raise ValueError(
      f'{name!r} does not say how many classes to draw; write for instance '
      "'fractals:100'."
    )
  images, labels = fractals.generate(
    0,
    num_classes=int(number),
    images_per_class=_FRACTAL_IMAGES[split],
    image_size=image_size,
    draw=0 if split == 'train' else 1,
  )
  return Source(
    labels=labels,
    class_names=tuple(f'fractal_{i}' for i in range(int(number))),
    channels=3,
    read=lambda rows: images[rows],
  )


def _is_tfds(name: str) -> bool:
  own = ('digits', 'fractals')
  prefixes = 'fractals:', 'folder:', 'npz:'
  return name not in own and not name.startswith(prefixes)
