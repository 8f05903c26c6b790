"""How FRePo, and DC with DSA, train a network on a distilled set."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fsdd_jax.core import augment


@dataclasses.dataclass(frozen=True)
class Training:
  """How a network is trained on a distilled set.

  Attributes:
    num_steps: steps for a set of n images and a batch size.
    max_batch: images a step; smaller sets are taken whole.
    optimizer: makes the optimiser for a learning rate and a number of steps.
    learning_rate: the peer's own, of any architecture.
    targets: what the network shall predict for labels `[n, k]`.
    loss: mean loss of logits and targets, both `[n, k]`.
    augment: random augmentation of `(key, images)`.
  """

  num_steps: Callable[[int, int], int]
  max_batch: int
  optimizer: Callable[[float, int], optax.GradientTransformation]
  targets: Callable[[jax.Array], jax.Array]
  loss: Callable[[jax.Array, jax.Array], jax.Array]
  augment: Callable[[jax.Array, jax.Array], jax.Array]
  learning_rate: float


def frepo_steps(num_images: int, batch_size: int) -> int:
  """FRePo's evaluation length as a rule of |S|.

  It lists 1,000 steps at 10 images, 2,000 at 100, 5,000 at 400 and 500, 10,000
  at 1,000 and 40,000 at 2,000 and 5,000; sizes between take the next larger.
  Its exception for 200 images (20,000) is not followed.
  """
  del batch_size
  for limit, steps in ((10, 1000), (100, 2000), (500, 5000), (1000, 10000)):
    if num_images <= limit:
      return steps
  return 40000


def _frepo_optimizer(
  learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=learning_rate,
    warmup_steps=min(500, num_steps // 2),
    decay_steps=num_steps,
    end_value=learning_rate / 100,
  )
  return optax.adam(schedule)


def _half_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
  return 0.5 * jnp.sum((logits - targets) ** 2, axis=1).mean()


def _dc_steps(num_images: int, batch_size: int) -> int:
  return 1000 * math.ceil(num_images / batch_size)


def _dc_optimizer(
  learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
  rate = optax.piecewise_constant_schedule(
    learning_rate, {num_steps // 2 + 1: 0.1}
  )
  return optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9)
  )


def _hard(labels: jax.Array) -> jax.Array:
  return jax.nn.one_hot(jnp.argmax(labels, axis=1), labels.shape[1])


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy(logits, targets).mean()


@functools.cache
def frepo_training(without: tuple[str, ...] = ()) -> Training:
  """FRePo's `eval.py`: soft labels, squared error, Adam, mild augmentation."""
  operations = augment.select('frepo', without=without)
  return Training(
    num_steps=frepo_steps,
    max_batch=500,
    optimizer=_frepo_optimizer,
    learning_rate=3e-4,
    targets=lambda labels: labels,
    loss=_half_squared_error,
    augment=functools.partial(
      augment.augment, operations=operations, siamese=False
    ),
  )


@functools.cache
def dc_training(without: tuple[str, ...] = ()) -> Training:
  """DC and DSA: hard labels, cross-entropy, SGD, DSA, 1000 epochs."""
  operations = augment.select('dsa', without=without)
  return Training(
    num_steps=_dc_steps,
    max_batch=256,
    optimizer=_dc_optimizer,
    learning_rate=0.01,
    targets=_hard,
    loss=_cross_entropy,
    augment=functools.partial(
      augment.augment, operations=operations, siamese=False
    ),
  )
