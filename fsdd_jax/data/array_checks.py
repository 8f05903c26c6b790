"""What must hold for the images and labels of every data set."""

from collections.abc import Sequence

import jax
import numpy as np


def check_pixels(images: np.ndarray | jax.Array) -> None:
  """Makes sure that images are `[n, h, w, c]` uint8."""
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      'images must be [n, h, w, c] uint8 in [0, 255]; got '
      f'{images.dtype}{list(images.shape)}.'
    )


def check_integers(labels: np.ndarray, num_images: int) -> None:
  """Makes sure that there is one integer an image."""
  if labels.shape != (num_images,) or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'labels must be [{num_images}] integers, one an image; got shape '
      f'{labels.shape} of {labels.dtype}.'
    )


def check_labels(
  labels: np.ndarray, class_names: Sequence[str], where: str
) -> np.ndarray:
  """Returns int32 labels, all of which name a class."""
  bad = (labels < 0) | (labels >= len(class_names))
  if bad.any():
    raise ValueError(
      f'Label {int(labels[bad][0])} of row {int(np.argmax(bad))} of {where} is '
      f'not in [0, {len(class_names)}); -1 marks a missing label. Use a split '
      'with labels, or drop these rows.'
    )
  return labels.astype(np.int32)


def check_several(num_classes: int, name: str) -> None:
  """One class has nothing to differ from: its centred labels are all 0."""
  if num_classes < 2:
    raise ValueError(
      f'{name} has {num_classes} class; at least 2 are needed. Add images of '
      'another class, or keep more classes.'
    )


def check_classes_filled(
  labels: np.ndarray, class_names: Sequence[str], where: str, remedy: str
) -> None:
  """Makes sure that each class has an image."""
  counts = np.bincount(labels, minlength=len(class_names))
  if not counts.all():
    raise ValueError(
      f'Class {class_names[int(counts.argmin())]!r} has no image in {where}; '
      f'{remedy}.'
    )
