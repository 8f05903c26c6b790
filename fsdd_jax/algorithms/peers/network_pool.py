"""A pool of networks that are trained on X_S between its steps.

FRePo and RCIG draw one of them a step, distil in it, train it a little, and
draw it anew after some updates.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.networks import extractors
from fsdd_jax.types import LabeledSet

_MAX_TRAINED = 1000  # Images of X_S in an update of a network, at most (FRePo).


class OnlineNetwork(NamedTuple):
  """A network of the pool, and the state of its optimiser."""

  variables: Any
  opt_state: optax.OptState


class Order(NamedTuple):
  """Which network each step uses, and when it is drawn.

  Attributes:
    places: `[num_steps]` in the pool, drawn at random.
    updates: `[num_steps]` of that network in the step.
    ages: `[num_steps]` its updates before the step.
    generations: `[num_steps]` how often its place was drawn anew before; it is
      drawn before the first step of a generation.
  """

  places: np.ndarray
  updates: np.ndarray
  ages: np.ndarray
  generations: np.ndarray


def pool_order(
  key: jax.Array,
  num_steps: int,
  *,
  pool_size: int,
  max_updates: int,
  most_a_step: int = 1,
) -> Order:
  """Draws which network each step uses, and its updates.

  Args:
    key: consumed.
    num_steps: steps in total.
    pool_size: networks of the pool.
    max_updates: updates after which a network is drawn anew.
    most_a_step: updates a step, drawn from 1 to this.

  Returns:
    The order.
  """
  places = np.asarray(
    jax.random.randint(key, (num_steps,), 0, pool_size, jnp.int32)
  )
  updates = np.ones(num_steps, int)
  if most_a_step > 1:
    key = jax.random.fold_in(key, 1)
    drawn = jax.random.randint(key, (num_steps,), 1, most_a_step + 1, jnp.int32)
    updates = np.asarray(drawn)
  ages, generations = np.zeros((2, num_steps), int)
  age, generation = np.zeros((2, pool_size), int)
  for step, place in enumerate(places):
    if age[place] >= max_updates:
      age[place], generation[place] = 0, generation[place] + 1
    ages[step], generations[step] = age[place], generation[place]
    age[place] += updates[step]
  return Order(places, updates, ages, generations)


def label_margin(labels: jax.Array, limit: float | None = None) -> jax.Array:
  """How far the largest label is above the second, up to a limit; the mean.

  A loss that has less of it keeps learned labels from losing their class.

  Args:
    labels: `[n, k]`.
    limit: 1 / k by default (FRePo); RCIG has half of it.

  Returns:
    `[]`.
  """
  if limit is None:
    limit = 1.0 / labels.shape[1]
  top = jax.lax.top_k(labels, 2)[0]
  return jnp.minimum(top[:, 0] - top[:, 1], limit).mean()


def with_mirror_images(labeled: LabeledSet) -> LabeledSet:
  """A set and its images flipped left to right, `[2 n, ...]`."""
  flipped = dataclasses.replace(labeled, images=labeled.images[:, :, ::-1])
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), labeled, flipped)


def training_step(
  network: nn.Module, tx: optax.GradientTransformation
) -> Callable[[OnlineNetwork, LabeledSet, jax.Array], OnlineNetwork]:
  """Builds the update of a network of the pool on X_S; to be compiled.

  Args:
    network: returns logits and features.
    tx: of its parameters.

  Returns:
    `train(online, labeled, step)`: half the squared error of the logits, on a
    thousand images at most, drawn by the number of the step.
  """

  def loss_fn(
    params: Any, variables: Any, batch: LabeledSet
  ) -> tuple[jax.Array, Any]:
    found, changed = network.apply(
      {**variables, 'params': params},
      batch.images,
      train=True,
      mutable=['batch_stats'],
    )
    logits, _ = extractors.outputs(
      found, batch.images, num_classes=batch.labels.shape[1]
    )
    loss = 0.5 * jnp.sum((logits - batch.labels) ** 2, axis=1).mean()
    return loss, changed  # Running statistics, where it has some.

  def train(
    online: OnlineNetwork, labeled: LabeledSet, step: jax.Array
  ) -> OnlineNetwork:
    if len(labeled.images) > _MAX_TRAINED:
      key = jax.random.fold_in(jax.random.key(0), step)
      rows = jax.random.permutation(key, len(labeled.images))[:_MAX_TRAINED]
      labeled = jax.tree.map(lambda x: x[rows], labeled)
    variables, params = online.variables, online.variables['params']
    gradient, changed = jax.grad(loss_fn, has_aux=True)(
      params, variables, labeled
    )
    updates, opt_state = tx.update(gradient, online.opt_state, params)
    params = optax.apply_updates(params, updates)
    variables = {**variables, **changed, 'params': params}
    return OnlineNetwork(variables, opt_state)

  return train
