"""Brings a target set to the resolution and the channels of a translator.

A translator that was pre-trained at a low resolution serves a higher one: sets
are distilled at its own resolution and up-sampled before it translates them
(supplement, B "Results on larger datasets").
"""

import dataclasses

import jax
import numpy as np
from PIL import Image

from fsdd_jax.data.datasets import Dataset
from fsdd_jax.runtime import progress
from fsdd_jax.types import LabeledSet


def repeat_channels(dataset: Dataset, channels: int) -> Dataset:
  """A grey data set with its channel repeated, or the same data set.

  Apply it to the images that a distilled set is scored on as well.

  Args:
    dataset: images `[n, h, w, c]`.
    channels: the channels wanted.

  Returns:
    A data set of `channels` channels.

  Raises:
    ValueError: if color would have to become grey.

  Example:
    >>> import numpy as np
    >>> from fsdd_jax.data import datasets
    >>> grey = datasets.from_arrays(np.zeros((2, 8, 8), np.uint8), np.arange(2))
    >>> repeat_channels(grey, 3).images.shape
    (2, 8, 8, 3)
  """
  found = dataset.images.shape[-1]
  if found == channels:
    return dataset
  if found != 1:
    raise ValueError(
      f'The images have {found} channels, but {channels} are needed. Only grey '
      'images can be repeated; use a translator and a network of '
      f'{found} channels.'
    )
  images = np.repeat(dataset.images, channels, axis=-1)
  return dataclasses.replace(dataset, images=images)


def is_above(image_shape: tuple[int, ...], limit: tuple[int, ...]) -> bool:
  """Whether height or width of a shape `(h, w, c)` is above that of another."""
  return image_shape[0] > limit[0] or image_shape[1] > limit[1]


def reduce_resolution(
  dataset: Dataset, image_shape: tuple[int, ...]
) -> Dataset:
  """Scales images down on the host, antialiased (PIL's Lanczos filter).

  Args:
    dataset: uint8 images `[n, h, w, c]`.
    image_shape: `(h, w, c)` to scale to, where the images are larger.

  Returns:
    A data set at that height and width, or the same one where neither side is
    above it.
  """
  if not is_above(dataset.images.shape[1:], image_shape):
    return dataset
  height, width = image_shape[:2]
  channels = dataset.images.shape[-1]
  images = np.empty((len(dataset.images), height, width, channels), np.uint8)
  name = f'Scaling to {height} x {width}'
  with progress.Bar(len(images), name, unit='image', leave=False) as bar:
    for i, image in enumerate(dataset.images):
      picture = Image.fromarray(image[..., 0] if channels == 1 else image)
      scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
      images[i] = np.asarray(scaled).reshape(height, width, channels)
      bar.update()
  return dataclasses.replace(dataset, images=images)


def upsample(labeled: LabeledSet, image_shape: tuple[int, ...]) -> LabeledSet:
  """Scales the images of a set bilinearly to the height and width of a shape.

  Args:
    labeled: images `[n, h, w, c]`.
    image_shape: `(h, w, c)` to scale to.

  Returns:
    The set with images, and start, of that height and width; labels and mask
    as before.
  """
  n, height, width, channels = labeled.images.shape
  if (height, width) == tuple(image_shape[:2]):
    return labeled
  shape = (n, *image_shape[:2], channels)
  images, start = jax.tree.map(
    lambda x: jax.image.resize(x, shape, 'bilinear'),
    (labeled.images, labeled.start),
  )
  return dataclasses.replace(labeled, images=images, start=start)
