"""Random draws of images, class by class and without replacement.

All may run under `jax.jit`, and under `jax.vmap` over keys.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class ClassTable:
  """The rows of a data set, listed class by class.

  Attributes:
    rows: `[C, max_count]` int32, the rows of each class in rising order; 0
      where padded.
    counts: `[C]` int32, the number of rows of each class.
  """

  rows: jax.Array  # [C, max_count]
  counts: jax.Array  # [C]


def class_ranks(labels: np.ndarray) -> np.ndarray:
  """Place `[n]` of each row in a fixed random order of its class's rows.

  The order of class c is NumPy's `default_rng((0, c)).permutation`.

  Args:
    labels: `[n]` integers, at least 0.
  """
  ranks = np.empty(len(labels), np.int64)
  for c in np.unique(labels):
    rows = np.flatnonzero(labels == c)
    ranks[rows] = np.random.default_rng((0, c)).permutation(len(rows))
  return ranks


def class_table(labels: np.ndarray, num_classes: int) -> ClassTable:
  """Lists the rows of each class, on the host.

  Args:
    labels: `[n]` integers in [0, num_classes).
    num_classes: number of classes C.

  Returns:
    The table that every draw of this module reads.

  Raises:
    ValueError: if a label is out of range, or a class has no row.
  """
  labels = np.asarray(labels)
  if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f'Labels must be non-empty and lie in [0, {num_classes}); got '
      f'{len(labels)} labels'
      + (f' in [{labels.min()}, {labels.max()}].' if len(labels) else '.')
    )
  counts = np.bincount(labels, minlength=num_classes)
  if not counts.all():
    raise ValueError(
      f'Class {int(counts.argmin())} has no image; drop it from the data set '
      'and number the classes anew.'
    )
  order = np.argsort(labels, kind='stable')
  starts = np.cumsum(counts) - counts
  places = np.arange(len(labels)) - np.repeat(starts, counts)
  rows = np.zeros((num_classes, counts.max()), np.int32)
  rows[labels[order], places] = order
  return ClassTable(jnp.asarray(rows), jnp.asarray(counts, jnp.int32))


def random_rows(key: jax.Array, table: ClassTable, size: int) -> jax.Array:
  """Random rows `[C, size]` of each class; padding beyond its count."""
  valid = jnp.arange(table.rows.shape[1]) < table.counts[:, None]
  # The order of random numbers is a random order; padding comes last. Seeking
  # the largest few takes a tenth of the time of sorting all, or less.
  noise = jax.random.uniform(key, table.rows.shape, jnp.float32)
  noise = jnp.where(valid, noise, -1.0)
  _, order = jax.lax.top_k(noise, size)
  return jnp.take_along_axis(table.rows, order, axis=1)


def check_counts(table: ClassTable, size: int) -> None:
  """Makes sure, on the host, that each class has `size` rows.

  Under `jax.jit` the counts may be unknown; then nothing is checked, and the
  caller is to check once before.

  Args:
    table: rows of each class.
    size: number of images a class that a draw without replacement takes.

  Raises:
    ValueError: naming the class with the fewest images.
  """
  if size < 1:
    raise ValueError(f'Cannot draw {size} images a class; ask for at least 1.')
  if isinstance(table.counts, jax.core.Tracer):
    return
  counts = np.asarray(table.counts)
  if counts.min() < size:
    raise ValueError(
      f'Class {int(counts.argmin())} has {counts.min()} images, fewer than '
      f'the {size} to be drawn from it without replacement; draw at most '
      f'{counts.min()} a class, or load more images.'
    )


def sample_ipc(key: jax.Array, table: ClassTable, ipc: int) -> jax.Array:
  """Draws `ipc` random images of each class (Alg. 3 lines 3-8, Alg. 4 1-6).

  Args:
    key: random key, consumed.
    table: rows of each class.
    ipc: images per class.

  Returns:
    Rows `[C * ipc]` int32, class by class, without replacement.

  Raises:
    ValueError: naming the class that has fewer than `ipc` images.
  """
  check_counts(table, ipc)
  return random_rows(key, table, ipc).reshape(-1)


def sample_ipc_in_turn(
  key: jax.Array, table: ClassTable, ipc: int
) -> jax.Array:
  """As `sample_ipc`; the images of a class that has too few recur in turn."""
  rows = random_rows(key, table, min(ipc, table.rows.shape[1]))
  columns = jnp.arange(ipc) % table.counts[:, None]
  return jnp.take_along_axis(rows, columns, axis=1).reshape(-1)


def balanced_batch(key: jax.Array, table: ClassTable, size: int) -> jax.Array:
  """Draws a batch of real images with equally many of each class.

  Where C does not divide `size`, the odd images go to classes drawn at random.
  Without replacement, unless a class has fewer images than its share: then its
  images recur, each as often as the others but for one.

  Args:
    key: random key, consumed.
    table: rows of each class.
    size: number of rows.

  Returns:
    Rows `[size]` int32.
  """
  class_key, row_key = jax.random.split(key)
  num_classes, max_count = table.rows.shape
  share = -(-size // num_classes)
  rows = random_rows(row_key, table, min(share, max_count))
  columns = jnp.arange(share) % table.counts[:, None]
  rows = jnp.take_along_axis(rows, columns, axis=1)
  classes = jax.random.permutation(class_key, num_classes)
  # Column by column, so that cutting the end takes the odd images of some
  # random classes only.
  return rows[classes].T.reshape(-1)[:size]
