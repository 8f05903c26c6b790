"""Where pictures come from: shipped, procedural, TFDS or image folders.

The only file that touches TFDS, scikit-learn and image folders. TensorFlow is
not imported: TFDS reads array_record files through its data sources.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from fsdd_jax import fractals, subsets

_DATA_DIR_VARIABLE = 'FSDD_DATA_DIR'
_ACCEPTED = (
  "'digits', 'fractals', 'fractals:NUM_CLASSES', 'folder:PATH', TFDS names "
  "such as 'cifar10', and TFDS directories with a dataset_info.json"
)
_FRACTAL_CLASSES = 100
_FRACTAL_IMAGES = {'train': 100, 'test': 20}  # Images a class.
_FRACTAL_SIZE = 32
_RECORDS_AT_ONCE = 1000
_SUFFIXES = frozenset({'.png', '.jpg', '.jpeg', '.bmp', '.webp'})
_TEST_SHARE = 0.2  # Of sources that come without a test split.

# A picture not yet decoded: pixels, an encoded file in memory, or its path.
Picture = np.ndarray | io.BytesIO | pathlib.Path
PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Source:
  """A split whose labels are known and whose pictures are read on demand.

  Attributes:
    labels: `[n]` integers; -1 where missing.
    class_names: name of each class.
    channels: 1 (grey) or 3 (RGB).
    read: maps an array of row numbers to undecoded pictures.

  Example:
    >>> import numpy as np
    >>> images = np.zeros((3, 8, 8), np.uint8)
    >>> source = Source(np.array([0, 1, 1]), ('a', 'b'), 1, images.__getitem__)
    >>> source.read(np.array([2, 0])).shape
    (2, 8, 8)
  """

  labels: np.ndarray  # [n]
  class_names: tuple[str, ...]
  channels: int
  read: Callable[[np.ndarray], Sequence[Picture]]


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

  Example:
    >>> source = open_source('fractals:2', 'test', image_size=8)
    >>> source.class_names, source.labels.shape, source.channels
    (('fractal_0', 'fractal_1'), (40,), 3)
  """
  if name == 'digits':
    return _open_digits(split)
  if name == 'fractals' or name.startswith('fractals:'):
    return _open_fractals(name, split, image_size or _FRACTAL_SIZE)
  if name.startswith('folder:'):
    return _open_folder(pathlib.Path(name.removeprefix('folder:')), split)
  return _open_tfds(name, split, data_dir)


class Size(NamedTuple):
  """How much a split holds, known without reading its pictures.

  Attributes:
    num_images: n.
    num_classes: k.
    image_shape: `(h, w, c)`, of the first picture where they differ.

  Example:
    >>> Size(50000, 10, (32, 32, 3)).num_images
    50000
  """

  num_images: int
  num_classes: int
  image_shape: tuple[int, int, int]


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

  Example:
    >>> size('digits', 'train')
    Size(num_images=1438, num_classes=10, image_shape=(8, 8, 1))
  """
  found = _tfds_size(name, split, data_dir) if _is_tfds(name) else None
  if found is None or (image_size is None and None in found.image_shape):
    source = open_source(name, split, image_size=image_size, data_dir=data_dir)
    with opened(source.read(np.arange(1))[0]) as picture:
      shape = (*picture.size[::-1], source.channels)
    found = Size(len(source.labels), len(source.class_names), shape)
  if image_size is not None:
    shape = (image_size, image_size, found.image_shape[2])
    found = found._replace(image_shape=shape)
  return found


@contextlib.contextmanager
def opened(picture: Picture) -> Iterator[Image.Image]:
  """Opens what `Source.read` gave; it may be decoded in the `with` block.

  Raises:
    ValueError: naming the file, if it cannot be decoded to 8 bits a channel.

  Example:
    >>> import numpy as np
    >>> with opened(np.zeros((8, 6), np.uint8)) as image:
    ...   image.size, image.mode
    ((6, 8), 'L')
  """
  try:
    if isinstance(picture, np.ndarray):
      image = Image.fromarray(picture)
    else:
      image = Image.open(picture)
    with image:
      if image.mode[0] in 'IF':
        raise OSError(f'its mode {image.mode} is not of 8 bits a channel')
      yield image
  except OSError as error:
    name = picture if isinstance(picture, pathlib.Path) else 'a record'
    raise ValueError(
      f'Cannot read the image in {name} ({error}); repair or remove it.'
    ) from error


def _test_rows(labels: np.ndarray, split: str) -> np.ndarray:
  """Rows of a fixed class-balanced split for sources that have none."""
  sizes = np.round(_TEST_SHARE * np.bincount(labels))
  in_test = subsets.class_ranks(labels) < sizes[labels]
  return np.flatnonzero(in_test == (split == 'test'))


def _open_digits(split: str) -> Source:
  """The 8x8 grey digits that scikit-learn ships."""
  from sklearn import datasets  # Slow to import.

  data = datasets.load_digits()
  images = np.round(data.images * (255 / 16)).astype(np.uint8)
  rows = _test_rows(data.target, split)
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


def _open_folder(root: pathlib.Path, split: str) -> Source:
  """`root/train/CLASS/*` and `root/test` or `root/val`, or `root/CLASS/*`."""
  root = root.expanduser()
  train = root / 'train' if (root / 'train').is_dir() else root
  folder = train
  if split == 'test' and train != root:
    parts = (root / part for part in ('test', 'val', 'validation'))
    found = [path for path in parts if path.is_dir()]
    if not found:
      raise FileNotFoundError(
        f'{root} has train but none of test, val and validation; add one.'
      )
    folder = found[0]
  names = _class_folders(train)
  unknown = sorted(set(_class_folders(folder)) - set(names))
  if unknown:
    raise ValueError(
      f'{folder} has the class {unknown[0]!r}, which {train} lacks; move it.'
    )
  # Channels follow the training images, so that splits agree.
  is_grey = all(_is_grey(p) for name in names for p in _images(train / name))
  files = [(p, c) for c, n in enumerate(names) for p in _images(folder / n)]
  labels = np.asarray([c for _, c in files], np.int32)
  rows = np.arange(len(files))
  if train == root:
    rows = _test_rows(labels, split)
  return Source(
    labels=labels[rows],
    class_names=tuple(names),
    channels=1 if is_grey else 3,
    read=lambda chosen: [files[row][0] for row in rows[chosen]],
  )


def _class_folders(folder: pathlib.Path) -> list[str]:
  """Sorted names of the class folders in a folder."""
  if not folder.is_dir():
    raise FileNotFoundError(
      f'There is no folder {folder}; folder:PATH needs PATH/train/CLASS/*.png '
      'and PATH/test/CLASS/*.png, or PATH/CLASS/*.png.'
    )
  found = [path.name for path in folder.iterdir() if path.is_dir()]
  names = sorted(name for name in found if not name.startswith('.'))
  if not names:
    raise ValueError(f'{folder} holds no class folders; add CLASS/*.png.')
  return names


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Sorted image files in a folder; none if it is not there."""
  paths = sorted(folder.iterdir()) if folder.is_dir() else []
  return [path for path in paths if path.suffix.lower() in _SUFFIXES]


