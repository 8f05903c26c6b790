"""Unrolled distillation and its gradient, learning, resume."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compilation
import toy
from fsdd_jax import types
from fsdd_jax.algorithms import bilevel, in_theta
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.core import distill_step, losses
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, fixed, random_networks
from fsdd_jax.networks.translator import LightTranslator
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage import learned_network, translators

_CONFIG = BilevelConfig(
  min_classes=2,
  max_classes=3,
  max_images=12,
  max_synthetic=6,
  num_steps=3,
  num_updates=4,
  batch_size=2,
  ridge=1e-3,
  checkpoint_every=2,
  log_every=1,
)


def _theta(network, seed=0):
  return random_networks.sample(jax.random.key(seed), network, (8, 8, 3))


@pytest.fixture(scope='module')
def sets():
  """X_S of three images and X_T of twelve, of three classes."""
  key = jax.random.key(0)
  labels = np.eye(3, dtype=np.float32) - 1 / 3
  images = jax.random.normal(key, (12, 8, 8, 3)) + 1
  images = images.at[..., 0].multiply(jnp.arange(12)[:, None, None] % 3)
  target = types.labeled_set(images, jnp.asarray(np.tile(labels, (4, 1))))
  start = types.labeled_set(images[:3], jnp.asarray(labels))
  return start, target


def test_unrolled_steps_are_those_of_distillation(tiny_network, sets):
  start, target = sets
  features_of, theta = losses.feature_fn(tiny_network), _theta(tiny_network)
  loss_fn = functools.partial(
    losses.LOSSES[_CONFIG.loss].on_images, features_of, ridge=_CONFIG.ridge
  )
  tx = distill_step.make_optimizer(
    _CONFIG.optimizer,
    _CONFIG.learning_rate,
    label_learning_rate=_CONFIG.label_learning_rate,
    schedule=lambda rate: distill_step.SCHEDULES['cosine'](rate, 3),
  )
  step = distill_step.make_step(
    lambda labeled: loss_fn(theta, labeled, target), tx
  )
  state = distill_step.init_state(start, tx)
  for _ in range(3):
    state, _ = step(state)
  expected = state.synthetic
  found = bilevel.unroll(features_of, theta, start, target, config=_CONFIG)
  np.testing.assert_allclose(found.images, expected.images, atol=1e-4)
  np.testing.assert_allclose(found.labels, expected.labels, atol=1e-4)
  assert np.abs(found.images - start.images).max() > 0.05


def _gradient(network, sets, **changes):
  loss = bilevel.unrolled_loss(
    losses.feature_fn(network),
    config=dataclasses.replace(_CONFIG, **changes),
  )
  own, other = _theta(network)['params'], _theta(network, 1)
  return jax.jit(jax.grad(loss))(own, other, *sets)


def test_the_gradient_is_that_of_finite_differences(tiny_network, sets):
  with jax.enable_x64(True):
    # Of smooth networks, as differences cross the kinks of ReLU.
    widen = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, 'float64'))
    own, other = (widen(_theta(tiny_network, seed)) for seed in (0, 1))
    wide = widen(sets)

    def features_of(variables, images):
      kernel = variables['params']['Conv_0']['kernel']
      maps = jax.lax.conv_general_dilated(
        images,
        kernel,
        (2, 2),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      return jnp.tanh(maps).reshape(len(images), -1)

    config = dataclasses.replace(_CONFIG, ridge=1e-2)
    loss = jax.jit(bilevel.unrolled_loss(features_of, config=config))
    params = own['params']
    gradient = jax.jit(jax.grad(loss))(params, other, *wide)
    kernel = params['Conv_0']['kernel']
    direction = np.random.default_rng(0).normal(size=kernel.shape)

    def at(distance):
      moved = {**params, 'Conv_0': {'kernel': kernel + distance * direction}}
      return float(loss(moved, other, *wide))

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    found = float(jnp.vdot(gradient['Conv_0']['kernel'], direction))
  assert abs(expected) > 1e-4
  assert found == pytest.approx(expected, rel=1e-4)


def _assert_close(one, other):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
    one,
    other,
  )


def test_computing_steps_again_changes_nothing(tiny_network, sets):
  _assert_close(
    _gradient(tiny_network, sets, remat=True),
    _gradient(tiny_network, sets, remat=False),
  )


def test_computing_steps_again_saves_memory(sets):
  def features_of(variables, images):
    return jnp.tanh(images.reshape(len(images), -1) @ variables['params'])

  def temporaries(num_steps, remat):
    config = dataclasses.replace(_CONFIG, num_steps=num_steps, remat=remat)
    loss = bilevel.unrolled_loss(features_of, config=config)
    weights = jnp.ones((8 * 8 * 3, 1000))
    gradient = jax.jit(jax.grad(loss)).lower(
      weights, {'params': weights}, *sets
    )
    compiled = gradient.compile(compiler_options=compilation.OPTIONS_OF_USERS)
    return compiled.memory_analysis().temp_size_in_bytes

  growth = temporaries(20, True) - temporaries(10, True)
  assert growth < 0.5 * (temporaries(20, False) - temporaries(10, False))


def test_truncation_stops_gradients_of_earlier_steps(tiny_network, sets):
  start, target = sets
  literal = {'optimizer': 'sgd', 'schedule': 'constant', 'learning_rate': 0.5}
  _assert_close(
    _gradient(tiny_network, sets, truncation=3, **literal),
    _gradient(tiny_network, sets, **literal),
  )
  found = _gradient(tiny_network, sets, truncation=1, **literal)
  config = dataclasses.replace(_CONFIG, num_steps=2, **literal)
  before = bilevel.unroll(
    losses.feature_fn(tiny_network),
    _theta(tiny_network),
    start,
    target,
    config=config,
  )
  _assert_close(
    found, _gradient(tiny_network, (before, target), num_steps=1, **literal)
  )


def test_padding_plays_no_part(tiny_network, sets):
  start, target = sets
  padded = types.pad(start, 5), types.pad(target, 15)
  _assert_close(_gradient(tiny_network, padded), _gradient(tiny_network, sets))


def test_a_killed_run_resumes_to_the_same_weights(
  tiny_network, tiny_dataset, tiny_normalization, tmp_path
):
  learn = functools.partial(
    bilevel.learn_network,
    tiny_network,
    TargetSet(tiny_dataset, tiny_normalization),
    config=_CONFIG,
  )
  straight = learn()

  class KilledError(Exception):
    """Raised in the middle."""

  def stop(step, _):
    if step == 3:
      raise KilledError

  with pytest.raises(KilledError):
    learn(
      options=LoopOptions(tmp_path, checkpoint_every=2, log_every=1),
      progress_fn=stop,
    )
  resumed = learn(options=LoopOptions(tmp_path, 2, 1))
  assert len(straight.losses) == 4
  assert len(resumed.losses) == 2
  assert resumed.theta.digest == straight.theta.digest
  start = learned_network.learned_network(
    tiny_network, 0, (8, 8, 3), _theta(tiny_network)
  )
  assert straight.theta.digest != start.digest


def test_the_loss_in_other_networks_falls(
  tiny_network, tiny_dataset, tiny_normalization
):
  config = dataclasses.replace(
    _CONFIG, num_updates=120, update_rate=1e-2, min_classes=3, seed=1
  )
  losses = bilevel.learn_network(
    tiny_network, TargetSet(tiny_dataset, tiny_normalization), config=config
  ).losses
  # Each update has other networks: halves, as twenty of them vary by a tenth.
  assert np.mean(losses[60:]) < 0.95 * np.mean(losses[:60])


def test_a_target_is_distilled_in_the_learned_network(
  tiny_network, tiny_dataset, tiny_normalization
):
  config = AdaptationConfig(num_steps=2)
  given = _theta(tiny_network, 9)
  learned = learned_network.learned_network(tiny_network, 0, (8, 8, 3), given)
  same = fixed.FixedNetwork(tiny_network, 9, (8, 8, 3))
  found, expected, other = (
    in_theta.distill_in_theta(
      theta,
      TargetSet(tiny_dataset, tiny_normalization),
      ipcs=(1,),
      config=config,
    )[1]
    for theta in (
      learned,
      same,
      fixed.FixedNetwork(tiny_network, 0, (8, 8, 3)),
    )
  )
  np.testing.assert_array_equal(found.images, expected.images)
  assert np.any(found.images != other.images)


def test_a_network_with_state_is_refused(tiny_dataset, tiny_normalization):
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='batch'
  )
  with pytest.raises(ValueError, match='batch_stats beside its parameters'):
    bilevel.learn_network(
      network, TargetSet(tiny_dataset, tiny_normalization), config=_CONFIG
    )


def test_all_images_of_the_classes_are_refused():
  with pytest.raises(ValueError, match='max_images = 0'):
    BilevelConfig(max_images=0)


def test_a_translator_that_sees_theta_takes_a_learned_network():
  learned = bilevel.learn_network(
    toy.problem()[0],
    toy.target(),
    config=BilevelConfig(
      min_classes=2,
      max_classes=3,
      max_images=12,
      max_synthetic=6,
      num_steps=1,
      num_updates=1,
    ),
  ).theta
  module = LightTranslator(width=4, num_blocks=1, inputs=('images', 'theta'))
  omega = translators.random_translator(0, module, learned)
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  assert omega.translate(real).images.shape == real.images.shape
  copied = jax.tree.map(jnp.array, learned.variables)
  assert learned == dataclasses.replace(learned, variables=copied)
