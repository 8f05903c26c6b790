"""The optimiser step on synthetic images and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.core import distill_step
from fsdd_jax.types import labeled_set


def _set():
  rng = np.random.default_rng(0)
  return labeled_set(
    jnp.asarray(rng.standard_normal((4, 2, 2, 1)), jnp.float32),
    jnp.asarray(rng.standard_normal((4, 3)), jnp.float32),
  )


def _quadratic(synthetic, scale):
  return scale * (
    jnp.sum(synthetic.images**2) + 0.5 * jnp.sum(synthetic.labels**2)
  )


def test_sgd_is_the_literal_update():
  tx = distill_step.make_optimizer('sgd', 0.1, label_learning_rate=0.2)
  start = _set()
  state, metrics = distill_step.make_step(_quadratic, tx)(
    distill_step.init_state(start, tx), 1.0
  )
  np.testing.assert_allclose(
    state.synthetic.images, 0.8 * start.images, rtol=1e-6
  )
  np.testing.assert_allclose(
    state.synthetic.labels, 0.8 * start.labels, rtol=1e-6
  )
  np.testing.assert_allclose(metrics['loss'], _quadratic(start, 1.0), rtol=1e-6)
  assert int(state.step) == 1


@pytest.mark.parametrize('name', sorted(distill_step.OPTIMIZERS))
def test_every_optimizer_descends_and_label_rate_zero_fixes_labels(name):
  tx = distill_step.make_optimizer(name, 0.05, label_learning_rate=0.0)
  start = _set()
  step = distill_step.make_step(_quadratic, tx)
  state = distill_step.init_state(start, tx)
  for _ in range(5):
    state, _ = step(state, 1.0)
  np.testing.assert_array_equal(state.synthetic.labels, start.labels)
  assert _quadratic(state.synthetic, 1.0) < _quadratic(start, 1.0)


def test_a_step_that_is_not_finite_changes_nothing():
  tx = distill_step.make_optimizer('adam', 0.1)
  start = _set()
  step = distill_step.make_step(_quadratic, tx)
  state, metrics = step(distill_step.init_state(start, tx), jnp.nan)
  assert np.isnan(metrics['loss'])
  np.testing.assert_array_equal(state.synthetic.images, start.images)
  state, _ = step(state, 1.0)
  assert np.isfinite(state.synthetic.images).all()


def test_a_second_step_compiles_nothing():
  tx = distill_step.make_optimizer('adam', 0.1)
  step = distill_step.make_step(_quadratic, tx)
  state, _ = step(distill_step.init_state(_set(), tx), jnp.float32(1.0))
  state, _ = step(state, jnp.float32(2.0))
  assert step._cache_size() == 1


def test_resumed_equals_straight():
  tx = distill_step.make_optimizer('adam', 0.1)
  step = distill_step.make_step(_quadratic, tx)

  def until(num_steps, state):
    for index in range(int(state.step), num_steps):
      key = jax.random.fold_in(jax.random.key(0), index)
      state, _ = step(state, jax.random.uniform(key))
    return state

  straight = until(6, distill_step.init_state(_set(), tx))
  half = until(3, distill_step.init_state(_set(), tx))
  resumed = until(6, half)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (('sdg', 0.1), "Unknown optimizer 'sdg'.*adam"),
    (('adam', 0.0), 'must be positive'),
    (('adam', -1.0), 'must be positive'),
  ],
)
def test_bad_optimizers_are_named(arguments, match):
  with pytest.raises(ValueError, match=match):
    distill_step.make_optimizer(*arguments)
