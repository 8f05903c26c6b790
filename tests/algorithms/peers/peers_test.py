"""FRePo, RFAD, KIP and chosen real images, against oracles."""

import dataclasses
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import (
  frepo,
  kip,
  network_pool,
  rfad,
  selection,
)
from fsdd_jax.algorithms.peers.peer_configs import (
  FrepoConfig,
  KipConfig,
  RcigConfig,
  RfadConfig,
)
from fsdd_jax.core import distill_step, krr, losses, platt
from fsdd_jax.data import datasets, normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import labeled_set, pad
from workbench import methods

_CONFIG = DistillationConfig(
  ipc=1, num_steps=6, real_batch=9, checkpoint_every=2, log_every=1
)
_NEEDS_KERNELS = pytest.mark.skipif(
  importlib.util.find_spec('neural_tangents') is None,
  reason='needs the extra: pip install -e .[kernels]',
)
_METHODS = ['frepo', 'rfad', 'rcig', pytest.param('kip', marks=_NEEDS_KERNELS)]
_OWN = {
  'frepo': FrepoConfig(pool_size=2, max_online_updates=2),
  'rfad': RfadConfig(networks_per_step=2, map_learning_rate=1e-4),
  'rcig': RcigConfig(
    pool_size=2,
    max_online_updates=3,
    most_online_steps=2,
    num_inner_steps=3,
    num_hessian_steps=3,
  ),
  'kip': KipConfig(kernel='nngp'),
}


class KilledError(Exception):
  pass


def _run(method, config=_CONFIG, options=None, problem=None, **changes):
  network, dataset, transform = problem or toy.problem()
  if method == 'kip':  # Whose kernel compiles faster.
    network = extractors.Mlp(num_classes=3, depth=1)
  return (
    methods.METHODS[method]
    .run(
      *(network, TargetSet(dataset, transform)),
      config=config,
      own=dataclasses.replace(_OWN[method], **changes),
      options=options or LoopOptions(),
      start=None,
    )
    .synthetic
  )


@pytest.mark.parametrize('method', _METHODS)
def test_resumed_is_straight_and_later_steps_compile_nothing(method, tmp_path):
  done, compiled, counts = [], [], []

  def kill(step, values):
    done.append(step)
    if done == [1, 2, 3]:
      raise KilledError

  def on_compile(name, seconds, **_):
    if 'backend_compile' in name:
      compiled.append(seconds)

  options = LoopOptions(tmp_path, 2, 1, kill)
  with pytest.raises(KilledError):
    _run(method, options=options)
  resumed = _run(method, options=options)
  assert done == [1, 2, 3, 3, 4, 5, 6]
  jax.monitoring.register_event_duration_secs_listener(on_compile)
  straight = _run(
    method,
    options=LoopOptions(
      log_every=1, progress_fn=lambda step, _: counts.append(len(compiled))
    ),
  )
  np.testing.assert_array_equal(resumed.images, straight.images)
  np.testing.assert_array_equal(resumed.labels, straight.labels)
  assert counts[1] == counts[-1]
  with pytest.raises(ValueError, match='belongs to a run with other settings'):
    _run(method, dataclasses.replace(_CONFIG, seed=1), options)


@pytest.mark.parametrize('method', _METHODS)
def test_a_batch_of_real_images_is_asked_for_and_jitter_refused(method):
  with pytest.raises(ValueError, match='real_batch = 0 is out of range: use 1'):
    _run(method, dataclasses.replace(_CONFIG, real_batch=0))
  with pytest.raises(ValueError, match=r"jitter = .'flip',. is out of range"):
    _run(method, dataclasses.replace(_CONFIG, jitter=('flip',)))


@pytest.mark.parametrize(
  ('method', 'changes'),
  [
    ('rfad', {'platt': False}),
    pytest.param('kip', {}, marks=_NEEDS_KERNELS),
  ],
)
def test_steps_lower_the_loss(method, changes):
  rng, labels, losses = np.random.default_rng(0), np.arange(60) % 3, {}
  color = np.eye(3, dtype=int)[labels][:, None, None]
  images = rng.integers(0, 200, (60, 8, 8, 3)) + 20 * color
  hard = datasets.from_arrays(images.astype(np.uint8), labels)
  problem = toy.problem()[0], hard, normalization.standardization(hard.images)
  config = dataclasses.replace(_CONFIG, num_steps=30, real_batch=60)
  options = LoopOptions(
    log_every=1, progress_fn=lambda step, v: losses.update({step: v['loss']})
  )
  _run(method, config, options, problem, **changes)
  assert np.mean([losses[i] for i in range(26, 31)]) < losses[1]


