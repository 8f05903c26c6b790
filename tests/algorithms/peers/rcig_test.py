"""RCIG's gradients, solvers and step, against dense linear algebra."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from fsdd_jax.algorithms import in_theta
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import (
  frame,
  implicit,
  rcig,
)
from fsdd_jax.algorithms.peers.peer_configs import RcigConfig
from fsdd_jax.core import solvers
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, layers
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import labeled_set

_LEVEL = 0.05
_CONFIG = DistillationConfig(
  ipc=1, num_steps=6, real_batch=9, optimizer='adabelief', learning_rate=0.01
)
_OWN = RcigConfig(
  pool_size=2,
  max_online_updates=3,
  most_online_steps=2,
  num_inner_steps=3,
  num_hessian_steps=3,
  inner_learning_rate=1e-3,
  hessian_learning_rate=1e-3,
)


class Smooth(nn.Module):
  """Twice differentiable, and in float64 where its inputs are."""

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    features = nn.softplus(nn.Dense(4, param_dtype=x.dtype, dtype=x.dtype)(x))
    head = nn.Dense(3, param_dtype=x.dtype, dtype=x.dtype, name='classifier')
    return head(features), features


@pytest.fixture
def problem():
  """Variables, a distilled set and real images, all in float64."""
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 5)
    images = jax.random.normal(keys[0], (3, 2, 2, 2), jnp.float64)
    labels = jnp.eye(3, dtype=jnp.float64) + 0.1 * jax.random.normal(
      keys[1], (3, 3), jnp.float64
    )
    real = jax.random.normal(keys[2], (7, 2, 2, 2), jnp.float64)
    target = labeled_set(real, jax.random.normal(keys[3], (7, 3), jnp.float64))
    yield Smooth().init(keys[4], images), images, labels, target


def inner_loss(variables, tangent, images, labels):
  """By its definition: the least over w, here in closed form, of the loss."""

  def apply(params):
    return Smooth().apply({'params': params}, images)

  (_, f), (shift, _) = jax.jvp(apply, (variables['params'],), (tangent,))
  kernel = f @ f.T
  a = jnp.linalg.solve(kernel + _LEVEL * jnp.eye(len(f)), labels - shift)
  missed = labels - shift - kernel @ a
  size = jnp.sum(a * (kernel @ a)) + optax.tree.vdot(tangent, tangent)
  return 0.5 * (jnp.sum(missed**2) + _LEVEL * size) / labels.size


def outer_loss(learned, tangent, variables, target):
  found = implicit.predictions(
    *(Smooth(), variables, tangent, labeled_set(*learned), target.images),
    level=_LEVEL,
  )
  return jnp.mean((found - target.labels) ** 2)


def body_to_tree(variables):
  """Maps a vector to a tree that is zero at the classifier's weights."""
  params = variables['params']
  kernel = params['classifier']['kernel']
  rest = {**params, 'classifier': {'bias': params['classifier']['bias']}}
  flat, unravel = jax.flatten_util.ravel_pytree(rest)

  def tree(vector):
    found = unravel(vector)
    head = {**found['classifier'], 'kernel': jnp.zeros_like(kernel)}
    return {**found, 'classifier': head}

  return tree, len(flat)


def dense_hessian(variables, images, labels):
  tree, size = body_to_tree(variables)
  loss = lambda x: inner_loss(variables, tree(x), images, labels)  # noqa: E731
  zero = jnp.zeros(size)
  return jax.grad(loss)(zero), jax.hessian(loss)(zero)


def test_implicit_gradient_is_that_of_the_exact_solution(problem):
  variables, images, labels, target = problem
  tree, size = body_to_tree(variables)

  def exact(learned):
    slope, hessian = dense_hessian(variables, *learned)
    t = tree(-jnp.linalg.solve(hessian, slope))
    return outer_loss(learned, t, variables, target)

  learned = (images, labels)
  gradients = implicit.gradient_fn(
    Smooth(),
    outer_loss,
    fitted_fn=lambda learned: labeled_set(*learned),
    level_fn=lambda learned: _LEVEL,
    solver='cg',
    num_steps=(size, size),
  )
  found = gradients(learned, variables, target, jnp.zeros(2))
  loss, exact_gradients = jax.jit(jax.value_and_grad(exact))(learned)
  np.testing.assert_allclose(found.loss, loss, rtol=1e-9)
  for direct, through, expected in zip(
    found.direct, found.implicit, exact_gradients, strict=True
  ):
    assert direct.dtype == jnp.float64
    np.testing.assert_allclose(direct + through, expected, rtol=1e-6, atol=1e-9)
    # The implicit part counts.
    assert abs(through).max() > 0.01 * abs(direct).max()


