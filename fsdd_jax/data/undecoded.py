"""Splits whose labels are known and whose pictures are read on demand."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fsdd_jax.data import subsets
from fsdd_jax.runtime import files

DATA_DIR_VARIABLE = 'FSDD_DATA_DIR'
# What `datasets.load` takes, for messages.
ACCEPTED = (
  "'digits', 'fractals', 'fractals:NUM_CLASSES', 'folder:PATH', 'npz:PATH', "
  "TFDS names such as 'cifar10', and TFDS directories with a dataset_info.json"
)
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
  """

  labels: np.ndarray  # [n]
  class_names: tuple[str, ...]
  channels: int
  read: Callable[[np.ndarray], Sequence[Picture]]


class Size(NamedTuple):
  """How much a split holds, known without reading its pictures.

  Attributes:
    num_images: n.
    num_classes: k.
    image_shape: `(h, w, c)`, of the first picture where they differ.
  """

  num_images: int
  num_classes: int
  image_shape: tuple[int, int, int]


@contextlib.contextmanager
def opened(picture: Picture) -> Iterator[Image.Image]:
  """Opens what `Source.read` gave; it may be decoded in the `with` block.

  Raises:
    ValueError: naming the file, if it cannot be decoded to 8 bits a channel.
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
    image: from `opened`.

  Returns:
    The picture turned by its EXIF orientation, without transparency.
  """
  image = ImageOps.exif_transpose(image)
  if not image.has_transparency_data:
    return image
  layer = image.convert('RGBA')
  white = Image.new('RGBA', layer.size, (255, 255, 255, 255))
  return Image.alpha_composite(white, layer)


def test_rows(labels: np.ndarray, split: str) -> np.ndarray:
  """Rows of a fixed class-balanced split for sources that have none."""
  sizes = np.round(_TEST_SHARE * np.bincount(labels))
  in_test = subsets.class_ranks(labels) < sizes[labels]
  return np.flatnonzero(in_test == (split == 'test'))


def _files_within(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files in a folder and in those that it links to."""
  # By folder, the real places of it and of those that hold it.
  above: dict[str, frozenset[str]] = {}
  for name, folders, names in os.walk(root, followlinks=True):
    real = os.path.realpath(name)
    held_by = above.get(os.path.dirname(name), frozenset())
    if real in held_by:  # A link to a folder that holds it.
      folders.clear()
      continue
    above[name] = held_by | {real}
    yield from filter(
      pathlib.Path.is_file, map(pathlib.Path(name).joinpath, names)
    )


def fingerprint_of(root: pathlib.Path) -> str:
  """Hexadecimal digits that follow from the files in a folder.

  Links to folders are followed, as by who reads them: a subset of classes is
  often a folder of links.
  """
  found = sorted(_files_within(root))
  names = '\n'.join(str(p.relative_to(root)) for p in found)
  digest = hashlib.sha256(names.encode(errors='surrogateescape'))
  digest.update(files.fingerprint(found).encode())
  return digest.hexdigest()
