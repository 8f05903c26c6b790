"""Norms and pooling against plain formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.networks import layers


def test_instance_norm_is_affine_and_per_image_and_channel():
  x = 5 + 3 * np.random.default_rng(1).normal(size=(2, 4, 5, 3))
  scale, bias = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, -1.0])
  mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
  expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
  params = {'params': {'scale': scale, 'bias': bias}}
  params = jax.tree.map(jnp.float32, params)
  actual = layers.InstanceNorm().apply(params, jnp.float32(x))
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_instance_norm_keeps_precision_far_from_zero():
  x = 1000 + np.random.default_rng(1).normal(size=(1, 8, 8, 2))
  x = np.float32(x)
  params = {'params': {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}}
  actual = layers.InstanceNorm().apply(params, jnp.asarray(x))
  exact = x.astype(np.float64)
  exact = (exact - exact.mean((1, 2))) / np.sqrt(exact.var((1, 2)) + 1e-5)
  np.testing.assert_allclose(actual, exact, atol=1e-3)


def test_max_pool():
  images = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
  expected = nn.max_pool(images, (2, 2), (2, 2))
  np.testing.assert_array_equal(layers.max_pool(images), expected)


@pytest.mark.parametrize(
  ('size', 'multiple', 'padded'),
  [((28, 28), 8, (32, 32)), ((32, 64), 32, (32, 64)), ((7, 3), 4, (8, 4))],
)
def test_padding_reaches_the_next_multiple_and_adds_zeros(
  size, multiple, padded
):
  images = jnp.ones((2, *size, 3))
  out = layers.pad_to_multiple(images, multiple)
  assert out.shape == (2, *padded, 3)
  top = (padded[0] - size[0]) // 2
  left = (padded[1] - size[1]) // 2
  inside = out[:, top : top + size[0], left : left + size[1]]
  np.testing.assert_array_equal(inside, images)
  assert out.sum() == images.sum()