def test_frepo_updates_images_and_network_as_by_hand():
  network = toy.problem()[0]
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  target = toy.target().random_real(jax.random.key(1), ipc=4)
  theta, online_tx = toy.theta(0), optax.adam(1e-2)
  own = FrepoConfig(margin=0.5)
  loss_fn = frepo.loss_function(
    network, DistillationConfig(loss='squared'), own
  )

  def expected_loss(images, labels):
    ends = jnp.concatenate([images, images[:, :, ::-1]])
    features_of = losses.feature_fn(network)
    weights = krr.solve(
      features_of(theta, ends), jnp.concatenate([labels, labels]), ridge=1e-6
    )
    errors = features_of(theta, target.images) @ weights - target.labels
    return 0.5 * (errors**2).sum(1).mean() - 0.5 * network_pool.label_margin(
      labels
    )

  loss, gradients = jax.jit(jax.value_and_grad(expected_loss, (0, 1)))(
    real.images, real.labels
  )

  def online_loss(params):
    logits, _ = network.apply({'params': params}, real.images)
    return 0.5 * ((logits - real.labels) ** 2).sum(1).mean()

  slope = jax.jit(jax.grad(online_loss))(theta['params'])
  move, _ = online_tx.update(slope, online_tx.init(theta['params']))
  params = optax.apply_updates(theta['params'], move)
  tx = distill_step.make_optimizer('sgd', 0.5)
  update = frepo.make_update(network, loss_fn, tx, online_tx, mirror=True)
  start = distill_step.init_state(real, tx)
  first = jax.tree.map(jnp.array, theta)
  state, online, values = update(
    start,
    network_pool.OnlineNetwork(first, online_tx.init(first['params'])),
    target,
  )
  close = {'rtol': 1e-3, 'atol': 1e-5}
  np.testing.assert_allclose(values['loss'], loss, **close)
  for found, old, gradient in zip(
    (state.synthetic.images, state.synthetic.labels),
    (real.images, real.labels),
    gradients,
    strict=True,
  ):
    np.testing.assert_allclose(found, old - 0.5 * gradient, **close)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **close),
    online.variables['params'],
    params,
  )


