"""Pixels to network inputs and back: standardisation and ZCA whitening.

Images of a data set are uint8 in [0, 255]; networks see float32 with zero mean
and unit variance a channel (over the training images), and, with ZCA, without
correlation between pixels. A `Normalization` travels with every artifact, as
distilled images mean nothing without it.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.data import array_checks
from fsdd_jax.runtime import array_store, hashes

# Above this many values an image the d x d whitening matrix passes 1 GiB.
_MAX_ZCA_VALUES = 16384
_COUNTED = 1000  # Images at once, as counting takes eight times their memory.


@flax.struct.dataclass
class Normalization:
  """How uint8 images become network inputs.

  Attributes:
    mean: `[c]` channel means of the training images, in [0, 1].
    std: `[c]` channel standard deviations, in (0, 1].
    zca_mean: `[d]` pixel means after standardisation (d = h * w * c), or None.
    zca: `[d, d]` whitening matrix applied after standardisation, or None.
    zca_inverse: `[d, d]` its inverse, or None.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> plain = Normalization(mean=jnp.array([0.5]), std=jnp.array([0.25]))
    >>> normalize(np.full((1, 1, 1, 1), 255, np.uint8), plain).item()
    2.0
  """

  mean: jax.Array  # [c]
  std: jax.Array  # [c]
  zca_mean: jax.Array | None = None  # [d]
  zca: jax.Array | None = None  # [d, d]
  zca_inverse: jax.Array | None = None  # [d, d]


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation a channel of uint8 images, in units of 255.

  Exact: pixel values are counted, so neither float32 copies of the images nor
  a summation error arise.

  Args:
    images: `[n, h, w, c]` uint8.

  Returns:
    Mean and (biased) standard deviation, each `[c]` float32. A constant
    channel gets 1/255 as its deviation, the distance of two grey levels, so
    that nothing is divided by zero.

  Raises:
    ValueError: for other images.
  """
  array_checks.check_pixels(images)
  counts = np.zeros((images.shape[-1], 256), np.int64)
  for start in range(0, len(images), _COUNTED):
    part = images[start : start + _COUNTED]
    for channel, own in enumerate(counts):
      own += np.bincount(part[..., channel].ravel(), minlength=256)
  values = np.arange(256) / 255.0
  total = counts.sum(axis=1)
  mean = counts @ values / total
  variance = np.maximum(counts @ values**2 / total - mean**2, 0.0)
  std = np.maximum(np.sqrt(variance), 1.0 / 255.0)
  return mean.astype(np.float32), std.astype(np.float32)


def standardization(images: np.ndarray) -> Normalization:
  """Fits channel mean and deviation to `[n, h, w, c]` uint8 images.

  Raises:
    ValueError: for other images.

  Example:
    >>> import numpy as np
    >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    >>> normalize(images, standardization(images)).ravel().tolist()
    [-1.0, 1.0]
  """
  mean, std = channel_statistics(images)
  return Normalization(jnp.asarray(mean), jnp.asarray(std))


def zca_whitening(
  images: np.ndarray, *, ridge: float = 0.1, batch_size: int = 1000
) -> Normalization:
  """Fits standardisation followed by ZCA whitening.

  The transform of FRePo: standardise channels, subtract the pixel mean, then
  multiply by (C + ridge * tr(C)/d * I)^(-1/2), C being the covariance.

  Args:
    images: `[n, h, w, c]` uint8 training images.
    ridge: added to the covariance's diagonal, relative to its mean trace.
    batch_size: images converted to float32 at once.

  Returns:
    A normalisation with its whitening matrix and inverse.

  Raises:
    ValueError: if d = h * w * c is too large for a d x d matrix, or images are
      not `[n, h, w, c]` uint8, or all alike.

  Example:
    >>> import toy
    >>> _, dataset, _ = toy.problem()
    >>> zca_whitening(dataset.images).zca.shape
    (192, 192)
  """
  plain = standardization(images)
  d = _checked_values(images)
  total, gram = np.zeros(d), np.zeros((d, d))
  for start in range(0, len(images), batch_size):
    batch = np.asarray(normalize(images[start : start + batch_size], plain))
    flat = batch.reshape(len(batch), d)
    total += flat.sum(axis=0, dtype=np.float64)
    gram += flat.T @ flat
  mean = total / len(images)
  covariance = gram / len(images) - np.outer(mean, mean)
  if np.trace(covariance) < 1e-6 * d:  # Rounding errors of 0.
    raise ValueError('All images are alike, so they cannot be whitened.')
  values, vectors = np.linalg.eigh(covariance)
  scale = np.sqrt(np.maximum(values, 0.0) + ridge * np.trace(covariance) / d)
  return dataclasses.replace(
    plain,
    zca_mean=jnp.asarray(mean, jnp.float32),
    zca=jnp.asarray((vectors / scale) @ vectors.T, jnp.float32),
    zca_inverse=jnp.asarray((vectors * scale) @ vectors.T, jnp.float32),
  )