def test_implicit_gradient_is_that_of_unrolled_descent(problem):
  variables, images, labels, target = problem
  tree, size = body_to_tree(variables)

  def unrolled(learned):
    loss = lambda x: inner_loss(variables, tree(x), *learned)  # noqa: E731
    descend = lambda x, _: (x - 4.0 * jax.grad(loss)(x), None)  # noqa: E731
    x, _ = jax.lax.scan(descend, jnp.zeros(size), length=3000)
    return outer_loss(learned, tree(x), variables, target)

  gradients = implicit.gradient_fn(
    Smooth(),
    outer_loss,
    fitted_fn=lambda learned: labeled_set(*learned),
    level_fn=lambda learned: _LEVEL,
    solver='cg',
    num_steps=(size, size),
  )
  found = gradients((images, labels), variables, target, jnp.zeros(2))
  for direct, through, expected in zip(
    found.direct, found.implicit, jax.grad(unrolled)((images, labels)),
    strict=True,
  ):  # fmt: skip
    np.testing.assert_allclose(direct + through, expected, rtol=1e-4, atol=1e-7)


def test_curvature_and_descent_are_those_of_the_inner_loss(problem):
  variables, images, labels, _ = problem
  tree, size = body_to_tree(variables)
  slope, hessian = dense_hessian(variables, images, labels)
  own = implicit.inner_problem(
    Smooth(), variables, labeled_set(images, labels), _LEVEL
  )
  flat = lambda x: np.concatenate(  # noqa: E731
    [np.ravel(leaf) for leaf in jax.tree.leaves(x)]
  )
  close = {'rtol': 1e-9, 'atol': 1e-12}
  np.testing.assert_allclose(
    flat(implicit.descent(Smooth(), own)), -flat(tree(slope)), **close
  )
  x = jax.random.normal(jax.random.key(1), (size,), jnp.float64)
  np.testing.assert_allclose(
    flat(implicit.curvature(Smooth(), own, tree(x))),
    flat(tree(hessian @ x)),
    **close,
  )


@pytest.mark.parametrize('name', solvers.SOLVERS)
def test_solvers_reach_the_solution_and_tell_the_quadratic(name):
  rng = np.random.default_rng(0)
  root = rng.normal(size=(6, 6))
  matrix = jnp.asarray(root @ root.T + np.eye(6), jnp.float32)
  right = jnp.asarray(rng.normal(size=6), jnp.float32)
  way = solvers.solver(name, jnp.matmul)
  steps = {'adam': 2000, 'cg': 6}[name]
  x, values = solvers.solve(way, matrix, right, 0.01, steps)
  expected = np.linalg.solve(matrix, right)
  np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(values[0], 0.0)
  np.testing.assert_allclose(values[-1], -0.5 * right @ expected, rtol=0.05)
  # Each value is that of the x before its step.
  before, _ = solvers.solve(way, matrix, right, 0.01, 3)
  quadratic = 0.5 * before @ matrix @ before - right @ before
  np.testing.assert_allclose(values[3], quadratic, rtol=1e-4)


def test_adam_is_that_of_optax():
  matrix, right = jnp.diag(jnp.array([1.0, 3.0])), jnp.array([1.0, -2.0])
  found, _ = solvers.solve(
    solvers.solver('adam', jnp.matmul), matrix, right, 0.05, 7
  )
  tx, x = optax.adam(0.05), jnp.zeros(2)
  state = tx.init(x)
  for _ in range(7):
    updates, state = tx.update(matrix @ x - right, state)
    x = optax.apply_updates(x, updates)
  np.testing.assert_allclose(found, x, rtol=1e-5)


