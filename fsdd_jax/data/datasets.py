"""Data sets as uint8 arrays in memory, from `sources` or from Python.

Every choice of images is deterministic and class-balanced. It rests on one
rule: the images of each class are put in a fixed random order
(`subsets.class_ranks`), and a share of a class is the beginning of that order.
"""

import dataclasses
import difflib
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from fsdd_jax.data import array_checks, sources, subsets
from fsdd_jax.data.decoding import decode_once
from fsdd_jax.options import real, whole


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Labelled images in memory.

  Attributes:
    images: `[n, h, w, c]` uint8, c being 1 (grey) or 3 (RGB).
    labels: `[n]` int32 in [0, k).
    class_names: k names.

  Example:
    >>> import numpy as np
    >>> images, labels = np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1])
    >>> data = from_arrays(images, labels)
    >>> data.images.shape, data.num_classes, data.fingerprint()[:8]
    ((3, 8, 8, 1), 2, '25963ec6')
  """

  images: np.ndarray  # [n, h, w, c]
  labels: np.ndarray  # [n]
  class_names: tuple[str, ...]

  def __post_init__(self) -> None:
    array_checks.check_pixels(self.images)
    array_checks.check_integers(self.labels, len(self.images))

  @property
  def num_classes(self) -> int:
    """The number of classes k."""
    return len(self.class_names)

  def fingerprint(self) -> str:
    """SHA-256 of images, labels and class names, in hexadecimal digits."""
    return self._digest

  @functools.cached_property
  def _digest(self) -> str:
    header = repr((self.images.shape, self.class_names))
    digest = hashlib.sha256(header.encode())
    digest.update(np.ascontiguousarray(self.images).data)
    digest.update(np.ascontiguousarray(self.labels, dtype='<i4').data)
    return digest.hexdigest()


def load(
  name: str,
  *,
  split: str = 'train',
  image_size: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  classes: Sequence[str | int] | None = None,
  limit: int | None = None,
  holdout: float = 0.0,
  progress: bool = True,
) -> Dataset:
  """Loads a data set, or a class-balanced part of it, as uint8 arrays.

  Non-square pictures are scaled to cover a square and cropped to its centre.
  Scaling uses PIL's antialiased Lanczos filter. Grey pictures keep one channel,
  all others become RGB. They are turned by their EXIF orientation, and lie on
  white where they are transparent. Fractals are drawn at `image_size` (default
  32).

  Args:
    name: `digits`, `fractals`, `fractals:NUM_CLASSES`, `folder:PATH`,
      `npz:PATH`, a TFDS name (`imagenette/160px`), or a builder's directory.
    split: `train`, `holdout` or `test`. The first two part the training split;
      `test` is the validation split where there is no test split. A source
      without either (digits, class folders or arrays) gives 20% to `test`.
    image_size: side of the square images; None keeps the size.
    data_dir: where TFDS data lies; None: the environment's FSDD_DATA_DIR
      first, then TFDS's own default.
    classes: names or numbers of the classes to keep, which are numbered anew
      in this order; text that is no name but a number is one. None keeps all.
    limit: at most that many images, drawn after `holdout` and `classes`, one
      of each class in turn; a smaller limit gives a part of a larger one's.
    holdout: share of each class, in [0, 1), that goes from `train` to
      `holdout` (at least one image when above 0); does not affect `test`.
    progress: whether to show a progress bar.

  Returns:
    The images in the order of the source.

  Raises:
    ValueError: on a bad argument, data set or picture.
    FileNotFoundError: if a folder or data set is not there.

  Example:
    >>> train = load('digits', classes=['3', '8'], limit=20, progress=False)
    >>> train.images.shape, train.class_names
    ((20, 8, 8, 1), ('3', '8'))
  """
  if split not in ('train', 'holdout', 'test'):
    raise ValueError(f"split is 'train', 'holdout' or 'test'; got {split!r}.")
  holdout = real('holdout', holdout)
  if not 0.0 <= holdout < 1.0 or (split == 'holdout' and holdout == 0.0):
    raise ValueError(
      "holdout must lie in [0, 1), and above 0 for split='holdout'; got "
      f'holdout={holdout} with split={split!r}. Try holdout=0.1.'
    )
  if image_size is not None:
    image_size = whole('image_size', image_size, least=1)
  limit = None if limit is None else whole('limit', limit, least=1)
  part = 'test' if split == 'test' else 'train'
  source = sources.open_source(
    name, part, image_size=image_size, data_dir=data_dir
  )
  old_labels = array_checks.check_labels(
    source.labels, source.class_names, name
  )
  kept = _class_indices(classes, source.class_names)
  array_checks.check_several(len(kept), name)
  new_class = np.full(len(source.class_names), -1, np.int32)
  new_class[kept] = np.arange(len(kept))
  in_split, ranks = _split_rows(old_labels, split, holdout)
  rows = np.flatnonzero(in_split & (new_class[old_labels] >= 0))
  labels = new_class[old_labels[rows]]
  class_names = tuple(source.class_names[i] for i in kept)
  array_checks.check_classes_filled(
    labels,
    class_names,
    f'{split!r} of {name!r}',
    'leave it out (the classes argument of load), lower holdout, or add images',
  )
  if limit is not None:
    chosen = _balanced_prefix(labels, ranks[rows], len(kept), limit)
    rows, labels = rows[chosen], labels[chosen]
  identity = {
    'name': name,
    'fingerprint': sources.fingerprint(name, data_dir),
    'split': part,
  }
  on_disk = sources.is_on_disk(name)
  images = decode_once(
    source, rows, image_size, identity, on_disk=on_disk, progress=progress
  )
  return Dataset(images, labels, class_names)


def from_arrays(
  images: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str] | None = None,
) -> Dataset:
  """Wraps arrays made elsewhere, after checking them.

  Args:
    images: `[n, h, w]` or `[n, h, w, c]` uint8 in [0, 255], c in {1, 3}.
    labels: `[n]` integers in [0, k).
    class_names: k names; None names the classes `0`, `1`, ... up to the
      largest label; other names are made text.

  Returns:
    A data set that shares the memory of `images`.

  Raises:
    ValueError: if shapes, types or ranges are wrong, or a class has no image.

  Example:
    >>> import numpy as np
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> from_arrays(images, np.array([0, 1]), ('cat', 'dog')).class_names
    ('cat', 'dog')
  """
  images, labels = np.asarray(images), np.asarray(labels)
  if images.dtype.kind == 'f' and np.isnan(images).any():
    raise ValueError('images hold NaN; remove or repair these images.')
  if images.dtype != np.uint8:
    raise ValueError(
      f'images must be uint8 in [0, 255]; got {images.dtype}. For values in '
      '[0, 1] pass np.round(255 * images).astype(np.uint8).'
    )
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
    raise ValueError(
      'images must be [n, h, w] or [n, h, w, c] with c in {1, 3} and none of '
      f'these 0; got shape {images.shape}.'
    )
  array_checks.check_integers(labels, len(images))
  if class_names is None:
    class_names = [str(i) for i in range(max(int(labels.max()), 0) + 1)]
  names = tuple(map(str, class_names))
  if len(set(names)) < len(names):
    raise ValueError(f'Two classes have the same name among {names}.')
  labels = array_checks.check_labels(labels, names, 'the arrays')
  array_checks.check_several(len(names), 'The arrays')
  array_checks.check_classes_filled(
    labels,
    names,
    'the arrays',
    'number the classes from 0 without gaps, by names, labels = '
    'np.unique(labels, return_inverse=True)',
  )
  return Dataset(images, labels, names)


def _class_indices(
  classes: Sequence[str | int] | None, class_names: Sequence[str]
) -> list[int]:
  """Numbers of the classes to keep, in the order asked for."""
  if classes is None:
    return list(range(len(class_names)))
  kept = []
  for wanted in classes:
    number = int(wanted) if str(wanted).isdecimal() else -1
    if isinstance(wanted, str) and wanted in class_names:
      kept.append(class_names.index(wanted))
    elif 0 <= number < len(class_names):
      kept.append(number)
    else:
      close = difflib.get_close_matches(str(wanted), class_names, cutoff=0.4)
      raise ValueError(
        f'Unknown class {wanted!r}; close names: '
        f'{", ".join(close or class_names[:10])}. Give a name or a number in '
        f'[0, {len(class_names)}).'
      )
  if not kept or len(set(kept)) < len(kept):
    raise ValueError(
      f'classes must name at least one class and none twice; got {classes!r}.'
    )
  return kept


def _split_rows(
  labels: np.ndarray, split: str, holdout: float
) -> tuple[np.ndarray, np.ndarray]:
  """Which rows are in the split, and their places in its classes' orders."""
  ranks = subsets.class_ranks(labels)
  if split == 'test' or holdout == 0.0:
    return np.ones(len(labels), bool), ranks
  held = np.maximum(np.round(holdout * np.bincount(labels)), 1)[labels]
  if split == 'holdout':
    return ranks < held, ranks
  return ranks >= held, ranks - held


def _balanced_prefix(
  labels: np.ndarray, ranks: np.ndarray, num_classes: int, limit: int
) -> np.ndarray:
  """Indices of `limit` rows, one of each class in turn, rising."""
  if limit < num_classes:
    raise ValueError(
      f'limit={limit} leaves some of {num_classes} classes without an image; '
      f'use at least {num_classes}, or fewer classes.'
    )
  return np.sort(np.lexsort((labels, ranks))[:limit])
