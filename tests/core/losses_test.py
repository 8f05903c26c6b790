"""The loss by statistics, by batches and through padding; compilations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fsdd_jax.core import losses
from fsdd_jax.data import passes
from fsdd_jax.data.normalization import normalize
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.types import centered_one_hot, labeled_set, pad


@pytest.fixture(scope='module')
def problem(tiny_dataset, tiny_normalization, tiny_network):
  images = normalize(tiny_dataset.images, tiny_normalization)
  labels = centered_one_hot(jnp.asarray(tiny_dataset.labels), 3)
  target = labeled_set(images, labels)
  rows = jnp.asarray([0, 1, 20, 21, 40, 41])
  synthetic = labeled_set(images[rows], labels[rows])
  variables = random_networks.sample(jax.random.key(0), tiny_network, (8, 8, 3))
  return losses.feature_fn(tiny_network), variables, synthetic, target


@pytest.mark.parametrize('batch_size', [7, 20, None])
def test_statistics_give_the_loss_over_all_images(
  problem, tiny_dataset, tiny_normalization, batch_size
):
  features_of, variables, synthetic, target = problem
  seen = []
  stats = passes.target_statistics(
    features_of,
    variables,
    tiny_dataset.images,
    np.asarray(target.labels),
    tiny_normalization,
    batch_size=batch_size,
    on_batch=seen.append,
  )
  assert sum(seen) == 60
  assert float(stats.count) == 60
  found = losses.krr_loss_from_statistics(
    features_of, variables, synthetic, stats, ridge=1e-3
  )
  direct = losses.krr_loss(
    features_of, variables, synthetic, target, ridge=1e-3
  )
  np.testing.assert_allclose(found, direct, rtol=2e-4)


def test_loss_equals_numpy_on_the_features(problem):
  features_of, variables, synthetic, target = problem
  f = np.asarray(features_of(variables, synthetic.images), np.float64)
  g = np.asarray(features_of(variables, target.images), np.float64)
  kernel = f @ f.T
  kernel += 1e-2 * np.trace(kernel) / len(f) * np.eye(len(f))
  weights = f.T @ np.linalg.solve(kernel, np.asarray(synthetic.labels))
  errors = g @ weights - np.asarray(target.labels)
  found = losses.krr_loss(features_of, variables, synthetic, target, ridge=1e-2)
  np.testing.assert_allclose(found, (errors**2).sum(1).mean(), rtol=1e-4)


def test_padded_sets_change_neither_loss_nor_gradient(problem):
  features_of, variables, synthetic, target = problem
  loss = jax.jit(
    jax.value_and_grad(
      lambda s: losses.krr_loss(
        features_of, variables, s, pad(target, 64), ridge=1e-3
      ),
      allow_int=True,
    )
  )
  plain, gradient = loss(synthetic)
  padded, padded_gradient = loss(pad(synthetic, 9))
  np.testing.assert_allclose(padded, plain, rtol=1e-4)
  np.testing.assert_allclose(
    padded_gradient.images[:6], gradient.images, rtol=1e-2, atol=1e-5
  )
  assert not padded_gradient.images[6:].any()
  assert not padded_gradient.labels[6:].any()


def test_gradients_of_images_and_labels_by_finite_differences(problem):
  _, _, synthetic, target = problem
  smooth = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='none'
  )
  with jax.enable_x64(True):
    to64 = functools.partial(
      jax.tree.map, lambda x: jnp.asarray(np.asarray(x, np.float64))
    )
    variables = to64(smooth.init(jax.random.key(1), target.images[:1]))
    # float32 inside `head` would drown the differences.
    features_of = lambda v, x: _features64(v, x)  # noqa: E731
    fixed = to64(target)

    def loss(images, labels):
      s = labeled_set(images, labels)
      return losses.krr_loss(features_of, variables, s, fixed, ridge=1e-2)

    check_grads(
      jax.jit(loss),
      (to64(synthetic.images), to64(synthetic.labels)),
      order=1,
      modes=['rev'],
      eps=1e-6,
    )


def _features64(variables, images):
  """The same network without its cast: one block, smooth activation."""
  layer = variables['params']['Conv_0']
  x = jax.lax.conv_general_dilated(
    images,
    layer['kernel'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = jnp.tanh(x + layer['bias'])
  return (
    x.reshape(len(images), 4, 2, 4, 2, 4).mean((2, 4)).reshape(len(images), -1)
  )


def test_batches_cover_every_row_once():
  images, labels = np.zeros((10, 2, 2, 1)), np.arange(10)
  found = list(passes.batches(images, labels, 4))
  assert [len(mask) for _, _, mask in found] == [4, 4, 4]
  kept = np.concatenate([rows[mask > 0] for _, rows, mask in found])
  np.testing.assert_array_equal(kept, labels)


def test_equal_networks_share_one_compilation(
  problem, tiny_dataset, tiny_normalization
):
  *_, target = problem

  def run(seed):
    network = extractors.make(
      'convnet', image_shape=(8, 8, 3), num_classes=3, width=4
    )
    drawn = random_networks.sample(jax.random.key(seed), network, (8, 8, 3))
    return passes.target_statistics(
      losses.feature_fn(network),
      drawn,
      tiny_dataset.images,
      np.asarray(target.labels),
      tiny_normalization,
      batch_size=30,
    )

  run(0)
  before = passes._add_batch._cache_size()
  run(1)
  assert passes._add_batch._cache_size() == before


def test_the_caller_may_jit_vmap_and_differentiate_the_loss(
  problem, tiny_network
):
  features_of, _, synthetic, target = problem
  keys = jax.random.split(jax.random.key(0), 2)
  networks_ = random_networks.sample_many(keys, tiny_network, (8, 8, 3))

  def loss(images, variables):
    labeled = labeled_set(images, synthetic.labels)
    return losses.krr_loss(features_of, variables, labeled, target, ridge=1e-3)

  both = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))
  values, gradients = jax.jit(both)(synthetic.images, networks_)
  for i in range(2):
    one = jax.tree.map(lambda x, i=i: x[i], networks_)
    value, gradient = jax.jit(jax.value_and_grad(loss))(synthetic.images, one)
    np.testing.assert_allclose(values[i], value, rtol=1e-4)
    np.testing.assert_allclose(gradients[i], gradient, rtol=2e-2, atol=1e-4)
