"""Where pictures come from: shipped, procedural, TFDS or image folders.

The only file that touches TFDS, scikit-learn and image folders. TensorFlow is
not imported: TFDS reads array_record files through its data sources.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epy
from PIL import Image, ImageOps

from fsdd_jax.data import fractals, subsets
from fsdd_jax.runtime import array_store, files

with epy.lazy_imports():  # Slow, and some data sets come without it.
  import tensorflow_datasets as tfds

DATA_DIR_VARIABLE = 'FSDD_DATA_DIR'
_ACCEPTED = (
  "'digits', 'fractals', 'fractals:NUM_CLASSES', 'folder:PATH', TFDS names "
  "such as 'cifar10', and TFDS directories with a dataset_info.json"
)
_FRACTAL_CLASSES = 100
_FRACTAL_IMAGES = {'train': 100, 'test': 20}  # Images a class.
_FRACTAL_SIZE = 32
_RECORDS_AT_ONCE = 1000
# Formats that Pillow names without reading them, or by another program.
_UNREADABLE = frozenset({'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'})
# Copies that a Mac leaves beside folders; hidden ones begin with a dot.
_NO_FOLDERS = frozenset({'__MACOSX', '@eaDir'})
_ANNOTATIONS = 'val_annotations.txt'  # Of Tiny-ImageNet.
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
    return _open_folder(_folder(name), split)
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
      shape = (*as_shown(picture).size[::-1], source.channels)
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
  except Exception as error:  # Pillow raises many kinds for damaged files.
    name = picture if isinstance(picture, pathlib.Path) else 'a record'
    reason = str(error) or type(error).__name__
    raise ValueError(
      f'Cannot read the image in {name} ({reason}); repair or remove it.'
    ) from error


def as_shown(image: Image.Image) -> Image.Image:
  """A picture as a viewer shows it: upright, on white where it is transparent.

  Args:
    image: as of `opened`.

  Returns:
    The picture turned by its EXIF orientation, without transparency.

  Example:
    >>> as_shown(Image.new('RGBA', (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255, 255)
  """
  image = ImageOps.exif_transpose(image)
  if not image.has_transparency_data:
    return image
  layer = image.convert('RGBA')
  white = Image.new('RGBA', layer.size, (255, 255, 255, 255))
  return Image.alpha_composite(white, layer)


def fingerprint(name: str, data_dir: PathLike | None = None) -> str:
  """Tells data apart without reading it all, for what depends on it.

  Args:
    name: as in `datasets.load`.
    data_dir: as in `datasets.load`.

  Returns:
    Hexadecimal digits of the files of a folder or TFDS data set; the name of
    what this library makes itself, and of what is not on disk yet.

  Example:
    >>> fingerprint('digits')
    'digits'
  """
  if name.startswith('folder:'):
    root = _folder(name)
  elif _is_tfds(name):
    builder, _ = _find_builder(name, data_dir)
    if not builder.is_prepared():
      return name
    root = pathlib.Path(builder.data_dir)
  else:
    return name
  found = sorted(p for p in root.rglob('*') if p.is_file())
  names = '\n'.join(str(p.relative_to(root)) for p in found)
  digest = hashlib.sha256(names.encode(errors='surrogateescape'))
  digest.update(files.fingerprint(found).encode())
  return digest.hexdigest()


def is_on_disk(name: str) -> bool:
  """Whether pictures come from files, rather than from this library.

  Example:
    >>> is_on_disk('digits'), is_on_disk('cifar10')
    (False, True)
  """
  return name.startswith('folder:') or _is_tfds(name)


def _folder(name: str) -> pathlib.Path:
  return files.resolve(name.removeprefix('folder:'))


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
  """`root/train/CLASS/*` and `root/test` or `root/val`, or `root/CLASS/*`.

  Pictures may lie in `CLASS/images`, and those of a test split beside a
  `val_annotations.txt`, as in the tree of Tiny-ImageNet.
  """
  train = root / 'train' if (root / 'train').is_dir() else root
  names = _class_folders(train)
  pictures = {name: _images(train / name) for name in names}
  # Channels follow the training images, so that splits agree.
  is_grey = all(_is_grey(p) for paths in pictures.values() for p in paths)
  if split == 'test' and train != root:
    pictures = _test_pictures(root, names)
  listed = [(p, c) for c, n in enumerate(names) for p in pictures.get(n, [])]
  labels = np.asarray([c for _, c in listed], np.int32)
  rows = np.arange(len(listed))
  if train == root:
    rows = _test_rows(labels, split)
  return Source(
    labels=labels[rows],
    class_names=tuple(names),
    channels=1 if is_grey else 3,
    read=lambda chosen: [listed[row][0] for row in rows[chosen]],
  )


def has_test_split(name: str) -> bool:
  """Whether a folder of images has test images; others have, or say so.

  Example:
    >>> has_test_split('digits')
    True
  """
  if not name.startswith('folder:'):
    return True
  root = _folder(name)
  return not (root / 'train').is_dir() or bool(_test_folders(root))


def _test_folders(root: pathlib.Path) -> list[pathlib.Path]:
  """Those of test pictures; one whose labels are not known comes last."""
  parts = (root / part for part in ('test', 'val', 'validation'))
  found = [path for path in parts if path.is_dir()]
  return sorted(found, key=lambda path: _names_in(path) == ['images'])


def _test_pictures(
  root: pathlib.Path, names: Sequence[str]
) -> dict[str, list[pathlib.Path]]:
  """Test pictures of a folder with `train`, by class."""
  found = _test_folders(root)
  # As Tiny-ImageNet: test without labels, val with a list of them.
  listed = [path for path in found if (path / _ANNOTATIONS).is_file()]
  if not found:
    raise FileNotFoundError(
      f'{root} has train but none of test, val and validation; add one.'
    )
  if listed and _names_in(found[0]) == ['images']:
    folder = listed[0]
    pictures = _annotated(folder)
  else:
    folder = found[0]
    pictures = {name: _images(folder / name) for name in _class_folders(folder)}
  if unknown := sorted(pictures.keys() - set(names)):
    raise ValueError(
      f'{folder} has the class {unknown[0]!r}, which {root / "train"} lacks; '
      'move it.'
    )
  return pictures


def _annotated(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Pictures by class, as a tab-separated list of files and classes tells."""
  pictures: dict[str, list[pathlib.Path]] = {}
  path = folder / _ANNOTATIONS
  for number, line in enumerate(path.read_text().splitlines(), 1):
    name, _, rest = line.partition('\t')
    picture = folder / 'images' / name
    label = rest.partition('\t')[0]
    if not label or not picture.is_file():
      raise ValueError(
        f'Line {number} of {path} names no picture in images/ and its class: '
        f'{line[:80]!r}. Repair or delete that line.'
      )
    pictures.setdefault(label, []).append(picture)
  return pictures


def _names_in(folder: pathlib.Path) -> list[str]:
  """Sorted names of the folders in a folder, hidden ones left out."""
  found = [path.name for path in folder.iterdir() if path.is_dir()]
  return sorted(
    name
    for name in found
    if not name.startswith('.') and name not in _NO_FOLDERS
  )


def _class_folders(folder: pathlib.Path) -> list[str]:
  """Sorted names of the class folders in a folder."""
  if not folder.is_dir():
    raise FileNotFoundError(
      f'There is no folder {folder}; folder:PATH needs PATH/train/CLASS/*.png '
      'and PATH/test/CLASS/*.png, or PATH/CLASS/*.png.'
    )
  names = _names_in(folder)
  if not names:
    raise ValueError(f'{folder} holds no class folders; add CLASS/*.png.')
  return names


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Sorted image files of a class; warns of files that are none."""
  if (folder / 'images').is_dir():
    folder = folder / 'images'
  found = sorted(folder.iterdir()) if folder.is_dir() else []
  paths = [p for p in found if not p.name.startswith('.') and p.is_file()]
  images = [path for path in paths if path.suffix.lower() in _suffixes()]
  other = collections.Counter(
    path.suffix.lower() or path.name for path in paths if path not in images
  )
  if other:
    counts = ', '.join(f'{count} {name}' for name, count in other.items())
    warnings.warn(
      f'{folder}: passed over {counts}, which Pillow does not open as images.',
      stacklevel=2,
    )
  return images


@functools.cache
def _suffixes() -> frozenset[str]:
  """What names of pictures that Pillow reads end with."""
  return frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in _UNREADABLE
  )


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
  pieces = array_store.pieces_of(len(records), _RECORDS_AT_ONCE)

  def read_labels(number: int) -> dict[str, np.ndarray]:
    batch = range(len(records))[pieces[number]]
    own = [record[label_key] for record in records.__getitems__(batch)]
    return {'labels': np.asarray(own, np.int64)}

  facts = {'labels of': fingerprint(name, data_dir), 'split': split}
  labels = array_store.fill(
    array_store.folder_for(array_store.default_root() / 'labels', facts),
    facts,
    {'labels': ((len(records),), 'int64')},
    pieces,
    read_labels,
  )['labels']
  return Source(
    labels=np.asarray(labels),
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
  path = files.resolve(name)
  if (path / 'dataset_info.json').is_file():
    return tfds.builder_from_directory(path), name
  given = data_dir or os.environ.get(DATA_DIR_VARIABLE)
  resolved = files.resolve(given) if given else None
  folders = [resolved] if data_dir else [resolved, None]
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
      f'data_dir or {DATA_DIR_VARIABLE} to a folder with an array_record copy.'
    ) from error
  return builder
