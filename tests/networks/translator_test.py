import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.networks import extractors, translator_layers
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import (
  TRANSLATORS,
  Translator,
  init,
  translate,
)
from fsdd_jax.types import LabeledSet, labeled_set, pad

assert_close = functools.partial(
  np.testing.assert_allclose, rtol=1e-4, atol=1e-5
)


def normal(seed, shape, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def random_set(shape=(3, 8, 8, 3)):
  return labeled_set(
    jnp.asarray(normal(1, shape)), jnp.asarray(normal(2, (shape[0], 2)))
  )


@functools.cache
def make(channels=3, num_blocks=1):
  """A translator and weights by NumPy: JAX compiles each random draw anew."""
  translator = Translator(width=4, num_blocks=num_blocks)
  shapes = jax.eval_shape(
    translator.init, jax.random.key(0), jnp.zeros((1, 8, 8, channels))
  )
  return translator, jax.tree.map(lambda s: normal(3, s.shape, 0.2), shapes)


def initialized(**fields):
  translator = Translator(width=4, num_blocks=1, **fields)
  images = random_set().images
  return translator, jax.jit(translator.init)(jax.random.key(0), images)


@functools.partial(jax.jit, static_argnums=0)
def apply(translator, variables, images):
  return translator.apply(variables, images)


jitted_translate = jax.jit(translate, static_argnums=0)


@pytest.mark.parametrize(
  ('size', 'channels'),
  [
    ((8, 8), 1),
    ((28, 28), 1),
    ((32, 32), 3),
    ((64, 64), 3),
    ((128, 128), 3),
    ((1, 7), 3),
    ((9, 30), 1),
  ],
)
def test_one_set_of_parameters_serves_any_resolution(size, channels):
  translator, variables = make(channels)
  images = normal(1, (2, *size, channels))
  out = apply(translator, variables, images)
  assert out.shape == images.shape
  assert out.dtype == jnp.float32
  # The border that was padded and cropped is translated as well.
  assert np.all(np.abs(out - images).max(axis=(0, 3)) > 0)


def test_zero_head_is_identity():
  translator, variables = initialized(head_scale=0.0)
  images = random_set().images
  np.testing.assert_array_equal(apply(translator, variables, images), images)


def test_head_scale_scales_delta_and_starts_near_identity():
  images = random_set().images
  deltas = []
  for fields in ({}, {'head_scale': 1.0}):
    translator, variables = initialized(**fields)
    deltas.append(apply(translator, variables, images) - images)
  np.testing.assert_allclose(100 * deltas[0], deltas[1], rtol=1e-2, atol=1e-3)
  assert 0.1 < np.std(deltas[1]) < 10
  assert 1e-3 < np.std(deltas[0]) < 0.1


def test_blocks_together_do_not_blow_up_the_variance():
  images = random_set().images
  deltas = []
  for num_blocks in (1, 8):
    translator = Translator(width=4, num_blocks=num_blocks, head_scale=1.0)
    variables = jax.jit(translator.init)(jax.random.key(0), images)
    deltas.append(np.std(apply(translator, variables, images) - images))
  # Without scaling of the branches it would be a factor of about 2^(7/2).
  assert deltas[1] < 5 * deltas[0]


def test_full_size_has_the_stated_widths():
  translator = Translator()
  variables = jax.eval_shape(
    translator.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  kernels = {
    name: layer['kernel'].shape
    for name, layer in variables['params'].items()
    if 'kernel' in layer
  }
  assert kernels == {
    'stem': (3, 3, 3, 64),
    'down_1': (3, 3, 64, 128),
    'down_2': (3, 3, 128, 256),
    'up_1': (3, 3, 256, 128),
    'up_2': (3, 3, 128, 64),
    'head': (3, 3, 64, 3),
  }
  assert set(variables) == {'params'}  # No batch statistics.
  assert sum(name.startswith('block') for name in variables['params']) == 4


def test_each_image_is_translated_alone():
  translator, variables = make()
  images = normal(1, (4, 12, 12, 3))
  together = apply(translator, variables, images)
  alone = [apply(translator, variables, image[None])[0] for image in images]
  assert_close(together, np.stack(alone))


def test_leading_axes_equal_vmap():
  translator, variables = make()
  images = normal(1, (2, 3, 9, 8, 3))
  together = apply(translator, variables, images)
  mapped = jax.vmap(lambda x: apply(translator, variables, x))(images)
  assert together.shape == images.shape
  assert_close(together, mapped)


def test_translation_follows_shifts_by_the_stride():
  translator, variables = make()
  image = np.zeros((1, 64, 64, 3), np.float32)
  image[:, 28:36, 28:36] = 1.0
  shifted = np.roll(image, 4, axis=2)
  delta = apply(translator, variables, image) - image
  shifted_delta = apply(translator, variables, shifted) - shifted
  # Away from the borders, where convolutions pad with zeros.
  inner = np.s_[:, 24:40, 24:40]
  assert np.std(delta[inner]) > 1e-2
  assert_close(np.roll(delta, 4, axis=2)[inner], shifted_delta[inner])


def test_translate_keeps_labels_and_padding():
  translator, variables = make()
  labeled = random_set()
  padded = pad(labeled, 5)
  out = jitted_translate(translator, variables, padded)
  plain = jitted_translate(translator, variables, labeled)
  np.testing.assert_array_equal(out.labels, padded.labels)
  np.testing.assert_array_equal(out.mask, padded.mask)
  np.testing.assert_array_equal(out.images[3:], 0.0)
  assert_close(out.images[:3], plain.images)


def test_translate_takes_many_sets():
  translator, variables = make()
  sets = [pad(random_set((n, 8, 8, 3)), 4) for n in (2, 4)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *sets)
  together = jitted_translate(translator, variables, stacked)
  alone = [jitted_translate(translator, variables, s) for s in sets]
  jax.tree.map(
    assert_close, together, jax.tree.map(lambda *x: np.stack(x), *alone)
  )


def test_padded_rows_have_no_gradient_even_if_not_finite():
  translator, variables = make()
  labeled = random_set()
  mask = jnp.array([1.0, 1.0, 0.0])

  @functools.partial(jax.value_and_grad, argnums=(0, 1))
  def loss(variables, images):
    out = jitted_translate(
      translator, variables, LabeledSet(images, labeled.labels, mask)
    )
    return jnp.sum(out.images**2)

  compiled = jax.jit(loss)
  value, (_, image_gradient) = compiled(variables, labeled.images)
  np.testing.assert_array_equal(image_gradient[2], 0.0)
  assert np.all(np.abs(image_gradient[:2]).max(axis=(1, 2, 3)) > 0)
  overflowing = labeled.images.at[2].set(jnp.inf)
  assert_close(compiled(variables, overflowing)[0], value)


def test_gradient_reaches_every_parameter_from_the_default_start():
  translator, variables = initialized()
  labeled = random_set()
  weights = normal(4, labeled.images.shape)

  def loss(variables):
    return jnp.vdot(weights, translate(translator, variables, labeled).images)

  gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(variables))
  assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_gradient_matches_a_finite_difference():
  translator, variables = make()
  labeled = random_set()
  direction = jax.tree.map(lambda x: normal(5, x.shape), variables)

  def loss(step):
    moved = jax.tree.map(lambda x, d: x + step * d, variables, direction)
    return jnp.mean(translate(translator, moved, labeled).images ** 2)

  compiled = jax.jit(jax.value_and_grad(loss))
  step = 1e-3
  difference = (compiled(step)[0] - compiled(-step)[0]) / (2 * step)
  np.testing.assert_allclose(compiled(0.0)[1], difference, rtol=0.02)


def test_jit_vmap_and_grad_compose():
  translator, variables = make()
  sets = [random_set(), jax.tree.map(lambda x: x[::-1], random_set())]

  def loss(variables, labeled):
    out = translate(translator, variables, labeled)
    return jnp.mean(out.images**2 * labeled.labels[:, :1, None, None])

  gradient = jax.grad(loss)
  batched = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(
    variables, jax.tree.map(lambda *x: jnp.stack(x), *sets)
  )
  alone = [jax.jit(gradient)(variables, s) for s in sets]
  for i in range(2):
    jax.tree.map(
      lambda x, y, i=i: assert_close(x[i], y, rtol=1e-3), batched, alone[i]
    )


def _sees(body, inputs):
  return TRANSLATORS[body](width=4, num_blocks=1, head_scale=1.0, inputs=inputs)


def _set(size, key=0):
  a, b = jax.random.normal(jax.random.key(key), (2, 2, size, size, 3))
  return LabeledSet(a, jnp.eye(2), jnp.ones(2), b)


@pytest.fixture(scope='module')
def theta():
  network = extractors.ConvNet(width=4, depth=2, norm='none')
  return FixedNetwork(network, 0, (8, 8, 3))


@pytest.mark.parametrize('body', ['auto_encoder', 'light'])
@pytest.mark.parametrize('size', [8, 16, 10])
def test_each_input_reaches_the_result_at_any_size(body, size, theta):
  seen = _sees(body, ('images', 'start', 'theta'))
  variables = init(jax.random.key(1), seen, (8, 8, 3), theta.maps_of)
  labeled = _set(size)
  fn = jax.jit(
    lambda labeled: translate(seen, variables, labeled, theta.maps_of)
  )
  out = fn(labeled)
  assert out.images.shape == labeled.images.shape
  assert out.start is None
  moved = dataclasses.replace(labeled, start=labeled.start + 1.0)
  other = fn(moved)
  assert np.abs(other.images - out.images).max() > 1e-3
  flat = FixedNetwork(theta.network, 7, theta.image_shape)
  other = translate(seen, variables, labeled, flat.maps_of)
  assert np.abs(other.images - out.images).max() > 1e-3


def test_images_do_not_depend_on_their_neighbours_in_the_set(theta):
  seen = _sees('light', ('images', 'start', 'theta'))
  variables = init(jax.random.key(1), seen, (8, 8, 3), theta.maps_of)
  labeled = _set(8)
  out = translate(seen, variables, labeled, theta.maps_of)
  one = jax.tree.map(lambda x: x[:1], labeled)
  alone = translate(seen, variables, one, theta.maps_of)
  np.testing.assert_allclose(alone.images, out.images[:1], atol=1e-5)


def test_missing_or_unknown_inputs_are_named(theta):
  for inputs, message in (
    (('images', 'start'), 'has no start'),
    (('images', 'theta'), 'give maps_of'),
  ):
    seen = _sees('light', inputs)
    variables = init(jax.random.key(1), seen, (8, 8, 3), theta.maps_of)
    bare = dataclasses.replace(_set(8), start=None)
    with pytest.raises(ValueError, match=message):
      translate(seen, variables, bare)
  with pytest.raises(ValueError, match=r'inputs=.*depth'):
    _sees('light', ('images', 'depth'))
  mlp = FixedNetwork(extractors.Mlp(width=4, depth=1), 0, (8, 8, 3))
  with pytest.raises(ValueError, match="leave 'theta' out"):
    mlp.maps_of(jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize('size', [28, 32])
def test_maps_of_theta_lie_over_the_images_that_it_padded(size):
  """Its ConvNet pads 28 to 32 pixels on both sides."""
  row = size // 2
  images = np.zeros((2, size, size, 3), np.float32)
  images[1, row : row + 2] = 1.0
  network = extractors.make(
    'convnet', image_shape=(size, size, 3), num_classes=3, width=4, norm='none'
  )
  theta = FixedNetwork(network, 0, (size, size, 3))
  first = theta.maps_of(jnp.asarray(images))[0]
  fitted = np.asarray(translator_layers._resize(first, (size // 2, size // 2)))
  moved = np.abs(fitted[1] - fitted[0]).sum(axis=(1, 2))
  center = (np.arange(len(moved)) * moved).sum() / moved.sum()
  assert abs(center - row / 2) < 0.2