def _is_grey(path: pathlib.Path) -> bool:
  """Whether an image's header says that it has one channel."""
  with opened(path) as image:
    return image.mode in ('1', 'L', 'LA')


def _open_tfds(name: str, split: str, data_dir: PathLike | None) -> Source:
  """A split of a TFDS data set, through its random-access data source."""
  builder = _prepared_builder(name, data_dir)
  image_key, label_key = _feature_keys(builder.info, name)
  image, label = (builder.info.features[k] for k in (image_key, label_key))
  try:
    records: Any = builder.as_data_source(
      split=_split_name(builder, name, split),
      decoders={image_key: tfds.decode.SkipDecoding()},
    )
  except NotImplementedError as error:
    raise ValueError(
      f'{name!r} under {builder.data_dir} is not stored as array_record; '
      "prepare it elsewhere: download_and_prepare(file_format='array_record')."
    ) from error
  # Labels alone are kept, as the encoded images may not fit in memory.
  labels: list[int] = []
  for start in range(0, len(records), _RECORDS_AT_ONCE):
    batch = range(start, min(start + _RECORDS_AT_ONCE, len(records)))
    labels.extend(record[label_key] for record in records.__getitems__(batch))
  return Source(
    labels=np.asarray(labels, np.int64),
    class_names=tuple(label.names),
    channels=1 if image.shape[-1] == 1 else 3,
    read=lambda rows: [
      io.BytesIO(record[image_key])
      for record in records.__getitems__(rows.tolist())
    ],
  )


def _is_tfds(name: str) -> bool:
  own = ('digits', 'fractals')
  return name not in own and not name.startswith(('fractals:', 'folder:'))


def _tfds_size(name: str, split: str, data_dir: PathLike | None) -> Size:
  """What TFDS tells of a data set; height and width may be None."""
  builder, _ = _find_builder(name, data_dir)
  if not builder.info.splits:
    raise FileNotFoundError(
      f'{name!r} is not on disk, and TFDS does not tell its size before it is '
      'prepared; load it once, or set data_dir to where it lies.'
    )
  part = builder.info.splits[_split_name(builder, name, split)]
  image_key, label_key = _feature_keys(builder.info, name)
  image, label = (builder.info.features[k] for k in (image_key, label_key))
  height, width, channels = image.shape
  shape = height, width, 1 if channels == 1 else 3
  return Size(part.num_examples, len(label.names), shape)


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
  path = pathlib.Path(name).expanduser()
  if (path / 'dataset_info.json').is_file():
    return tfds.builder_from_directory(path), name
  default = os.environ.get(_DATA_DIR_VARIABLE)
  folders = [data_dir] if data_dir else [default, None]
  builder: Any = None
  reason: Any = None
  where = ' or '.join(str(f) for f in folders if f) or "TFDS's default folder"
  for folder in folders:
    try:
      builder = tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError) as error:  # Unknown name or version.
      reason = error
      continue
    if builder.is_prepared():
      break
  if builder is None:
    raise ValueError(
      f'Unknown data set {name!r} (looked in {where}: '
      f'{str(reason).strip().splitlines()[0]}). Known are {_ACCEPTED}.'
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
      f'data_dir or {_DATA_DIR_VARIABLE} to a folder with an array_record copy.'
    ) from error
  return builder