def test_conjugate_gradients_stay_where_nothing_is_left():
  way = solvers.solver('cg', lambda scale, x: scale * x)
  x, _ = solvers.solve(way, 2.0, jnp.ones(3), 0.0, 9)
  np.testing.assert_allclose(x, 0.5)
  x, _ = solvers.solve(way, 2.0, jnp.zeros(3), 0.0, 3)
  np.testing.assert_allclose(x, 0.0)


def test_rates_are_found_below_the_first_that_fails():
  matrix, right = jnp.diag(jnp.array([1.0, 30.0])), jnp.ones(2)
  way = solvers.solver('adam', jnp.matmul)

  def values_at(rate):
    return solvers.solve(way, matrix, right, rate, 5)[1]

  rate = solvers.find_rate(values_at, jnp.array(1e-5))
  assert solvers.is_monotone(values_at(rate))
  assert not solvers.is_monotone(values_at(rate / 0.7))


def test_rates_follow_every_fifty_steps():
  rates = solvers.first_rates(0.0, 0.0)
  down, up = jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0])
  for step in range(1, 51):
    # Every third of the second problem's solves ends above its start.
    other = up if step % 3 == 0 else down
    before = rates
    rates = solvers.followed(rates, (down, other), step, given=(False, False))
  assert before.monotone.tolist() == [49, 33]
  np.testing.assert_allclose(
    rates.values / before.values, [1.05, 0.9], rtol=1e-5
  )
  assert rates.monotone.tolist() == rates.failed.tolist() == [0, 0]
  kept = solvers.followed(before, (down, up), 50, given=(True, True))
  np.testing.assert_array_equal(kept.values, before.values)


def test_a_gradient_is_clipped_leaf_by_leaf():
  found = implicit.clipped(
    {'x': jnp.array([3.0, 4.0]), 'y': jnp.array([0.5]), 'z': jnp.zeros(2)},
    {'x': jnp.array([0.0, 1.0]), 'y': jnp.array([2.0]), 'z': jnp.ones(2)},
  )
  np.testing.assert_allclose(found['x'], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(found['y'], [0.5])
  np.testing.assert_allclose(found['z'], [0.0, 0.0])


def test_the_average_is_that_of_its_formula():
  rng = np.random.default_rng(0)
  sets = [rng.normal(size=(2, 1, 1, 1)).astype(np.float32) for _ in range(5)]
  hidden = np.zeros_like(sets[0])
  average = labeled_set(jnp.ones((2, 1, 1, 1)), jnp.ones((2, 2)))
  for step, images in enumerate(sets, 1):
    hidden = 0.9 * hidden + 0.1 * images
    learned = {'images': jnp.asarray(images), 'labels': jnp.ones((2, 2))}
    average = rcig.averaged(average, learned, step, 0.9)
    np.testing.assert_allclose(
      average.images, hidden / (1 - 0.9**step), rtol=1e-4
    )


def test_softplus_is_near_relu_and_shares_its_weights():
  network = extractors.ConvNet(width=4, depth=1, norm='none')
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  variables = network.init(jax.random.key(1), images)
  soft = layers.with_softplus(network, 60.0)
  assert soft == layers.with_softplus(network, 60.0)  # Nothing compiles twice.
  hard, smooth = (n.apply(variables, images)[1] for n in (network, soft))
  assert 0 < abs(hard - smooth).max() < 0.0116 + 1e-4
  with pytest.raises(TypeError, match='Smooth does not say its activation'):
    layers.with_softplus(Smooth(), 60.0)


def _run(own=_OWN, config=_CONFIG, network=None, start=None, **options):
  _, dataset, transform = toy.problem()
  network = network or extractors.Mlp(num_classes=3, depth=1, width=8)
  return frame.distill_by(
    *(rcig.RCIG, network, TargetSet(dataset, transform)),
    config=config,
    own=own,
    options=LoopOptions(log_every=1, **options),
    start=start,
  )


def test_the_result_is_the_average_and_networks_are_trained():
  states = []
  result = _run(state_fn=lambda step, state: states.append(state))
  last = states[-1]
  np.testing.assert_array_equal(result.synthetic.images, last.average.images)
  assert (last.average.images != last.learned['images']).any()
  assert len(result.seen) == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    result.seen,
    [online.variables for online in last.pool],
  )
  fresh = _run(dataclasses.replace(_OWN, online_learning_rate=1e-30))
  moved = jax.tree.map(lambda x, y: abs(x - y).max(), result.seen, fresh.seen)
  assert max(jax.tree.leaves(moved)) > 1e-6


