import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fsdd_jax.core import translator_step
from fsdd_jax.networks.translator import Translator, translate
from translator_updates import (
  SIZE,
  TRANSLATOR,
  assert_trees_close,
  make_batch,
  make_state,
  ridge_loss,
  sgd_step,
)


def naive_loss(params, batch):
  """The mean over samples, each translated alone (Alg. 2, lines 3-11)."""
  losses = []
  for i in range(SIZE):
    variables, labeled, target = jax.tree.map(lambda x, i=i: x[i], batch)
    translated = translate(TRANSLATOR, {'params': params}, labeled)
    losses.append(ridge_loss(variables, translated, target))
  return jnp.mean(jnp.stack(losses))


@pytest.fixture(scope='module')
def expected():
  return jax.jit(jax.value_and_grad(naive_loss))(
    make_state(optax.sgd(1.0)).params, make_batch()
  )


@pytest.mark.parametrize('networks_per_call', [1, 2])
@pytest.mark.parametrize('padding', [0, 2])
def test_step_follows_the_naive_gradient(expected, networks_per_call, padding):
  state = make_state(optax.sgd(1.0))
  before = jax.tree.map(np.array, state.params)
  state, metrics = sgd_step(networks_per_call)(state, *make_batch(padding))
  gradient = jax.tree.map(lambda x, y: x - y, before, state.params)
  loss, desired = expected
  assert int(state.step) == 1
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['gradient_norm'], optax.tree.norm(desired), rtol=1e-4
  )
  assert metrics['gradient_norm'] > 1e-3
  assert_trees_close(gradient, desired, rtol=1e-3)


def test_many_steps_compile_once_and_lower_the_loss():
  tx = optax.adam(3e-3)
  step = translator_step.make_step(TRANSLATOR, ridge_loss, tx)
  state, batch, losses = make_state(tx), make_batch(), []
  for _ in range(20):
    state, metrics = step(state, *batch)
    losses.append(float(metrics['loss']))
    assert step._cache_size() == 1
  assert int(state.step) == 20
  assert losses[-1] < 0.9 * losses[0]


def test_given_state_is_donated():
  state = make_state(optax.sgd(1.0))
  leaf = jax.tree.leaves(state.params)[0]
  sgd_step(1)(state, *make_batch())
  assert leaf.is_deleted()


def test_only_the_translator_learns():
  """Labels, networks and targets get no update; they are not in the state."""
  batch = make_batch()
  before = jax.tree.map(np.copy, batch)
  sgd_step(1)(make_state(optax.sgd(1.0)), *batch)
  jax.tree.map(np.testing.assert_array_equal, batch, before)


def test_spread_wraps_loss_and_gradient():
  calls = []

  def halves(compute):
    """What `Devices.mean` does on two devices, one after another."""

    def run(params, batch):
      calls.append(len(batch[1].mask))
      parts = [
        compute(
          params, jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch)
        )
        for i in range(2)
      ]
      return jax.tree.map(lambda x, y: (x + y) / 2, *parts)

    return run

  tx = optax.sgd(1.0)
  step = translator_step.make_step(TRANSLATOR, ridge_loss, tx, spread=halves)
  state, metrics = step(make_state(tx), *make_batch())
  whole, whole_metrics = sgd_step(1)(make_state(tx), *make_batch())
  assert calls == [SIZE]
  assert_trees_close(state.params, whole.params)
  np.testing.assert_allclose(metrics['loss'], whole_metrics['loss'], rtol=1e-5)


def test_init_state_draws_parameters_for_any_resolution():
  tx = optax.adam(1e-3)
  state = translator_step.init_state(
    jax.random.key(0), Translator(width=1, num_blocks=0), [4, 4, 1], tx
  )
  assert int(state.step) == 0
  assert state.params['stem']['kernel'].shape == (3, 3, 1, 1)
  images = Translator(width=1, num_blocks=0).apply(
    {'params': state.params}, jnp.ones((2, 8, 12, 1))
  )
  assert images.shape == (2, 8, 12, 1)
  moments = optax.tree.get(state.opt_state, 'mu')
  jax.tree.map(
    np.testing.assert_array_equal,
    moments,
    jax.tree.map(jnp.zeros_like, state.params),
  )
