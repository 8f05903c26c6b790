"""Several sets distilled side by side in one network (Alg. 1, lines 10-18).

Their images pass the network as one larger batch. All sets are padded to one
size, and their images without the padding are packed to one of few sizes, so
that few compiled functions serve any number of classes and images a class.
`b` denotes the sets, `n` the padded images of each.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms import distillation
from fsdd_jax.algorithms.drawn_subsets import Draws
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.core import jitter, krr, krr_errors
from fsdd_jax.core.losses import FeatureFn
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.runtime import residence
from fsdd_jax.types import LabeledSet, Subset

State = tuple[LabeledSet, optax.OptState]
# The loss of a subset: of features, labels, mask and target.
SubsetLoss = Callable[..., jax.Array]
# Losses of all subsets, of what they take, and a target for each.
Regressions = Callable[..., jax.Array]

# Sizes of packed images, each compiled when it first occurs: more of them are
# less padding. The sum of several random sizes falls on two or three of eight.
_NUM_PACKED_SIZES = 8


@functools.cache  # The same object, as another would compile anew.
def optimizer(config: CachingConfig) -> optax.GradientTransformation:
  """The optimiser of the images and labels of one set."""
  return distillation.optimizer(config, config.num_steps)


@functools.partial(jax.jit, static_argnames='tx')
def init_state(
  images: jax.Array,
  normalization: Normalization,
  initial: Subset,
  *,
  tx: optax.GradientTransformation,
) -> State:
  """X_S and Y_S of each subset before the first step (Alg. 1, line 10).

  Args:
    images: `[b, n, h, w, c]` uint8.
    normalization: how they become network inputs.
    initial: labels and masks of the sets.
    tx: the optimiser of each set; the same object at each call.

  Returns:
    The state that `step` takes.
  """
  flat = normalize(images.reshape(-1, *images.shape[2:]), normalization)
  x = flat.reshape(images.shape) * initial.mask[..., None, None, None]
  # Copies, as the first step donates its state.
  synthetic = jax.tree.map(
    jnp.copy, LabeledSet(x, initial.labels, initial.mask)
  )
  return synthetic, jax.vmap(tx.init)(_trainable(synthetic))


def _trainable(synthetic: LabeledSet) -> dict[str, jax.Array]:
  return {'images': synthetic.images, 'labels': synthetic.labels}


def one_after_another(
  loss_of: SubsetLoss,
  stacked: tuple[jax.Array, ...],
  targets: list[krr_errors.Target],
) -> jax.Array:
  """Losses of subsets whose regressions are unrolled.

  With `jax.vmap`, batched LAPACK calls of jaxlib 0.10 wait for threads of the
  very pool that they occupy, and two at once block a machine of two cores for
  ever.

  Args:
    loss_of: of features, labels, mask and target of a subset.
    stacked: features, labels and masks, all `[b, n, ...]`.
    targets: of the subsets.

  Returns:
    `[b]`.
  """
  each = zip(*stacked, targets, strict=True)
  return jnp.stack([loss_of(*own) for own in each])


def side_by_side(
  loss_of: SubsetLoss,
  stacked: tuple[jax.Array, ...],
  targets: list[krr_errors.Target],
) -> jax.Array:
  """As `one_after_another`, in few large calls, as accelerators like them."""
  joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *targets)
  return jax.vmap(loss_of)(*stacked, joined)


def _suited() -> Regressions:
  """What suits the device at hand."""
  return one_after_another if residence.is_cpu() else side_by_side


@functools.partial(
  jax.jit,
  static_argnames=('features_of', 'tx', 'loss', 'ridge', 'moves'),
  donate_argnums=0,
)
def step(
  state: State,
  variables: Any,
  targets: list[krr_errors.Target],
  rows: jax.Array,
  keys: jax.Array | None,
  *,
  features_of: FeatureFn,
  tx: optax.GradientTransformation,
  loss: str,
  ridge: float,
  moves: tuple[str, ...] = (),
) -> tuple[State, jax.Array]:
  """Updates all X_S and Y_S of a batch (Alg. 1, lines 15-18).

  Args:
    state: of `init_state` or the step before; it is donated.
    variables: theta.
    targets: what each of the sets is scored against (line 16).
    rows: of `packed_rows`.
    keys: of `image_keys`, for `moves`; None if images stay.
    features_of: the feature map f.
    tx: see `init_state`.
    loss: a name in `krr_errors.ERRORS`.
    ridge: see `krr.solve`.
    moves: names in `jitter.MOVES`.

  Returns:
    The state, and the losses `[b]` before the update.
  """
  synthetic, opt_state = state
  sizes = synthetic.mask.shape

  def subset_loss(
    features: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    target: krr_errors.Target,
  ) -> jax.Array:
    weights = krr.solve(features, labels, ridge=ridge, mask=mask)
    return krr_errors.error_on(loss, weights, target)

  def total_loss(trainable: dict[str, jax.Array]) -> tuple:
    images = trainable['images']
    flat = images.reshape(-1, *images.shape[2:])
    packed = flat.at[rows].get(mode='fill')
    if keys is not None:
      packed = jitter.move(keys.at[rows].get(mode='clip'), packed, moves)
    packed = features_of(variables, packed)
    features = jnp.zeros((len(flat), packed.shape[-1]), packed.dtype)
    features = features.at[rows].set(packed, mode='drop').reshape(*sizes, -1)
    stacked = features, trainable['labels'], synthetic.mask
    losses = _suited()(subset_loss, stacked, targets)
    return losses.sum(), losses

  trainable = _trainable(synthetic)
  gradient, losses = jax.grad(total_loss, has_aux=True)(trainable)
  # An optimiser for each subset, as some (LAMB) look at norms of the whole.
  updates, opt_state = jax.vmap(tx.update)(gradient, opt_state, trainable)
  norms = jax.vmap(optax.tree.norm)(gradient)
  losses = jnp.where(jnp.isfinite(norms), losses, jnp.nan)
  changed = optax.apply_updates(trainable, updates)
  return (dataclasses.replace(synthetic, **changed), opt_state), losses


@functools.partial(jax.jit, static_argnums=2)
def image_keys(keys: jax.Array, number: int, count: int) -> jax.Array:
  """Keys of the images of some sets at a step.

  Args:
    keys: `[b]` of the sets.
    number: of the step, from 0.
    count: n images of each.

  Returns:
    `[b * n]` keys.
  """

  def of_set(key: jax.Array) -> jax.Array:
    # The key itself, folded with the step, augments the target images.
    own = jax.random.fold_in(jax.random.split(key)[1], number)
    return jitter.row_keys(own, count)

  return jax.vmap(of_set)(keys).reshape(-1)


def packed_rows(mask: np.ndarray) -> np.ndarray:
  """Rows that are no padding, filled up to one of few sizes.

  Args:
    mask: 1 for rows in use and 0 for padding, of any shape; at least one 1.

  Returns:
    `[r]` int32 indices into the flattened mask, then its size, which is none of
    them, until r is a multiple of an eighth of the size, rounded up.
  """
  rows = np.flatnonzero(mask)
  part = -(-mask.size // _NUM_PACKED_SIZES)
  missing = min(-len(rows) % part, mask.size - len(rows))
  return np.pad(rows, (0, missing), constant_values=mask.size).astype(np.int32)


def check_finite(curves: np.ndarray, draws: Draws) -> None:
  """Stops at the first loss `[steps, b]` that is not finite."""
  bad = np.argwhere(~np.isfinite(curves))
  if len(bad):
    step, i = bad[0]
    raise FloatingPointError(
      f'Subset {draws.numbers[i]} (C = {draws.num_classes[i]} classes, I = '
      f'{draws.ipc[i]} images a class): loss or gradient of step {step + 1} is '
      'not finite. Try a smaller learning rate or a larger ridge, in a new '
      'folder; files written before are intact.'
    )
