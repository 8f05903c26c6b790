"""Folders of images as sources: `folder:PATH` of `datasets.load`."""

import collections
import functools
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fsdd_jax.data.undecoded import Source, opened, test_rows

# Formats that Pillow names without reading them, or by another program.
_UNREADABLE = frozenset({'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'})
# Copies that a Mac leaves beside folders; hidden ones begin with a dot.
_NO_FOLDERS = frozenset({'__MACOSX', '@eaDir'})
_ANNOTATIONS = 'val_annotations.txt'  # Of Tiny-ImageNet.


def open_folder(root: pathlib.Path, split: str) -> Source:
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
    rows = test_rows(labels, split)
  return Source(
    labels=labels[rows],
    class_names=tuple(names),
    channels=1 if is_grey else 3,
    read=lambda chosen: [listed[row][0] for row in rows[chosen]],
  )


def has_test_split(root: pathlib.Path) -> bool:
  """Whether a folder of images has test images."""
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
  """Pictures by class, as a tab-separated list of files and classes says."""
  pictures: dict[str, list[pathlib.Path]] = {}
  path = folder / _ANNOTATIONS
  try:
    lines = path.read_text('utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is no text ({error}); repair it.') from error
  for number, line in enumerate(lines, 1):
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
  return [path.name for path in _visible(folder) if path.is_dir()]


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
  _warn_of(folder, [path for path in _visible(folder) if _is_picture(path)])
  return names


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Sorted image files of a class; warns of what it passes over."""
  inner = folder / 'images'
  found = _visible(inner if inner.is_dir() else folder)
  images = [path for path in found if _is_picture(path)]
  other = sorted(set(found) - set(images))
  if inner.is_dir():
    other += [path for path in _visible(folder) if _is_picture(path)]
  _warn_of(folder, other)
  return images


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  """What lies in a folder, sorted, hidden files and folders left out."""
  found = sorted(folder.iterdir()) if folder.is_dir() else []
  return [
    path
    for path in found
    if not path.name.startswith('.') and path.name not in _NO_FOLDERS
  ]


def _is_picture(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _suffixes() and path.is_file()


def _warn_of(folder: pathlib.Path, passed_over: list[pathlib.Path]) -> None:
  """Counts what is not read, by the ends of its names."""
  kinds = collections.Counter(
    'folder(s)' if path.is_dir() else path.suffix.lower() or path.name
    for path in passed_over
  )
  if kinds:
    counts = ', '.join(f'{count} {name}' for name, count in kinds.items())
    warnings.warn(
      f'{folder}: passed over {counts}. Only pictures that Pillow opens are '
      'read, of CLASS/ or CLASS/images/.',
      stacklevel=2,
    )


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
