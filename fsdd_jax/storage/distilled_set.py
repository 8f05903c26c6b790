"""Distilled sets as self-describing `.safetensors` files.

A distilled set means nothing without its normalisation, its label coding and
its class names. So they travel in one file; `containers.py` says how it is laid
out.
"""

import contextlib
import dataclasses
import os
import pathlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fsdd_jax.data.normalization import Normalization
from fsdd_jax.runtime import files
from fsdd_jax.runtime.versions import library_versions
from fsdd_jax.storage import containers
from fsdd_jax.types import LABEL_CODINGS

SCORE_KEYS = ('protocol', 'network', 'split', 'accuracies', 'mean', 'std', 'n')

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a distilled set means and how it came to be; JSON values only.

  Tuples inside the dictionaries come back as lists.

  Attributes:
    dataset: name of the target data set, as `datasets.load` takes it.
    class_names: one name a class, in the order of the label columns.
    label_coding: a name in `types.LABEL_CODINGS`, or 'learned'.
    ipc: images per class.
    network: `name` and fields of the network it was distilled in.
    recipe: the fields of the stage's config.
    seeds: every seed by its role, e.g. `{'theta': 0, 'distillation': 1}`.
    scores: measured accuracies; each has at least `SCORE_KEYS`.
    versions: of Python and the packages that made the set.

  Example:
    >>> import toy
    >>> about: Metadata = toy.distilled().metadata
    >>> about.dataset, about.ipc, about.class_names
    ('toy', 1, ('red', 'green', 'blue'))
  """

  dataset: str
  class_names: tuple[str, ...]
  label_coding: str
  ipc: int
  network: dict[str, Any]
  recipe: dict[str, Any]
  seeds: dict[str, int]
  scores: tuple[dict[str, Any], ...] = ()
  versions: dict[str, str] = dataclasses.field(default_factory=library_versions)


@dataclasses.dataclass(frozen=True)
class DistilledSet:
  """A distilled set that can be shown, trained on and traced.

  Attributes:
    images: `[n, h, w, c]` float32, normalised; n = ipc * k.
    labels: `[n, k]` float32 label vectors.
    normalization: turns `images` back into pixels.
    metadata: what the images are of and how they were made.

  Example:
    >>> import toy
    >>> distilled = toy.distilled()
    >>> distilled.images.shape, distilled.metadata.ipc
    ((3, 8, 8, 3), 1)
  """

  images: np.ndarray  # [n, h, w, c]
  labels: np.ndarray  # [n, k]
  normalization: Normalization
  metadata: Metadata


def save_distilled(path: Path, distilled: DistilledSet) -> None:
  """Writes a distilled set, whole or not at all.

  Args:
    path: the file, usually `*.safetensors`; an earlier one is replaced.
    distilled: the set; JAX arrays are taken as well.

  Raises:
    ValueError: if a value is not finite, shapes or metadata do not fit each
      other, or metadata is not JSON. Nothing is written then.
    OSError: if the file cannot be written.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = f'{tempfile.mkdtemp()}/distilled.safetensors'
    >>> save_distilled(path, toy.distilled())
    >>> read_distilled(path).metadata.dataset
    'toy'
  """
  images = np.asarray(distilled.images)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'{path}: images must be normalised floats; got {images.dtype}. Pass '
      'them through normalization.normalize first.'
    )
  tensors = {'images': images, 'labels': distilled.labels}
  for name, value in vars(distilled.normalization).items():
    if value is not None:
      tensors[name] = value
  arrays = {k: np.asarray(v, np.float32) for k, v in tensors.items()}
  _check_distilled(path, arrays, distilled.metadata)
  metadata = dataclasses.asdict(distilled.metadata)
  containers.write_container(path, 'distilled_set', arrays, metadata)


def read_distilled(path: Path) -> DistilledSet:
  """Reads a file that `save_distilled` wrote, after checking it.

  Args:
    path: the file.

  Returns:
    The set, with NumPy images and labels.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, of another format or a newer version, or if
      its content does not fit together.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = f'{tempfile.mkdtemp()}/distilled.safetensors'
    >>> save_distilled(path, toy.distilled())
    >>> read_distilled(path).images.shape
    (3, 8, 8, 3)
  """
  arrays, fields = containers.read_container(path, 'distilled_set')
  expected = {f.name for f in dataclasses.fields(Metadata)}
  if set(fields) != expected:
    raise ValueError(
      f'{path}: keys {sorted(set(fields) ^ expected)} of its metadata are '
      'missing or unknown. Write the file anew with save_distilled.'
    )
  for name in ('class_names', 'scores'):
    if isinstance(fields[name], list):
      fields[name] = tuple(fields[name])
  metadata = Metadata(**fields)
  _check_distilled(path, arrays, metadata)
  images, labels = arrays.pop('images'), arrays.pop('labels')
  transform = {k: jnp.asarray(v) for k, v in arrays.items()}
  return DistilledSet(images, labels, Normalization(**transform), metadata)


def add_scores(path: Path, scores: Iterable[Mapping[str, Any]]) -> None:
  """Appends measured scores to a distilled set's file; tensors stay the same.

  Programs that write to one file do so one after another.

  Args:
    path: a file that `save_distilled` wrote.
    scores: each a mapping with at least `SCORE_KEYS`.

  Raises:
    ValueError: if a score lacks a key; the file is unchanged then.
  """
  with written_in_turn(path):
    distilled = read_distilled(path)
    every = (*distilled.metadata.scores, *(dict(score) for score in scores))
    metadata = dataclasses.replace(distilled.metadata, scores=every)
    save_distilled(path, dataclasses.replace(distilled, metadata=metadata))


def written_in_turn(path: Path) -> contextlib.AbstractContextManager[None]:
  """Within it, no other program reads a file to write it again.

  Args:
    path: of a distilled set.
  """
  file = pathlib.Path(os.path.realpath(files.resolve(path)))
  return files.lock_in_turn(file.parent, f'.{file.name}.lock')


def _check_distilled(
  path: Path, arrays: Mapping[str, np.ndarray], metadata: Metadata
) -> None:
  """Raises ValueError unless tensors and metadata fit each other."""
  _check_names(path, arrays)
  _check_types(path, metadata)
  images, labels = arrays['images'], arrays['labels']
  num_classes, num_images = len(metadata.class_names), len(images)
  if images.ndim != 4 or labels.shape != (num_images, num_classes):
    raise ValueError(
      f'{path}: images must be [n, h, w, c] and labels [n, k], k being the '
      f'number of class names; got images {images.shape}, labels '
      f'{labels.shape} and {num_classes} class names. Pass one name a label '
      'column and one label a row of images.'
    )
  if not 0 < num_images == metadata.ipc * num_classes:
    raise ValueError(
      f'{path}: {metadata.ipc} images per class of {num_classes} classes '
      f'do not make {num_images} images. Unpad the set, or correct ipc.'
    )
  channels, d = images.shape[-1], int(np.prod(images.shape[1:]))
  shapes: dict[str, tuple[int, ...]] = {
    **{'mean': (channels,), 'std': (channels,), 'zca_mean': (d,)},
    **{'zca': (d, d), 'zca_inverse': (d, d)},
  }
  for name, shape in shapes.items():
    if name in arrays and arrays[name].shape != shape:
      raise ValueError(
        f'{path}: {name} of the normalisation has shape {arrays[name].shape}; '
        f'images of shape {images.shape[1:]} need {shape}. Pass the '
        'normalisation that the images were made with.'
      )
  if np.any(arrays['std'] <= 0):
    raise ValueError(
      f'{path}: std must be positive; got {arrays["std"]}. Fit it with '
      'normalization.standardization.'
    )
  codings = (*LABEL_CODINGS, 'learned')
  if metadata.label_coding not in codings:
    raise ValueError(
      f'{path}: unknown label coding {metadata.label_coding!r}; use one of '
      f'{codings}.'
    )
  for score in metadata.scores:
    _check_score(path, score)


def _check_types(path: Path, metadata: Metadata) -> None:
  """Raises ValueError unless each field of the metadata has its type."""
  for field in dataclasses.fields(metadata):
    value = getattr(metadata, field.name)
    kind = typing.get_origin(field.type) or field.type
    parts: tuple[Any, ...] = typing.get_args(field.type)
    inner = value.values() if isinstance(value, dict) else value
    part = typing.get_origin(parts[0]) or parts[0] if parts else None
    if kind is dict and parts:
      part = parts[1]
    wrong = not isinstance(value, kind) or isinstance(value, bool)  # type: ignore[arg-type]
    if not wrong and part not in (None, Any):
      wrong = not all(
        isinstance(x, part) and not isinstance(x, bool)  # type: ignore[arg-type]
        for x in inner
      )
    if wrong:
      raise ValueError(
        f'{path}: {field.name} of the metadata must be a {field.type}; got '
        f'{value!r}. Write the file anew with save_distilled.'
      )


def _check_names(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError unless the tensors of a distilled set are there."""
  plain = {'images', 'labels', 'mean', 'std'}
  whitened = plain | {'zca_mean', 'zca', 'zca_inverse'}
  if set(arrays) not in (plain, whitened):
    raise ValueError(
      f'{path}: a distilled set holds {sorted(plain)}, and with ZCA all of '
      f'{sorted(whitened - plain)}; got {sorted(arrays)}. Write it with '
      'save_distilled and a whole normalisation.'
    )


def _check_score(path: Path, score: Mapping[str, Any]) -> None:
  if missing := [key for key in SCORE_KEYS if key not in score]:
    raise ValueError(
      f'{path}: a score lacks {missing}; give all of {SCORE_KEYS}.'
    )
  if score['n'] != (n := len(score['accuracies'])):
    raise ValueError(
      f'{path}: a score says n = {score["n"]} but has {n} accuracies. List '
      'one accuracy a run.'
    )