def test_a_network_of_the_pool_is_drawn_anew_after_its_updates():
  order = network_pool.pool_order(
    jax.random.key(0), 40, pool_size=3, max_updates=2
  )
  assert set(order.places) == {0, 1, 2}
  for place in range(3):
    own = order.places == place
    uses = np.arange(sum(own))
    assert order.ages[own].tolist() == (uses % 2).tolist()
    assert order.generations[own].tolist() == (uses // 2).tolist()
  states = []
  options = LoopOptions(
    log_every=1,
    state_fn=lambda step, state: states.append(jax.device_get(state.pool)),
  )
  _run('frepo', dataclasses.replace(_CONFIG, num_steps=12), options)
  counts = [int(pool[0].opt_state[0].count) for pool in states]
  # An optimiser starts with its network: 0 or 1 until first used, then 1, 2.
  assert max(counts) == 2
  assert any(now < before for before, now in itertools.pairwise(counts))


def test_rfads_kernel_is_that_of_its_formula():
  rng = np.random.default_rng(0)
  parts = [rng.normal(size=(4, 5)) for _ in range(3)]
  features_of = rfad.random_features(lambda weights, images: images @ weights)
  weights = tuple(jnp.asarray(p.T @ np.eye(4)) for p in parts)
  found = features_of(weights, jnp.asarray(np.ones((2, 5)) + np.eye(2, 5)))
  images = np.ones((2, 5)) + np.eye(2, 5)
  f = np.concatenate([images @ p.T for p in parts], axis=1) / np.sqrt(3 * 4)
  np.testing.assert_allclose(found @ found.T, 2 * f @ f.T + 0.01, rtol=1e-5)


def _rfad_state(**changes):
  network = toy.problem()[0]
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  config = DistillationConfig(optimizer='sgd', learning_rate=0.1)
  own = RfadConfig(networks_per_step=1, **changes)
  state, tx = rfad.init_state(real, config, own)
  target = toy.target().random_real(jax.random.key(1), ipc=4)

  def loss_at(**learned):
    return rfad.loss_of(
      {**state.learned, **learned},
      (toy.theta(0),),
      target,
      features_of=rfad.random_features(losses.feature_fn(network)),
      config=config,
      own=own,
    )

  return state, tx, jax.jit(loss_at)


def test_rfads_scale_is_learned_by_its_slope():
  state, tx, loss_at = _rfad_state(platt_learning_rate=0.02)
  high, low = (loss_at(log_scale=jnp.array(x)).item() for x in (0.01, -0.01))
  loss = lambda learned: loss_at(**learned)  # noqa: E731
  gradient = jax.jit(jax.grad(loss))(state.learned)
  np.testing.assert_allclose(
    gradient['log_scale'], (high - low) / 0.02, rtol=1e-2
  )
  updates, _ = tx.update(gradient, state.opt_state, state.learned)
  # The first step of AdaBelief is this, whatever the slope.
  np.testing.assert_allclose(
    updates['log_scale'], -0.02 / 0.9 * np.sign(high - low), rtol=1e-3
  )
  # At no rate, each step takes the best scale instead.
  best, _, best_loss = _rfad_state(platt_learning_rate=0.0)
  scales = jnp.linspace(-1.0, 5.0, 121)
  every = jax.lax.map(lambda scale: loss_at(log_scale=scale), scales)
  np.testing.assert_allclose(best_loss(), every.min(), atol=1e-4)
  assert 'log_scale' not in best.learned
  # Without Platt's loss there is no scale.
  assert 'log_scale' not in _rfad_state(platt=False)[0].learned


def test_rfads_linear_map_starts_as_none_and_moves_images():
  state, tx, loss_at = _rfad_state(map_learning_rate=1e-4)
  plain, _, plain_loss = _rfad_state()
  np.testing.assert_array_equal(state.synthetic.images, plain.synthetic.images)
  np.testing.assert_allclose(loss_at(), plain_loss(), rtol=1e-5)
  loss = lambda learned: loss_at(**learned)  # noqa: E731
  gradient = jax.jit(jax.grad(loss))(state.learned)
  updates, _ = tx.update(gradient, state.opt_state, state.learned)
  new = optax.apply_updates(state.learned, updates)
  step = abs(new['linear_map'] - np.eye(192))
  np.testing.assert_allclose(step.max(), 1e-4 / 0.9, rtol=1e-2)
  expected = np.asarray(new['images']).reshape(3, -1) @ new['linear_map']
  np.testing.assert_allclose(
    rfad.mapped_set(new).images.reshape(3, -1), expected, rtol=1e-4, atol=1e-5
  )
  # Pixels' own gradient comes through the map.
  assert loss_at(**new) < loss_at()


@pytest.mark.parametrize(
  'changes',
  [
    {'map_learning_rate': 0.0},
    {'map_learning_rate': 1e-2},
    {'platt_learning_rate': 0.5},
    {'platt_learning_rate': 0.0},
    {'platt': False},
    {'networks_per_step': 3},
  ],
  ids=str,
)
def test_each_setting_of_rfad_changes_the_set(changes):
  config = dataclasses.replace(_CONFIG, num_steps=3)
  problem = extractors.Mlp(num_classes=3, depth=1, width=8), *toy.problem()[1:]
  found = _run('rfad', config, problem=problem, **changes)
  plain = _run('rfad', config, problem=problem)
  assert abs(found.images - plain.images).max() > 1e-6


def test_frepos_networks_are_returned_as_they_are_trained():
  states = []
  options = LoopOptions(
    log_every=1,
    state_fn=lambda step, state: states.append(jax.device_get(state.pool)),
  )
  network, dataset, transform = toy.problem()
  result = methods.METHODS['frepo'].run(
    *(network, TargetSet(dataset, transform)),
    config=_CONFIG,
    own=_OWN['frepo'],
    options=options,
    start=None,
  )
  assert len(result.seen) == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    result.seen,
    [online.variables for online in states[-1]],
  )
  used = [int(online.opt_state[0].count) for online in states[-1]]
  assert max(used) > 0


