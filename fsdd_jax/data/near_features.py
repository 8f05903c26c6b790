"""Features of Z where the steps that read them run.

On a CPU they are a memory map of `feature_bank`, which programs share. An
accelerator computes them again sooner than it fetches them from a disk, and
keeps them in its own memory, so that no step sends features to it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.data import feature_bank, passes
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.runtime import array_store, residence


def features(
  source: BankSource, rows: np.ndarray | None = None, *, banks: int = 1
) -> Any:
  """Features of images of Z, `[n, d]` float16.

  Args:
    source: what the bank is made of.
    rows: `[n]` rows of Z; all of them by default.
    banks: how many of that size there will be at once.

  Returns:
    Features of row i at place i: on the device where all banks fit, else a
    memory map.

  Raises:
    FloatingPointError: if a feature is not finite in float16.
  """
  count = len(source.large.dataset.labels) if rows is None else len(rows)
  if residence.fits(2 * banks * count * source.num_features):
    return on_device(source, rows)
  return feature_bank.feature_rows(source, rows)


def on_device(source: BankSource, rows: np.ndarray | None = None) -> jax.Array:
  """As `feature_bank.feature_rows`, in the memory of the device.

  Args:
    source: what the bank is made of.
    rows: `[n]` rows of Z; all of them by default.

  Returns:
    `[n, d]` float16.

  Raises:
    FloatingPointError: as `feature_bank.feature_rows`.
  """
  every = np.arange(len(source.large.dataset.labels)) if rows is None else rows
  pieces = array_store.pieces_of(len(every), feature_bank.IMAGES_A_PIECE)
  parts = []
  for number, piece in enumerate(pieces):
    own = every[piece]
    batches = passes.batches(source.large.dataset.images[own], own)
    for index, (images, _, mask) in enumerate(batches):
      found = feature_bank.features_of(source, images, number, index)
      parts.append(found[: int(mask.sum())].astype(jnp.float16))
  joined = jnp.concatenate(parts)
  if not jnp.isfinite(joined).all():
    raise FloatingPointError(
      'features of real images are not finite, or too large for float16. Take '
      'another network or normalisation.'
    )
  return joined


def rows_of(bank: Any, rows: np.ndarray) -> Any:
  """Rows of a bank, where it is.

  Args:
    bank: of `features`.
    rows: `[m]` places in it.

  Returns:
    `[m, d]`: float16 on the device, or float32 in NumPy, which a CPU would
    convert at each step.
  """
  if isinstance(bank, jax.Array):
    return _taken(bank, rows)
  return bank[rows].astype(np.float32)


def class_rows(bank: Any, classes: np.ndarray) -> Any:
  """All features of some classes, where the bank is.

  Args:
    bank: `[k, q, d]` of a network, q images a class.
    classes: `[l]` numbers of classes; -1 where unused.

  Returns:
    `[l * q, d]` float16; zeros where unused.
  """
  if isinstance(bank, jax.Array):
    return _of_classes(bank, classes)
  used = classes >= 0
  found = np.zeros((len(classes), *bank.shape[1:]), bank.dtype)
  found[used] = bank[classes[used]]
  return found.reshape(-1, bank.shape[2])


@jax.jit
def _taken(bank: jax.Array, rows: jax.Array) -> jax.Array:
  return bank[rows]


@jax.jit
def _of_classes(bank: jax.Array, classes: jax.Array) -> jax.Array:
  found = bank[jnp.maximum(classes, 0)]
  found = jnp.where((classes >= 0)[:, None, None], found, 0)
  return found.reshape(-1, bank.shape[2])
