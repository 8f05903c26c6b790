"""Random draws of classes and images with static shapes.

What to draw varies (C classes, I distilled images a class); the shapes do not:
every draw is padded and masked, so that one compiled function serves all of
them. All draws are class by class and without replacement, and may run under
`jax.jit`, and under `jax.vmap` over keys.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax import types


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


def gather(images: jax.Array, rows: jax.Array) -> jax.Array:
  """Images `[..., h, w, c]` at rows `[...]` of a data set `[n, h, w, c]`."""
  return images[rows]


def _random_rows(key: jax.Array, table: ClassTable, size: int) -> jax.Array:
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
  return _random_rows(key, table, ipc).reshape(-1)


def sample_ipc_in_turn(
  key: jax.Array, table: ClassTable, ipc: int
) -> jax.Array:
  """As `sample_ipc`; the images of a class that has too few recur in turn."""
  rows = _random_rows(key, table, min(ipc, table.rows.shape[1]))
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
  rows = _random_rows(row_key, table, min(share, max_count))
  columns = jnp.arange(share) % table.counts[:, None]
  rows = jnp.take_along_axis(rows, columns, axis=1)
  classes = jax.random.permutation(class_key, num_classes)
  # Column by column, so that cutting the end takes the odd images of some
  # random classes only.
  return rows[classes].T.reshape(-1)[:size]


def check_subset_ranges(
  table: ClassTable,
  *,
  min_classes: int,
  max_classes: int,
  max_images: int,
  max_synthetic: int,
) -> None:
  """Makes sure, on the host, that `sample_subset` can draw what is asked.

  Args:
    table: rows of each class.
    min_classes: smallest number of classes C_min.
    max_classes: largest number of classes C_max.
    max_images: largest number of target images M; 0: all of the classes.
    max_synthetic: largest number of synthetic images I_max.

  Raises:
    ValueError: naming the limit that is broken and how to mend it.
  """
  num_classes = table.rows.shape[0]
  if not 1 <= min_classes <= max_classes <= num_classes:
    raise ValueError(
      f'Need 1 <= min_classes <= max_classes <= {num_classes}, the number of '
      f'classes of the data set; got {min_classes} and {max_classes}.'
    )
  if not max_classes <= max_synthetic <= (max_images or max_synthetic):
    raise ValueError(
      'Need max_classes <= max_synthetic <= max_images, so that each class '
      'has an image and synthetic images start from target images; got '
      f'{max_classes}, {max_synthetic} and {max_images}. With max_images = 0 '
      'all images of the classes are target images.'
    )
  check_counts(table, (max_images or max_synthetic) // min_classes)


def class_labels(
  num_classes: int | jax.Array, num_labels: int, coding: types.LabelCoding
) -> jax.Array:
  """Label vectors `[k, k]` of the classes of a subset, zero where unused.

  The coding has a static number k of columns, a subset has C of them. What
  falls on unused columns is spread over the used ones: centred labels are then
  centred with the actual C, and one-hot labels stay as they are.

  Args:
    num_classes: C, at most k; may be traced.
    num_labels: k.
    coding: one of `types.LABEL_CODINGS`.

  Returns:
    Row c is the label vector of class c.
  """
  labels = coding(jnp.arange(num_labels), num_labels)
  used = jnp.arange(num_labels) < num_classes
  shift = jnp.sum(labels * ~used, axis=1, keepdims=True) / num_classes
  return ((labels + shift) * used * used[:, None]).astype(jnp.float32)


def _subset(
  rows: jax.Array,
  per_class: jax.Array,
  num_classes: jax.Array,
  *,
  size: int,
  num_labels: int,
  coding: types.LabelCoding,
) -> types.Subset:
  """The first `per_class` of each of the first `num_classes` rows, padded."""
  places = jnp.arange(size)
  mask = places < num_classes * per_class
  classes = jnp.where(mask, places // per_class, 0)
  columns = jnp.where(mask, places % per_class, 0)
  labels = class_labels(num_classes, num_labels, coding)[classes]
  return types.Subset(
    rows=jnp.where(mask, rows[classes, columns], 0),
    labels=labels * mask[:, None],
    mask=mask.astype(jnp.float32),
  )


@flax.struct.dataclass
class DrawnSubset:
  """What `sample_subset` draws.

  Attributes:
    target: rows of X_T, `[M, ...]`; no row where X_T is all images of the
      classes.
    initial: rows that X_S starts from, `[I_max, ...]`.
    classes: `[C_max]` int32, the data set's number of each class; -1 where
      unused.
    num_classes: `[]` int32, C.
    ipc: `[]` int32, I.
  """

  target: types.Subset
  initial: types.Subset
  classes: jax.Array  # [C_max]
  num_classes: jax.Array  # []
  ipc: jax.Array  # []


def sample_subset(
  key: jax.Array,
  table: ClassTable,
  *,
  min_classes: int,
  max_classes: int,
  max_images: int,
  max_synthetic: int,
  coding: types.LabelCoding = types.centered_one_hot,
  allowed: jax.Array | None = None,
) -> DrawnSubset:
  """Draws target and synthetic rows of one subset (Alg. 1, lines 3-12).

  C is uniform in [min_classes, max_classes], I uniform in
  [1, floor(max_synthetic / C)]. The target set has floor(max_images / C) random
  images of each of C random classes; the synthetic set starts as the first I
  of them. Used rows come first, class by class.

  Args:
    key: random key, consumed.
    table: rows of each class of the large data set.
    min_classes: smallest number of classes C_min.
    max_classes: largest number of classes C_max, the number of label columns.
    max_images: largest number of target images M, the rows of the target set;
      0: all images of the classes, which no row lists.
    max_synthetic: largest number of synthetic images I_max, the rows of the
      synthetic set.
    coding: label coding, one of `types.LABEL_CODINGS`, as of `class_labels`.
    allowed: `[k]` bool, the classes to draw from, at least `min_classes`; all
      by default. C is at most their number.

  Returns:
    The draw.

  Raises:
    ValueError: if the ranges do not fit each other or the data set.
  """
  check_subset_ranges(
    table,
    min_classes=min_classes,
    max_classes=max_classes,
    max_images=max_images,
    max_synthetic=max_synthetic,
  )
  count_key, class_key, ipc_key, row_key = jax.random.split(key, 4)
  if allowed is None:
    allowed = jnp.ones(len(table.counts), bool)
  fewest = jnp.minimum(max_classes, allowed.sum())
  num_classes = jax.random.randint(
    count_key, (), min_classes, fewest + 1, jnp.int32
  )
  noise = jax.random.uniform(class_key, allowed.shape, jnp.float32)
  _, chosen = jax.lax.top_k(jnp.where(allowed, noise, -1.0), max_classes)
  most = max_synthetic // num_classes
  ipc = jax.random.randint(ipc_key, (), 1, most + 1, jnp.int32)
  drawn = ClassTable(table.rows[chosen], table.counts[chosen])
  rows = _random_rows(
    row_key, drawn, (max_images or max_synthetic) // min_classes
  )

  def subset(per_class: jax.Array, size: int) -> types.Subset:
    return _subset(
      rows,
      per_class,
      num_classes,
      size=size,
      num_labels=max_classes,
      coding=coding,
    )

  return DrawnSubset(
    target=subset(max_images // num_classes, max_images),
    initial=subset(ipc, max_synthetic),
    classes=jnp.where(jnp.arange(max_classes) < num_classes, chosen, -1),
    num_classes=num_classes,
    ipc=ipc,
  )