def test_platt_error_is_the_least_over_scales():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(40, 3)).astype(np.float32)
  labels = np.eye(3, dtype=np.float32)[
    (features + rng.normal(size=(40, 3))).argmax(1)
  ]
  weights = jnp.eye(3) * 0.01
  mask = jnp.asarray(np.arange(40) < 30, jnp.float32)

  def at(scale):
    logits = scale * features[:30].astype(np.float64)
    shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(shares * labels[:30]).sum(1).mean()

  best = min(at(scale) for scale in np.geomspace(0.01, 100, 4000))
  found = platt.platt_error(weights, features, labels, mask)
  np.testing.assert_allclose(found, best, rtol=1e-5)
  gradient = jax.grad(platt.platt_error)(weights, features, labels, mask)
  step = 1e-4 * np.eye(3)[[1]].T @ np.eye(3)[[2]]
  high, low = (
    platt.platt_error(weights + s, features, labels, mask)
    for s in (step, -step)
  )
  np.testing.assert_allclose(gradient[1, 2], (high - low) / 2e-4, rtol=2e-2)


def test_kips_loss_is_that_of_features_with_the_same_kernel():
  network = toy.problem()[0]
  real = toy.target().random_real(jax.random.key(0), ipc=2)
  target = toy.target().random_real(jax.random.key(1), ipc=4)
  features_of, theta = losses.feature_fn(network), toy.theta(0)

  def kernel(x, y):
    return features_of(theta, x) @ features_of(theta, y).T

  expected = losses.krr_loss(features_of, theta, real, target, ridge=1e-3)
  for sets in ((real, target), (pad(real, 8), pad(target, 16))):
    found = kip.kernel_loss(kernel, (), *sets, ridge=1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_herding_follows_the_mean_and_k_centre_covers():
  features = np.random.default_rng(0).normal(size=(30, 2)) + np.eye(2)[0]
  rows = selection.herding(features, 5)
  assert len(set(rows)) == 5
  for number in range(1, 5):  # Each is the best next one.
    kept = features[rows[:number]].sum(0)
    others = [i for i in range(30) if i not in rows[:number]]
    misses = {
      i: np.linalg.norm((kept + features[i]) / (number + 1) - features.mean(0))
      for i in others
    }
    assert min(misses, key=misses.get) == rows[number]
  centres = selection.k_centre(features, 5)
  apart = np.linalg.norm(features[:, None] - features[centres][None], axis=-1)
  reach = apart.min(1).max()
  between = np.linalg.norm(
    features[centres][:, None] - features[centres][None], axis=-1
  )
  # Centres are farther from each other than any row is from its centre.
  assert between[~np.eye(5, dtype=bool)].min() >= reach


def test_chosen_images_are_those_of_the_class():
  network, dataset, transform = toy.problem()
  chosen = selection.select(
    jax.random.key(0),
    *(network, TargetSet(dataset, transform)),
    select_fn=selection.k_centre,
    ipc=3,
  )
  assert chosen.labels.argmax(1).tolist() == [0] * 3 + [1] * 3 + [2] * 3
  few = datasets.from_arrays(dataset.images[:9], dataset.labels[:9])
  with pytest.raises(ValueError, match=r"'1' has 1 images, fewer than ipc = 2"):
    selection.select(
      jax.random.key(0),
      *(network, TargetSet(few, transform)),
      select_fn=selection.herding,
      ipc=2,
    )


def test_real_images_cannot_start_from_a_set():
  network, dataset, transform = toy.problem()
  start = labeled_set(jnp.ones((3, 8, 8, 3)), jnp.eye(3))
  with pytest.raises(ValueError, match='leave start out'):
    methods.METHODS['herding'].run(
      *(network, TargetSet(dataset, transform)),
      config=_CONFIG,
      own=None,
      options=LoopOptions(),
      start=start,
    )


def test_a_network_of_a_pool_keeps_its_running_statistics():
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='batch'
  )
  real = toy.target().random_real(jax.random.key(0), ipc=4)
  variables = jax.jit(network.init)(jax.random.key(1), real.images)
  tx = optax.sgd(1e-3)
  online = network_pool.OnlineNetwork(variables, tx.init(variables['params']))
  train = jax.jit(network_pool.training_step(network, tx))
  for step in range(2):
    online = train(online, real, jnp.asarray(step))
  means = jax.tree.leaves(online.variables['batch_stats'])
  assert any(np.abs(mean).max() > 0 for mean in means)
