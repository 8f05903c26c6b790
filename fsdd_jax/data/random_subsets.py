"""Random subsets of a large set (Alg. 1, lines 3-12), with static shapes.

What to draw varies (C classes, I distilled images a class); the shapes do not:
each draw is padded and masked, so that one compiled function serves all of
them. It may run under `jax.jit`, and under `jax.vmap` over keys.
"""

import flax.struct
import jax
import jax.numpy as jnp

from fsdd_jax import types
from fsdd_jax.data import subsets


def check_ranges(
  table: subsets.ClassTable,
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
  subsets.check_counts(table, (max_images or max_synthetic) // min_classes)


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
  table: subsets.ClassTable,
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
    coding: label coding, one of `types.LABEL_CODINGS`; see `class_labels`.
    allowed: `[k]` bool, the classes to draw from, at least `min_classes`; all
      by default. C is at most their number.

  Returns:
    The draw.

  Raises:
    ValueError: if the ranges do not fit each other or the data set.
  """
  check_ranges(
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
  drawn = subsets.ClassTable(table.rows[chosen], table.counts[chosen])
  rows = subsets.random_rows(
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
