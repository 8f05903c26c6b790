"""Shapes, distributions and invariances of the feature extractors."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.networks import extractors, layers

KEY = jax.random.key(0)
NAMES = ('convnet', 'alexnet', 'vgg11', 'resnet18')
IMAGES = jnp.asarray(
  np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32
)


def small(**fields):
  return extractors.ConvNet(**{'width': 8, 'depth': 2, **fields})


def drawn(network, images=IMAGES, key=KEY):
  return jax.jit(network.init)(key, images)


def shapes(network, image_shape):
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  variables = jax.eval_shape(network.init, KEY, images)
  logits, features = jax.eval_shape(network.apply, variables, images)
  assert logits.dtype == features.dtype == jnp.float32
  return jax.tree.map(jnp.shape, variables), logits.shape, features.shape


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [28, 32, 64, 128])
def test_shapes(name, size, channels):
  network = extractors.make(
    name, image_shape=(size, size, channels), num_classes=7
  )
  _, logits, features = shapes(network, (size, size, channels))
  side = max(size, 32) // 32
  d = {
    'convnet': 2048,  # One block more for twice the resolution.
    'alexnet': 192 * (4 * side) ** 2,
    'vgg11': 512 * side**2,
    'resnet18': 512,
  }[name]
  assert logits == (2, 7)
  assert features == (2, d)


@pytest.mark.parametrize('norm', ['instance', 'batch'])
@pytest.mark.parametrize('name', NAMES)
def test_norms_fit_every_network(name, norm):
  network = extractors.make(
    name, image_shape=(32, 32, 1), num_classes=3, norm=norm
  )
  variables, logits, _ = shapes(network, (32, 32, 1))
  assert logits == (2, 3)
  assert ('batch_stats' in variables) == (norm == 'batch')


def test_doubling_widths_give_frepo_features():
  network = extractors.ConvNet(width_multiplier=2)
  variables, _, features = shapes(network, (32, 32, 3))
  assert features == (2, 512 * 4 * 4)
  assert variables['params']['Conv_2']['kernel'] == (3, 3, 256, 512)


@pytest.mark.parametrize(
  ('size', 'depth'),
  [(4, 1), (8, 1), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5), (224, 6)],
)
def test_depth_follows_the_resolution(size, depth):
  assert extractors.depth_for(size) == depth
  network = extractors.make(
    'convnet', image_shape=(size, size, 3), num_classes=2
  )
  assert network.depth == depth


def test_make_passes_fields_on():
  network = extractors.make(
    'convnet', image_shape=(64, 64, 1), num_classes=5, depth=2, norm='none'
  )
  assert network == extractors.ConvNet(num_classes=5, depth=2, norm='none')


def test_28_pixels_are_padded_by_2_on_each_side():
  network = extractors.ConvNet(width=4)
  images = jax.random.normal(KEY, (2, 28, 28, 1))
  variables = drawn(network, images)
  padded = jnp.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
  np.testing.assert_array_equal(
    network.apply(variables, images)[1], network.apply(variables, padded)[1]
  )


def test_describe_names_class_and_fields():
  text = extractors.describe(extractors.ConvNet(num_classes=3, width=16))
  assert text.startswith('ConvNet(')
  assert 'width=16' in text
  assert 'depth=3' in text


def test_oblong_images_and_odd_sides():
  _, _, features = shapes(extractors.ConvNet(width=4), (30, 41, 2))
  assert features == (2, 4 * 4 * 6)


def test_convnet_against_float64():
  network = small(norm='instance')
  variables = drawn(network)
  x = np.asarray(IMAGES, np.float64)
  for block in range(2):
    weights = {
      kind: {
        name: np.asarray(value, np.float64)
        for name, value in variables['params'][f'{kind}_{block}'].items()
      }
      for kind in ('Conv', 'InstanceNorm')
    }
    kernel, h, w = weights['Conv']['kernel'], x.shape[1], x.shape[2]
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    x = weights['Conv']['bias'] + sum(
      padded[:, i : i + h, j : j + w] @ kernel[i, j]
      for i in range(3)
      for j in range(3)
    )
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    x = (x - mean) / np.sqrt(var + 1e-5)
    x = x * weights['InstanceNorm']['scale'] + weights['InstanceNorm']['bias']
    x = np.maximum(x, 0)
    x = x.reshape(len(x), h // 2, 2, w // 2, 2, -1).mean((2, 4))
  features = x.reshape(len(x), -1)
  classifier = variables['params']['classifier']
  logits = features @ np.asarray(classifier['kernel'], np.float64)
  actual = jax.jit(network.apply)(variables, IMAGES)
  np.testing.assert_allclose(actual[1], features, atol=2e-5)
  np.testing.assert_allclose(actual[0], logits + classifier['bias'], atol=2e-5)


@pytest.mark.parametrize('name', ['convnet', 'resnet18'])
def test_pytorch_initialization_is_uniform_by_fan_in(name):
  network = extractors.make(name, image_shape=(32, 32, 3), num_classes=10)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params = network.lazy_init(KEY, images)['params']
  layer_names = [n for n in params if n.startswith(('Conv', 'classifier'))]
  assert len(layer_names) == {'convnet': 4, 'resnet18': 21}[name]
  for layer_name in layer_names:
    kernel = np.asarray(params[layer_name]['kernel'], np.float64)
    bound = 1 / math.sqrt(math.prod(kernel.shape[:-1]))
    for x in map(np.asarray, params[layer_name].values()):
      assert np.abs(x).max() <= bound
      # Extremes of m draws come within about bound / m of the bound.
      assert np.abs(x).max() > bound * (1 - 10 / x.size)
      error = 5 * bound / math.sqrt(3 * x.size)
      assert abs(x.mean()) < error
      assert abs(x.std() * math.sqrt(3) / bound - 1) < 2 / math.sqrt(x.size)


def test_lecun_initialization_is_flax_default():
  params = drawn(small(initialization='lecun'))['params']
  for layer_name in ('Conv_0', 'Conv_1', 'classifier'):
    kernel = np.asarray(params[layer_name]['kernel'])
    fan_in = math.prod(kernel.shape[:-1])
    assert abs(kernel.std() * math.sqrt(fan_in) - 1) < 0.25
    np.testing.assert_array_equal(params[layer_name]['bias'], 0)


def test_initialization_of_convolutions_ignores_num_classes_and_norm():
  first = drawn(small(num_classes=2))['params']
  second = drawn(small(num_classes=9, norm='none'))['params']
  assert second['classifier']['kernel'].shape[1] == 9
  for name in ('Conv_0', 'Conv_1'):
    jax.tree.map(np.testing.assert_array_equal, first[name], second[name])


@pytest.mark.parametrize('norm', ['instance', 'batch'])
def test_many_networks_drawn_at_once_equal_single_draws(norm):
  network, keys = small(norm=norm), jax.random.split(KEY, 3)
  many = jax.jit(jax.vmap(network.init, in_axes=(0, None)))(keys, IMAGES)
  for i, key in enumerate(keys):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-6),
      jax.tree.map(lambda x, i=i: x[i], many),
      drawn(network, key=key),
    )
  kernels = many['params']['Conv_0']['kernel']
  assert not np.allclose(kernels[0], kernels[1])


@pytest.mark.parametrize('norm', sorted(layers.NORMS))
@pytest.mark.parametrize('level', [0.0, 0.7, -1e4])
def test_constant_images_give_finite_values_and_gradients(norm, level):
  network = small(norm=norm)
  variables = drawn(network)
  images = jnp.full((2, 8, 8, 3), level)

  def loss(x):
    logits, features = network.apply(variables, x)
    return jnp.square(features).sum() + jnp.square(logits).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(images)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('norm', sorted(layers.NORMS))
def test_images_do_not_see_each_other(norm):
  network = small(norm=norm)
  variables = drawn(network)
  apply = jax.jit(network.apply)
  together = apply(variables, IMAGES)
  alone = apply(variables, IMAGES[2:3])
  changed = apply(variables, IMAGES.at[:2].multiply(100.0))
  for a, b, c in zip(together, alone, changed, strict=True):
    np.testing.assert_allclose(a[2:3], b, atol=1e-5)
    np.testing.assert_allclose(a[2:], c[2:], atol=1e-5)


def test_batch_statistics_move_by_a_tenth():
  network = small(norm='batch', depth=1)
  variables = drawn(network)
  _, updated = network.apply(
    variables, IMAGES, train=True, mutable=['batch_stats']
  )
  conv = nn.Conv(8, (3, 3)).apply(
    {'params': variables['params']['Conv_0']}, IMAGES
  )
  stats = updated['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(
    stats['mean'], 0.1 * conv.mean((0, 1, 2)), atol=1e-6
  )
  np.testing.assert_allclose(
    stats['var'], 0.9 + 0.1 * conv.var((0, 1, 2)), atol=1e-5
  )


def test_batch_norm_couples_images_in_training_only():
  network = small(norm='batch')
  variables = drawn(network)
  train = functools.partial(
    network.apply, variables, train=True, mutable=['batch_stats']
  )
  together, alone = train(IMAGES)[0][1], train(IMAGES[:1])[0][1]
  assert not np.allclose(together[:1], alone, atol=1e-3)


def test_bfloat16_computes_low_and_returns_float32():
  network = small(dtype=jnp.bfloat16)
  variables = drawn(network)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  low = network.apply(variables, IMAGES)[1]
  full = small().apply(variables, IMAGES)[1]
  assert low.dtype == jnp.float32
  assert 1e-5 < np.abs(low - full).max() < 0.1


def test_unknown_names_are_errors():
  shape = (32, 32, 3)
  with pytest.raises(ValueError, match=r"network 'lenet'.*alexnet.*convnet"):
    extractors.make('lenet', image_shape=shape, num_classes=2)
  with pytest.raises(ValueError, match=r"norm 'layer'.*batch.*instance"):
    extractors.make('convnet', image_shape=shape, num_classes=2, norm='layer')
  with pytest.raises(ValueError, match=r"'he'.*lecun, pytorch"):
    extractors.ConvNet(initialization='he')
  with pytest.raises(ValueError, match=r'no field dept; .*width, depth'):
    extractors.make('convnet', image_shape=shape, num_classes=2, dept=3)
  with pytest.raises(ValueError, match=r'image_shape'):
    extractors.make('convnet', image_shape=(32, 32), num_classes=2)


class Tiny(nn.Module):
  num_classes: int
  width: int = 4

  @nn.compact
  def __call__(self, images, train=False):
    features = nn.Dense(self.width)(images.reshape(len(images), -1))
    return nn.Dense(self.num_classes)(features), features


def test_registered_modules_can_be_made(monkeypatch):
  monkeypatch.setattr(extractors, 'NETWORKS', dict(extractors.NETWORKS))
  extractors.register('tiny', fields_for=lambda shape: {'width': shape[0]})(
    Tiny
  )
  extractors.register('tiny')(Tiny)  # A notebook's cell, run again.
  extractors.register('wide', fields_for=lambda shape: {'width': shape[0]})(
    Tiny
  )
  assert (
    extractors.make('tiny', image_shape=(5, 5, 1), num_classes=2).width == 4
  )
  network = extractors.make('wide', image_shape=(5, 5, 1), num_classes=2)
  assert shapes(network, (5, 5, 1))[1:] == ((2, 2), (2, 5))
  with pytest.raises(ValueError, match=r"'convnet' belongs to ConvNet"):
    extractors.register('convnet')(Tiny)
  with pytest.raises(TypeError, match='num_classes'):
    extractors.register('dense')(nn.Dense)


@pytest.mark.parametrize('name', NAMES)
def test_digits_of_eight_pixels_have_features(name):
  network = extractors.make(name, image_shape=(8, 8, 1), num_classes=10)
  images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
  variables = jax.jit(network.init)(jax.random.key(1), images)
  _, features = jax.jit(network.apply)(variables, images)
  assert np.asarray(features).std(axis=0).max() > 1e-3