def test_a_set_that_keeps_its_start_is_distilled_further():
  theta, target = toy.translator().theta, toy.target()
  given = in_theta.distill_in_theta(
    theta, target, ipcs=(1,), config=AdaptationConfig(num_steps=1)
  )[1]
  assert given.start is not None
  config = dataclasses.replace(_CONFIG, ipc=1, num_steps=1)
  kept, without = (
    _run(config=config, start=start)
    for start in (given, dataclasses.replace(given, start=None))
  )
  np.testing.assert_array_equal(kept.synthetic.images, without.synthetic.images)


@functools.cache
def _images(own, num_steps):
  config = dataclasses.replace(_CONFIG, num_steps=num_steps)
  return np.asarray(_run(own, config).synthetic.images)


@pytest.mark.parametrize(
  'changes',
  [
    {'pool_size': 3},
    {'max_online_updates': 1},
    {'online_learning_rate': 1e-2},
    {'most_online_steps': 5},
    {'mirror': False},
    {'platt_learning_rate': 1.0},
    {'platt_learning_rate': 0.0},
    {'ridge_per_image': 5.0},
    {'solver': 'cg'},
    {'num_inner_steps': 6},
    {'num_hessian_steps': 6},
    {'inner_learning_rate': 0.1},
    {'hessian_learning_rate': 0.1},
    {'inner_learning_rate': 0.0},
    {'softplus': 1.0},
    {'average': 0.1},
  ],
  ids=lambda changes: next(iter(changes)),
)
def test_each_setting_changes_the_set(changes):
  own = dataclasses.replace(_OWN, **changes)
  assert abs(_images(own, 6) - _images(_OWN, 6)).max() > 1e-6


def test_the_margin_changes_labels():
  own = dataclasses.replace(_OWN, margin=0.0)
  # Less than half of 1 / k apart, so that the margin pulls.
  start = labeled_set(toy.distilled().images, 0.1 * jnp.eye(3))
  _, dataset, transform = toy.problem()
  network = extractors.Mlp(num_classes=3, depth=1, width=8)
  config = dataclasses.replace(_CONFIG, num_steps=2, optimizer='sgd')
  found = [
    frame.distill_by(
      *(rcig.RCIG, network, TargetSet(dataset, transform)),
      config=config,
      own=settings,
      start=start,
    ).synthetic.labels
    for settings in (own, _OWN)
  ]
  assert abs(found[0] - found[1]).max() > 1e-5


def test_steps_lower_the_loss():
  losses = {}
  config = dataclasses.replace(_CONFIG, num_steps=40, learning_rate=0.05)
  _run(
    dataclasses.replace(_OWN, solver='cg'),
    config,
    progress_fn=lambda step, values: losses.update({step: values['loss']}),
  )
  assert losses[40] < losses[1]
  assert all(np.isfinite(list(losses.values())))


def test_networks_without_a_known_classifier_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r'layers\.Network.* got Smooth'):
    _run(network=Smooth(), workdir=tmp_path)
  assert not list(itertools.islice(tmp_path.iterdir(), 1))


@pytest.mark.parametrize('problem', ['inner', 'hessian'])
def test_a_search_by_one_step_is_refused_as_it_would_not_end(problem):
  own = dataclasses.replace(_OWN, **{f'num_{problem}_steps': 1})
  given = own.solver == 'adam' and getattr(own, f'{problem}_learning_rate')
  assert given  # So one step is enough.
  searched = {f'{problem}_learning_rate': 0.0}
  message = rf'num_{problem}_steps = 1 .* 2 or more, or give {problem}_learning'
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(own, **searched)
  dataclasses.replace(own, **searched, solver='cg')
