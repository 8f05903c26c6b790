"""Padded, masked sets of labelled images: what every stage passes on.

`n` denotes the (padded) number of images, `m` the number of rows of a data
set that a subset draws, `k` the number of label columns.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class LabeledSet:
  """A distilled set or a batch of target images.

  Attributes:
    images: `[n, h, w, c]` normalised pixels, float32.
    labels: `[n, k]` label vectors, float32; coded by one of `LABEL_CODINGS`
      or learned.
    mask: `[n]` float32, 1 for an image and 0 for padding.
    start: `[n, h, w, c]` the images that distillation began with, for a
      translator that sees them; None where they are not known.

  Example:
    >>> import jax.numpy as jnp
    >>> labeled = LabeledSet(
    ...   images=jnp.zeros((2, 8, 8, 3)), labels=jnp.eye(2), mask=jnp.ones(2)
    ... )
    >>> labeled.replace(labels=labeled.labels - 0.5).labels.tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
  """

  images: jax.Array  # [n, h, w, c]
  labels: jax.Array  # [n, k]
  mask: jax.Array  # [n]
  start: jax.Array | None = None  # [n, h, w, c]


# A loss of a network's variables, a distilled set, and a target; a scalar.
LossFn = Callable[[Any, LabeledSet, Any], jax.Array]


@flax.struct.dataclass
class Subset:
  """Rows drawn from a data set, with their labels within the draw.

  Attributes:
    rows: `[m]` int32 indices into the data set; 0 where padded.
    labels: `[m, k]` float32 label vectors; 0 where padded.
    mask: `[m]` float32, 1 for a drawn row and 0 for padding.

  Example:
    >>> import jax.numpy as jnp
    >>> drawn = Subset(jnp.array([7, 3]), jnp.eye(2), jnp.ones(2))
    >>> jnp.arange(10)[drawn.rows].tolist()
    [7, 3]
  """

  rows: jax.Array  # [m]
  labels: jax.Array  # [m, k]
  mask: jax.Array  # [m]


def labeled_set(images: jax.Array, labels: jax.Array) -> LabeledSet:
  """Wraps `[n, h, w, c]` images and `[n, k]` labels that hold no padding.

  Example:
    >>> import jax.numpy as jnp
    >>> labeled_set(jnp.zeros((2, 8, 8, 3)), jnp.eye(2)).mask.tolist()
    [1.0, 1.0]
  """
  if images.ndim != 4 or labels.ndim != 2 or len(images) != len(labels):
    raise ValueError(
      'A labelled set needs images [n, h, w, c] and labels [n, k] with the '
      f'same n; got {images.shape} and {labels.shape}.'
    )
  return LabeledSet(images, labels, jnp.ones(len(images), jnp.float32))


def pad(labeled: LabeledSet, size: int) -> LabeledSet:
  """Appends zero images, zero labels and a zero mask up to `size` rows.

  Args:
    labeled: a set of n images.
    size: the new number of rows, at least n.

  Returns:
    The same set with `size` rows.

  Raises:
    ValueError: if `size` is below n.

  Example:
    >>> import jax.numpy as jnp
    >>> two = labeled_set(jnp.zeros((2, 8, 8, 3)), jnp.eye(2))
    >>> pad(two, 4).mask.tolist()
    [1.0, 1.0, 0.0, 0.0]
  """
  missing = size - len(labeled.mask)
  if missing < 0:
    raise ValueError(
      f'Cannot pad {len(labeled.mask)} images to {size}; ask for at least '
      f'{len(labeled.mask)}.'
    )

  def append_zeros(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))

  return jax.tree.map(append_zeros, labeled)


def unpad(labeled: LabeledSet) -> LabeledSet:
  """Drops padded rows; concrete arrays only, as the result's size varies.

  Example:
    >>> import jax.numpy as jnp
    >>> two = labeled_set(jnp.zeros((2, 8, 8, 3)), jnp.eye(2))
    >>> unpad(pad(two, 4)).images.shape
    (2, 8, 8, 3)
  """
  keep = labeled.mask > 0
  return jax.tree.map(lambda x: x[keep], labeled)


def one_hot(classes: jax.Array, num_classes: int) -> jax.Array:
  """One-hot labels `[n, k]`, the literal coding of Alg. 1, line 9.

  Example:
    >>> import jax.numpy as jnp
    >>> one_hot(jnp.array([1, 0]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
  """
  return jax.nn.one_hot(classes, num_classes, dtype=jnp.float32)


def centered_one_hot(classes: jax.Array, num_classes: int) -> jax.Array:
  """One-hot minus 1/k, `[n, k]`: every row sums to zero.

  The regression has no intercept, and all KRR methods of the field (KIP,
  FRePo, RFAD, RCIG) centre their labels so; it is this library's default.

  Example:
    >>> import jax.numpy as jnp
    >>> centered_one_hot(jnp.array([1, 0]), 4).tolist()
    [[-0.25, 0.75, -0.25, -0.25], [0.75, -0.25, -0.25, -0.25]]
  """
  return one_hot(classes, num_classes) - 1.0 / num_classes


LabelCoding = Callable[[jax.Array, int], jax.Array]

LABEL_CODINGS: dict[str, LabelCoding] = {
  'centered': centered_one_hot,
  'onehot': one_hot,
}
