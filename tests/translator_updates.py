"""A tiny translator, its networks and sets, for tests of its updates."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.core import params_step, translator_step
from fsdd_jax.networks.translator import Translator
from fsdd_jax.types import LabeledSet

SIZE, ROWS, IMAGE_SHAPE = 4, 3, (4, 4, 1)
TRANSLATOR = Translator(width=2, num_blocks=1)


class TinyNet(nn.Module):
  """One convolution; keeps the network contract `(logits, features)`."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.relu(nn.Conv(2, (3, 3))(images))
    return x.mean((1, 2)), x.reshape(len(x), -1)


def ridge_loss(variables, labeled, target):
  """A small kernel ridge regression, padded rows left out by the mask."""
  features = TinyNet().apply(variables, labeled.images)[1]
  features = features * labeled.mask[:, None]
  labels = labeled.labels * labeled.mask[:, None]
  diagonal = jnp.diag(0.1 * labeled.mask + (1.0 - labeled.mask))
  weights = jnp.linalg.solve(features @ features.T + diagonal, labels)
  images, wanted = target
  predicted = TinyNet().apply(variables, images)[1] @ features.T @ weights
  return jnp.mean((predicted - wanted) ** 2)


def fill(rng, module, *leading):
  """Variables by NumPy: JAX compiles each random draw anew."""
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE))
  )
  return jax.tree.map(
    lambda s: normal(rng, *leading, *s.shape, scale=0.3), shapes
  )


def normal(rng, *shape, scale=1.0):
  return (scale * rng.normal(size=shape)).astype(np.float32)


def make_batch(padding=0):
  rng = np.random.default_rng(0)
  variables = fill(rng, TinyNet(), SIZE)
  sets = LabeledSet(
    normal(rng, SIZE, ROWS, *IMAGE_SHAPE),
    normal(rng, SIZE, ROWS, 2),
    np.ones((SIZE, ROWS), np.float32),
  )
  targets = normal(rng, SIZE, 5, *IMAGE_SHAPE), normal(rng, SIZE, 5, 2)
  sets = jax.tree.map(
    lambda x: np.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)), sets
  )
  return variables, sets, targets


def make_state(tx):
  params = fill(np.random.default_rng(1), TRANSLATOR)['params']
  params = jax.tree.map(jnp.asarray, params)
  step = jnp.zeros((), jnp.int32)
  return params_step.ParamsState(step, params, tx.init(params))


def assert_trees_close(actual, desired, rtol=1e-4):
  scale = max(np.abs(x).max() for x in jax.tree.leaves(desired))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-5 * scale),
    actual,
    desired,
  )


@functools.cache
def sgd_step(networks_per_call):
  return translator_step.make_step(
    TRANSLATOR, ridge_loss, optax.sgd(1.0), networks_per_call=networks_per_call
  )
