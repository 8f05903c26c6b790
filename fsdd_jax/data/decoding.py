"""Pictures decoded to arrays, once for all runs where they are many."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps

from fsdd_jax.data.undecoded import Picture, Source, as_shown, opened
from fsdd_jax.runtime import array_store, hashes
from fsdd_jax.runtime import progress as progress_lib

# Programs that shape a decoded picture.
_READERS = (
  *('data/decoding.py', 'data/undecoded.py'),
  *('data/array_files.py', 'data/image_folders.py', 'data/tfds_source.py'),
)
_BATCH_SIZE = 1000  # Pictures read at once.
_WORTH_KEEPING = 5000  # Decoded pictures that are kept on disk.


def decode_once(
  source: Source,
  rows: np.ndarray,
  image_size: int | None,
  identity: Mapping[str, Any],
  *,
  on_disk: bool,
  progress: bool,
) -> np.ndarray:
  """Images at the rows of a source.

  Many pictures of files are decoded once and then mapped into memory.

  Args:
    source: of the pictures.
    rows: `[n]` their numbers.
    image_size: height and width to scale to; None: those of the source.
    identity: what names the source, with its `name`.
    on_disk: whether its pictures are files.
    progress: whether to show a progress bar.

  Returns:
    `[n, h, w, c]` uint8.

  Raises:
    ValueError: if a picture is damaged or of another size than the first.
  """
  name = identity['name']
  (first,) = source.read(rows[:1])
  shape = _pixels(first, source.channels, image_size).shape
  pieces = array_store.pieces_of(len(rows), _BATCH_SIZE)

  def make(number: int) -> dict[str, np.ndarray]:
    own = rows[pieces[number]]
    return {'images': _decode(source, own, image_size, name, shape)}

  bar = progress_lib.Bar(
    len(rows), f'Loading {name}', unit='image', leave=False, shown=progress
  )
  with bar:
    on_piece = lambda number: bar.update(  # noqa: E731
      pieces[number].stop - pieces[number].start
    )
    if len(rows) < _WORTH_KEEPING or not on_disk:
      parts = []
      for number in range(len(pieces)):
        parts.append(make(number)['images'])
        on_piece(number)
      return np.concatenate(parts)
    facts = {
      **identity,
      'image_size': image_size,
      'rows': hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest(),
      'pillow': PIL.__version__,
      'code': hashes.package_code(*_READERS),
    }
    return array_store.fill(
      array_store.folder_for(array_store.default_root() / 'images', facts),
      facts,
      {'images': ((len(rows), *shape), 'uint8')},
      pieces,
      make,
      on_piece,
    )['images']


def _decode(
  source: Source,
  rows: np.ndarray,
  image_size: int | None,
  name: str,
  shape: tuple[int, ...],
) -> np.ndarray:
  """Decodes the pictures at some rows, all of one shape.

  One thread: for pictures of 32 and of 128 pixels a pool over the cores was no
  faster, as PIL holds the interpreter for most of the time.
  """
  images = np.empty((len(rows), *shape), np.uint8)
  for i, picture in enumerate(source.read(rows)):
    pixels = _pixels(picture, source.channels, image_size)
    if pixels.shape != shape:
      raise ValueError(
        f'{name!r} has images of different sizes, {shape[:2]} and '
        f'{pixels.shape[:2]}; pass image_size to scale all to one square.'
      )
    images[i] = pixels
  return images


def _pixels(
  picture: Picture, channels: int, image_size: int | None
) -> np.ndarray:
  """Decodes and scales one picture to `[h, w, channels]` uint8."""
  with opened(picture) as image:
    converted = as_shown(image).convert('L' if channels == 1 else 'RGB')
  if image_size is not None and converted.size != (image_size, image_size):
    converted = ImageOps.fit(
      converted, (image_size, image_size), Image.Resampling.LANCZOS
    )
  return np.asarray(converted).reshape(*converted.size[::-1], channels)