def zca_whitening_once(images: np.ndarray, fingerprint: str) -> Normalization:
  """`zca_whitening` by default settings, kept on disk for later runs.

  The matrix of 50,000 images of 32 x 32 takes seconds, each time that a program
  starts.

  Args:
    images: `[n, h, w, c]` uint8 training images.
    fingerprint: that of their `Dataset`.

  Returns:
    The normalisation, of the same bytes in all runs on one machine.

  Raises:
    ValueError: as `zca_whitening`.
    OSError: if the folder cannot be written.
  """
  names = ('zca_mean', 'zca', 'zca_inverse')
  facts = {
    'dataset': fingerprint,
    'versions': [jax.__version__, np.__version__, jax.default_backend()],
    'code': hashes.package_code('data/normalization.py'),
  }

  def make(_: int) -> dict[str, np.ndarray]:
    fitted = zca_whitening(images)
    return {name: np.asarray(getattr(fitted, name)) for name in names}

  d = _checked_values(images)
  shapes = {name: ((d, d), 'float32') for name in names[1:]}
  found = array_store.fill(
    array_store.folder_for(array_store.default_root() / 'whitening', facts),
    facts,
    {'zca_mean': ((d,), 'float32'), **shapes},
    [slice(0, d)],
    make,
  )
  arrays = {name: jnp.array(found[name]) for name in names}
  return dataclasses.replace(standardization(images), **arrays)


def _checked_values(images: np.ndarray) -> int:
  """Values an image, d; raises a ValueError if they are too many."""
  d = int(np.prod(images.shape[1:]))
  if d > _MAX_ZCA_VALUES:
    raise ValueError(
      f'ZCA needs a {d} x {d} matrix for images of shape {images.shape[1:]}; '
      f'at most {_MAX_ZCA_VALUES} values an image are supported. Reduce '
      'image_size or switch ZCA off.'
    )
  return d


def normalize(
  images: np.ndarray | jax.Array, normalization: Normalization
) -> jax.Array:
  """uint8 `[n, h, w, c]` in [0, 255] to float32 network inputs.

  Raises:
    ValueError: for other images, such as ones in [0, 1].

  Example:
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> x = normalize(dataset.images, transform)
    >>> x.shape, x.mean().round(3).item(), x.std().round(3).item()
    ((24, 8, 8, 3), 0.0, 1.0)
  """
  array_checks.check_pixels(images)
  x = jnp.asarray(images).astype(jnp.float32) / 255.0
  x = (x - normalization.mean) / normalization.std
  if normalization.zca is None or normalization.zca_mean is None:
    return x
  flat = x.reshape(len(x), -1) - normalization.zca_mean
  return jnp.matmul(flat, normalization.zca, precision='highest').reshape(
    x.shape
  )


def whitened_once(
  images: np.ndarray, normalization: Normalization, *, batch_size: int = 1000
) -> tuple[np.ndarray, Normalization | None]:
  """Images for several passes: whitened now, if they are to be whitened.

  Whitening an image costs about as much as its pass through a small network,
  standardising it next to nothing. Whitened images take four times the memory.

  Args:
    images: `[n, h, w, c]` uint8.
    normalization: how they become network inputs.
    batch_size: images whitened at once.

  Returns:
    Network inputs, float32, and None; or, without ZCA, both arguments.
  """
  if normalization.zca is None:
    return images, normalization
  jitted = jax.jit(normalize)
  inputs = np.empty(images.shape, np.float32)
  for start in range(0, len(images), batch_size):
    rows = slice(start, start + batch_size)
    inputs[rows] = jitted(images[rows], normalization)
  return inputs, None


def denormalize(images: jax.Array, normalization: Normalization) -> jax.Array:
  """Network inputs `[n, h, w, c]` to float32 pixels; [0, 1] is displayable.

  The inverse of `normalize` up to rounding; distilled images may leave [0, 1],
  and the caller clips them for display.

  Example:
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> x = normalize(dataset.images, transform)
    >>> pixels = denormalize(x, transform)
    >>> bool(abs(255 * pixels - dataset.images).max() < 0.01)
    True
  """
  x = images
  if normalization.zca_inverse is not None and (
    normalization.zca_mean is not None
  ):
    flat = images.reshape(len(images), -1)
    flat = jnp.matmul(flat, normalization.zca_inverse, precision='highest')
    x = (flat + normalization.zca_mean).reshape(images.shape)
  return x * normalization.std + normalization.mean


def describe_normalization(normalization: Normalization) -> dict[str, Any]:
  """Mean, deviation and the hash of the ZCA matrix (or None), for metadata."""
  zca, digest = normalization.zca, None
  if zca is not None:
    digest = hashes.hash_arrays({'zca': np.asarray(zca)})
  return {
    'mean': np.asarray(normalization.mean).tolist(),
    'std': np.asarray(normalization.std).tolist(),
    'zca_sha256': digest,
  }
