"""Distilled images as pictures: PNG bytes, grids, and grids with class names.

Figures are drawn through matplotlib's objects, never through pyplot, so that a
notebook's own figures and back end stay as they are.
"""

import io
import os
import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from matplotlib import figure as mpl_figure

from fsdd_jax.runtime import files

_MIN_TILE = 64  # Pixels an image is enlarged to, at least.
_TITLE = 16  # Pixels of height of the text above an image.
_LETTER = 8  # Pixels of width a letter takes at most, nearly.
_DPI = 100


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Images to show as uint8.

  Args:
    images: `[..., h, w, c]` uint8, taken as they are, or floats in [0, 1];
      floats outside are clipped.

  Returns:
    The same shape in uint8, rounded to the nearest grey level.

  Raises:
    TypeError: if the values are neither uint8 nor floats.
    ValueError: if a value is NaN.
  """
  images = np.asarray(images)
  if images.dtype == np.uint8:
    return images
  if not np.issubdtype(images.dtype, np.floating):
    raise TypeError(
      f'Images to show must be uint8 or floats in [0, 1]; got {images.dtype}. '
      'Convert them first.'
    )
  if np.isnan(images).any():
    raise ValueError(
      f'{int(np.isnan(images).sum())} of {images.size} values to show are '
      'NaN. Show images of an earlier step.'
    )
  return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def png_bytes(image: np.ndarray) -> bytes:
  """One image `[h, w, c]` (c = 1 or 3; uint8 or floats in [0, 1]) as PNG."""
  pixels = to_uint8(image)
  if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
    raise ValueError(
      'A PNG needs an image [h, w, c] with 1 (grey) or 3 (RGB) channels; got '
      f'{pixels.shape}. Choose the channels to show.'
    )
  if pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  stream = io.BytesIO()
  PIL.Image.fromarray(pixels).save(stream, format='PNG', optimize=True)
  return stream.getvalue()


def enlarge(images: np.ndarray, *, min_size: int = _MIN_TILE) -> np.ndarray:
  """Repeats pixels of `[n, h, w, c]` until both sides reach `min_size`."""
  factor = -(-min_size // min(images.shape[1:3]))
  return images.repeat(factor, axis=1).repeat(factor, axis=2)


def image_grid(
  images: np.ndarray,
  *,
  columns: int,
  titles: Sequence[str] | None = None,
  gap: int = 2,
  min_tile: int = _MIN_TILE,
) -> np.ndarray:
  """Lays images out row by row, on white, each enlarged to be visible.

  Args:
    images: `[n, h, w, c]` uint8, or floats in [0, 1]; c = 1 or 3.
    columns: images a row.
    titles: a text above each image, cut to its width; None for no text.
    gap: white pixels between two images.
    min_tile: pixels each side of an image gets at least, by repetition.

  Returns:
    `[height, width, c]` uint8; the last row is filled up with white.

  Raises:
    ValueError: if there is no image, or the shape, `columns` or the number of
      titles is wrong.
  """
  pixels = to_uint8(images)
  if pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[-1] not in (1, 3):
    raise ValueError(
      'A grid needs at least one image, [n, h, w, c] with 1 (grey) or 3 (RGB) '
      f'channels; got {pixels.shape}. Choose the images and channels to show.'
    )
  if columns < 1:
    raise ValueError(f'A grid needs columns >= 1; got {columns}.')
  if titles is not None and len(titles) != len(pixels):
    raise ValueError(
      f'{len(titles)} titles for {len(pixels)} images; give one an image.'
    )
  pixels = enlarge(pixels, min_size=min_tile)
  if titles is not None:
    strips = [_text_strip(t, pixels.shape[2], pixels.shape[3]) for t in titles]
    pixels = np.concatenate([np.stack(strips), pixels], axis=1)
  n, h, w, c = pixels.shape
  rows = -(-n // columns)
  shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, c)
  grid = np.full(shape, 255, np.uint8)
  for i, image in enumerate(pixels):
    top, left = i // columns * (h + gap), i % columns * (w + gap)
    grid[top : top + h, left : left + w] = image
  return grid


def _text_strip(text: str, width: int, channels: int) -> np.ndarray:
  """Black text on white, `[_TITLE, width, channels]` uint8."""
  folder = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
  font = PIL.ImageFont.truetype(str(folder / 'DejaVuSans.ttf'), 11)
  strip = PIL.Image.new('L', (width, _TITLE), 255)
  limit = len(text)
  while limit > 1 and font.getlength(_shorten(text, limit)) > width:
    limit -= 1
  PIL.ImageDraw.Draw(strip).text((1, 1), _shorten(text, limit), 0, font)
  return np.repeat(np.asarray(strip)[..., None], channels, axis=-1)


def figure_png(figure: mpl_figure.Figure) -> bytes:
  """A matplotlib figure as PNG, the same bytes at every call."""
  stream = io.BytesIO()
  # The name and version of matplotlib would else be part of the file.
  figure.savefig(stream, format='png', dpi=_DPI, metadata={'Software': None})
  return stream.getvalue()


def class_grid(
  images: np.ndarray,
  class_names: Sequence[str],
  *,
  ipc: int,
  max_rows: int = 20,
  max_columns: int = 10,
  title: str = '',
) -> mpl_figure.Figure:
  """Draws a row of images a class and its name; with IPC 1, names above.

  Args:
    images: `[n, h, w, c]` with n = k * ipc, sorted by class; uint8, or floats
      in [0, 1]; c = 1 or 3.
    class_names: k names.
    ipc: images per class.
    max_rows: rows shown at most; the picture says how many classes it shows.
    max_columns: images a row shown at most; the same holds.
    title: text above the grid.

  Returns:
    A figure, for `figure_png` or a notebook.

  Raises:
    ValueError: if the numbers of images, classes and `ipc` do not fit.

  Example:
    >>> import numpy as np
    >>> images = np.zeros((4, 8, 8, 3))
    >>> figure = class_grid(images, ('cat', 'dog'), ipc=2, title='Distilled')
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['cat', 'dog']
  """
  if ipc < 1 or len(images) != ipc * len(class_names) or not len(images):
    raise ValueError(
      f'{len(images)} images are not {ipc} images of each of '
      f'{len(class_names)} classes. Pass whole classes, and their ipc.'
    )
  num_classes, shape = len(class_names), np.shape(images)[1:]
  if ipc == 1:  # A name above each image, as rows of one would be a tower.
    columns = min(num_classes, max_columns)
    rows, per_class = min(num_classes, max_rows * columns), 1
  else:
    rows, per_class = min(num_classes, max_rows), min(ipc, max_columns)
    columns = per_class
  shown = np.reshape(images, (num_classes, ipc, *shape))[:rows, :per_class]
  shown = shown.reshape(-1, *shape)
  heading = [title] if title else []
  if rows < num_classes:
    heading.append(f'{rows} of {num_classes} classes shown')
  if per_class < ipc:
    heading.append(f'{per_class} of {ipc} images a class shown')
  if ipc == 1:
    grid = image_grid(shown, columns=columns, titles=class_names[:rows], gap=4)
    return _draw(grid, (), heading)
  return _draw(image_grid(shown, columns=columns), class_names[:rows], heading)


def save_grid(
  path: str | os.PathLike[str],
  images: np.ndarray,
  class_names: Sequence[str],
  *,
  ipc: int,
  title: str = '',
) -> None:
  """Writes `class_grid` of `[k * ipc, h, w, c]` displayable images as PNG."""
  figure = class_grid(images, class_names, ipc=ipc, title=title)
  files.write_bytes_atomic(path, figure_png(figure))


def _draw(
  grid: np.ndarray, row_names: Sequence[str], heading: Sequence[str]
) -> mpl_figure.Figure:
  """One axes that shows `grid` pixel by pixel, with names and a heading."""
  height, width = grid.shape[:2]
  names = [_shorten(name, 24) for name in row_names]
  edge = 8
  left = edge + (8 + _LETTER * max(map(len, names)) if names else 0)
  total_width = max(left + width + edge, 40 * _LETTER)
  lines = [
    line
    for text in heading
    for line in textwrap.wrap(text, (total_width - 2 * edge) // _LETTER)
  ]
  top = edge + 18 * len(lines)
  total_height = top + height + edge
  figure = mpl_figure.Figure(
    figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI
  )
  box = np.array([left, edge, width, height], float)
  box /= [total_width, total_height, total_width, total_height]
  axes = figure.add_axes(tuple(box))
  # As RGB: imshow would stretch a single channel to its own range.
  rgb = np.broadcast_to(grid, (height, width, 3))
  axes.imshow(rgb, interpolation='nearest', aspect='auto')
  axes.set_xticks([])
  pitch = (height + 2) / max(len(names), 1)
  axes.set_yticks([(i + 0.5) * pitch - 1.5 for i in range(len(names))])
  axes.set_yticklabels(names, fontsize=9, parse_math=False)
  axes.tick_params(length=0)
  for spine in axes.spines.values():
    spine.set_visible(False)
  figure.text(
    edge / total_width,
    1 - 4 / total_height,
    '\n'.join(lines),
    va='top',
    fontsize=9,
    parse_math=False,
  )
  return figure


def _shorten(name: str, limit: int) -> str:
  return name if len(name) <= limit else name[: limit - 1] + '…'
