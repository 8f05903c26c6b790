import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.networks import random_networks
from fsdd_jax.types import LabeledSet

IMAGE_SHAPE = (4, 4, 1)


class TinyNet(nn.Module):
  """One convolution; keeps the network contract `(logits, features)`."""

  batch_norm: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Conv(2, (3, 3), use_bias=False)(images)
    if self.batch_norm:
      x = nn.BatchNorm(use_running_average=not train)(x)
    features = nn.relu(x).reshape(len(x), -1)
    return features[:, :3], features


def normal(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def make_batch(size, n=3):
  """Networks, sets and targets by NumPy: JAX compiles each draw anew."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    TinyNet().init, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE))
  )
  variables = jax.tree.map(lambda s: normal(rng, size, *s.shape), shapes)
  sets = LabeledSet(
    normal(rng, size, n, *IMAGE_SHAPE),
    normal(rng, size, n, 2),
    np.ones((size, n), np.float32),
  )
  targets = {'features': normal(rng, size, 5, 32), 'shift': normal(rng, size)}
  return variables, sets, targets


def loss_fn(variables, labeled, target):
  _, features = TinyNet().apply(variables, labeled.images)
  kernel = target['features'] @ features.T
  error = kernel @ (labeled.labels * labeled.mask[:, None]) - target['shift']
  return jnp.mean(error**2)


@functools.partial(jax.jit, static_argnames='networks_per_call')
def run(variables, sets, targets, networks_per_call=1):
  return random_networks.losses_and_gradients(
    loss_fn, variables, sets, targets, networks_per_call=networks_per_call
  )


@pytest.mark.parametrize('networks_per_call', [1, 2, 4])
def test_equals_one_network_at_a_time(networks_per_call):
  variables, sets, targets = make_batch(4)
  losses, gradients = run(variables, sets, targets, networks_per_call)
  assert losses.shape == (4,)
  assert gradients.shape == sets.images.shape

  @jax.jit
  @jax.value_and_grad
  def expected(images, variables, labeled, target):
    return loss_fn(variables, labeled.replace(images=images), target)

  for i in range(4):
    one = jax.tree.map(lambda x, i=i: x[i], (variables, sets, targets))
    loss, gradient = expected(one[1].images, *one)
    np.testing.assert_allclose(losses[i], loss, rtol=1e-4)
    np.testing.assert_allclose(
      gradients[i], gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max()
    )


def test_a_network_sees_only_its_own_set_and_target():
  variables, sets, targets = make_batch(2)
  _, before = run(variables, sets, targets)
  targets['shift'] = targets['shift'] + np.array([0.0, 1.0], np.float32)
  _, after = run(variables, sets, targets)
  np.testing.assert_array_equal(before[0], after[0])
  assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.parametrize('networks_per_call', [0, 3, 8])
def test_indivisible_batch_is_refused(networks_per_call):
  with pytest.raises(ValueError, match=r'the 4 networks .* \[1, 2, 4\]'):
    run(*make_batch(4), networks_per_call)


def test_different_leading_axes_are_refused():
  variables, sets, _ = make_batch(4)
  _, _, targets = make_batch(2)
  with pytest.raises(ValueError, match=r'one leading axis .*\[2, 4\]'):
    run(variables, sets, targets)
  with pytest.raises(ValueError, match='None'):
    run(variables, sets, jnp.zeros(()))


@pytest.fixture(scope='module')
def drawn():
  keys = jax.random.split(jax.random.key(0), 3)
  network = TinyNet(batch_norm=True)
  return keys, random_networks.sample_many(keys, network, IMAGE_SHAPE)


def test_sample_many_draws_the_network_of_each_key(drawn):
  keys, stack = drawn
  for i in range(3):
    # A list, as of a JSON file, does as well.
    one = random_networks.sample(
      keys[i], TinyNet(batch_norm=True), list(IMAGE_SHAPE)
    )
    jax.tree.map(
      lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-6),
      stack,
      one,
    )


def test_samples_are_different_whole_and_usable(drawn):
  _, stack = drawn
  assert set(stack) == {'params', 'batch_stats'}
  kernels = stack['params']['Conv_0']['kernel']
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-2
  logits, features = TinyNet(batch_norm=True).apply(
    jax.tree.map(lambda x: x[1], stack), jnp.ones((2, *IMAGE_SHAPE))
  )
  assert logits.shape == (2, 3)
  assert np.isfinite(features).all()


def test_equal_modules_share_one_compiled_function(drawn):
  keys, _ = drawn
  random_networks.sample_many(keys, TinyNet(batch_norm=True), IMAGE_SHAPE)
  compiled = random_networks._sample_many._cache_size()
  random_networks.sample_many(keys[::-1], TinyNet(batch_norm=True), [4, 4, 1])
  assert random_networks._sample_many._cache_size() == compiled
