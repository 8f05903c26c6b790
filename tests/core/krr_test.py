"""Closed-form solver against a float64 NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fsdd_jax.core import krr, krr_errors

# Jitted, as all that calls it is; op by op it would be compiled for longer.
solve = jax.jit(krr.solve)


def oracle(features, labels, ridge):
  """Minimum-norm ridge solution in float64, dual form, by pseudo-inverse."""
  features = np.asarray(features, np.float64)
  kernel = features @ features.T
  level = ridge * np.trace(kernel) / len(kernel)
  inverse = np.linalg.pinv(kernel + level * np.eye(len(kernel)), rcond=1e-10)
  return features.T @ inverse @ np.asarray(labels, np.float64)


def make(n, d, k=3, seed=0):
  rng = np.random.default_rng(seed)
  # Positive features, as after ReLU: the hard case for conditioning.
  features = np.abs(rng.standard_normal((n, d))).astype(np.float32)
  labels = rng.standard_normal((n, k)).astype(np.float32)
  return jnp.asarray(features), jnp.asarray(labels)


@pytest.mark.parametrize('ridge', [0.0, 1e-6, 1e-2])
@pytest.mark.parametrize(('n', 'd'), [(5, 40), (40, 5), (12, 13)])
def test_solve_equals_oracle(n, d, ridge):
  features, labels = make(n, d)
  weights = solve(features, labels, ridge=ridge)
  probe, _ = make(7, d, seed=1)
  expected = np.asarray(probe, np.float64) @ oracle(features, labels, ridge)
  np.testing.assert_allclose(
    krr.predict(probe, weights), expected, rtol=2e-3, atol=2e-3
  )


@pytest.mark.parametrize(
  ('n', 'd', 'more'),
  [(6, 30, 4), (30, 8, 4), (6, 30, 90)],  # Of few images among much padding.
)
@pytest.mark.parametrize('ridge', [0.0, 1e-6, 1e-3])
def test_padding_changes_neither_weights_nor_gradients(n, d, more, ridge):
  features, labels = make(n, d)
  rng = np.random.default_rng(2)
  junk = jnp.asarray(rng.standard_normal((more, d)), jnp.float32)
  padded = jnp.concatenate([features, junk])
  padded_labels = jnp.pad(labels, [(0, more), (0, 0)], constant_values=5.0)
  mask = jnp.concatenate([jnp.ones(n), jnp.zeros(more)])

  def total(features, labels, mask):
    weights = solve(features, labels, ridge=ridge, mask=mask)
    return jnp.sum(jnp.sin(weights)), weights

  grad = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
  gradient, weights = grad(features, labels, None)
  padded_gradient, padded_weights = grad(padded, padded_labels, mask)
  np.testing.assert_allclose(padded_weights, weights, rtol=1e-3, atol=1e-4)
  for plain, with_padding in zip(gradient, padded_gradient, strict=True):
    np.testing.assert_allclose(with_padding[:n], plain, rtol=5e-3, atol=1e-3)
    np.testing.assert_array_equal(with_padding[n:], 0.0)


def test_padded_rows_of_a_kernel_have_no_coefficients():
  features, labels = make(6, 20)
  kernel, padding = features @ features.T, [(0, 3), (0, 3)]
  found = krr.solve_kernel(
    jnp.pad(kernel, padding),
    jnp.pad(labels, [(0, 3), (0, 0)], constant_values=5.0),
    ridge=1e-2,
    mask=jnp.pad(jnp.ones(6), (0, 3)),
  )
  expected = krr.solve_kernel(kernel, labels, ridge=1e-2)
  np.testing.assert_allclose(found[:6], expected, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(found[6:], 0.0)


@pytest.mark.parametrize('ridge', [0.0, 1e-6])
def test_duplicate_images_give_a_finite_solution(ridge):
  features, labels = make(20, 100)
  features = jnp.concatenate([features, features])
  labels = jnp.concatenate([labels, labels + 0.1])
  weights = solve(features, labels, ridge=ridge)
  expected = oracle(features, labels, ridge)
  predicted = krr.predict(features, weights)
  # The condition number is above 1e6, so float32 leaves hardly two digits; how
  # many depends on the order in which a processor's kernels add.
  np.testing.assert_allclose(
    predicted, np.asarray(features) @ expected, atol=1e-1
  )
  # Twins with different labels are both predicted at their mean.
  np.testing.assert_allclose(predicted[:20], predicted[20:], atol=1e-4)
  gradient = jax.grad(lambda f: jnp.sum(solve(f, labels, ridge=ridge) ** 2))(
    features
  )
  assert np.isfinite(gradient).all()


def test_constant_images_and_one_image_are_finite():
  constant = solve(jnp.ones((8, 16)), jnp.eye(8), ridge=0.0)
  one = solve(jnp.ones((1, 16)), jnp.ones((1, 2)), ridge=0.0)
  assert np.isfinite(constant).all()
  np.testing.assert_allclose(one, 1 / 16, rtol=1e-5)


def test_nan_features_stay_visible():
  features, labels = make(5, 9)
  weights = solve(features.at[2, 3].set(jnp.nan), labels, ridge=1e-6)
  assert np.isnan(weights).any()


@pytest.mark.parametrize(('n', 'd'), [(4, 9), (9, 4)])
def test_gradients_by_finite_differences(n, d):
  features, labels = make(n, d)
  target, target_labels = make(6, d, seed=3)

  def loss(features, labels):
    weights = solve(features, labels, ridge=1e-2)
    return krr_errors.mean_squared_error(weights, target, target_labels)

  with jax.enable_x64(True):
    arrays = [jnp.asarray(np.float64(x)) for x in (features, labels)]
    target, target_labels = np.float64(target), np.float64(target_labels)
    check_grads(jax.jit(loss), arrays, order=1, modes=['fwd', 'rev'], eps=1e-6)


@pytest.mark.parametrize('error', krr_errors.ERRORS)
def test_errors_leave_out_masked_rows(error):
  features, labels = make(10, 6)
  weights = solve(features, labels, ridge=1e-1)
  mask = jnp.asarray([1.0] * 7 + [0.0] * 3)
  whole = krr_errors.FeatureSet(features, labels, mask)
  kept = krr_errors.FeatureSet(features[:7], labels[:7], jnp.ones(7))
  np.testing.assert_allclose(
    krr_errors.error_on(error, weights, whole),
    krr_errors.error_on(error, weights, kept),
    rtol=1e-6,
  )


def test_statistics_add_up_to_the_direct_loss_within_the_stated_bound():
  batch_size, num_batches, d, k = 64, 16, 32, 4
  features, labels = make(batch_size * num_batches, d, k, seed=4)
  fit, fit_labels = make(20, d, k, seed=5)
  weights = solve(fit, fit_labels, ridge=1e-3)
  total = krr_errors.zero_statistics(d, k)
  for start in range(0, len(features), batch_size):
    part = slice(start, start + batch_size)
    batch = krr_errors.statistics(features[part], labels[part])
    total = jax.tree.map(jnp.add, total, batch)
  p, y, w = (np.asarray(x, np.float64) for x in (features, labels, weights))
  direct = ((p @ w - y) ** 2).sum() / len(p)
  found = float(krr_errors.mean_squared_error_from_statistics(weights, total))
  scale = np.abs(p) @ np.abs(w)
  terms = (scale**2).sum() + 2 * (scale * np.abs(y)).sum() + (y**2).sum()
  bound = (batch_size + num_batches + 2 * d) * 2.0**-24 * terms / len(p)
  assert abs(found - direct) <= bound
  assert bound < 0.1 * direct
  np.testing.assert_allclose(found, direct, rtol=1e-4)


def test_masked_statistics_equal_those_of_the_kept_rows():
  features, labels = make(9, 5)
  mask = jnp.asarray([1.0] * 6 + [0.0] * 3)
  kept = krr_errors.statistics(features[:6], labels[:6])
  for a, b in zip(
    jax.tree.leaves(krr_errors.statistics(features, labels, mask)),
    jax.tree.leaves(kept),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_condition_number_equals_numpy():
  features, _ = make(6, 20)
  kernel = np.asarray(features, np.float64) @ np.asarray(features).T
  expected = np.linalg.cond(kernel + 1e-3 * np.trace(kernel) / 6 * np.eye(6))
  found = krr.condition_number(features, ridge=1e-3)
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_vmap_equals_a_loop():
  features, labels = zip(*[make(5, 8, seed=s) for s in range(3)], strict=True)
  stacked = jnp.stack(features), jnp.stack(labels)
  found = jax.vmap(lambda f, y: solve(f, y, ridge=1e-4))(*stacked)
  for i in range(3):
    one = solve(features[i], labels[i], ridge=1e-4)
    np.testing.assert_allclose(found[i], one, rtol=1e-3, atol=1e-4)


def scale_free_oracle(weights, features, labels):
  """The best multiple by a search over a grid, in float64."""
  weights, features, labels = (
    np.asarray(x, np.float64) for x in (weights, features, labels)
  )
  predictions = features @ weights
  errors = [
    ((a * predictions - labels) ** 2).sum(1).mean()
    for a in np.linspace(0, 4, 40001)
  ]
  return min(errors)


@pytest.mark.parametrize('seed', range(3))
def test_scale_free_error_is_that_of_the_best_multiple(seed):
  features, labels = make(20, 6, seed=seed)
  weights = 0.7 * solve(features, labels, ridge=1e-1)
  expected = scale_free_oracle(weights, features, labels)
  stats = krr_errors.statistics(features, labels)
  for found in (
    krr_errors.scale_free_error(weights, features, labels),
    krr_errors.scale_free_error(100.0 * weights, features, labels),
    krr_errors.scale_free_error_from_statistics(weights, stats),
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_scale_free_error_of_opposite_predictions_leads_back():
  features, labels = make(20, 6)
  weights = solve(features, labels, ridge=1e-1)
  energy = np.square(labels).sum(1).mean()
  error = jax.jit(jax.value_and_grad(krr_errors.scale_free_error))
  value, _ = error(weights, features, labels)
  nothing, at_nothing = error(0.0 * weights, features, labels)
  opposite, at_opposite = error(-weights, features, labels)
  np.testing.assert_allclose(nothing, energy, rtol=1e-5)
  np.testing.assert_allclose(energy - value, opposite - energy, rtol=1e-4)
  assert np.isfinite(at_nothing).all()
  # No plateau: a small step against the gradient lowers the error.
  step = -weights - 1e-2 * at_opposite / np.linalg.norm(at_opposite)
  assert error(step, features, labels)[0] < opposite


def test_scale_free_gradients_by_finite_differences():
  features, labels = make(4, 9)
  target, target_labels = make(6, 9, seed=3)

  def losses(features, labels):
    weights = solve(features, labels, ridge=1e-2)
    stats = krr_errors.statistics(target, target_labels)
    return (
      krr_errors.scale_free_error(weights, target, target_labels),
      krr_errors.scale_free_error_from_statistics(weights, stats),
    )

  with jax.enable_x64(True):
    arrays = [jnp.asarray(np.float64(x)) for x in (features, labels)]
    target, target_labels = np.float64(target), np.float64(target_labels)
    check_grads(
      jax.jit(losses), arrays, order=1, modes=['fwd', 'rev'], eps=1e-6
    )


def test_the_caller_may_jit_vmap_and_differentiate_at_once():
  features, labels = zip(*[make(5, 8, seed=s) for s in range(3)], strict=True)

  def total(features, labels):
    weights = solve(features, labels, ridge=1e-3)
    return jnp.sum(krr.predict(features, weights) ** 2)

  found = jax.jit(jax.vmap(jax.grad(total)))(
    jnp.stack(features), jnp.stack(labels)
  )
  for i in range(3):
    one = jax.jit(jax.grad(total))(features[i], labels[i])
    np.testing.assert_allclose(found[i], one, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('shape', [(3, 5), (5, 3)])
def test_eager_calls_compile_once(shape, caplog):
  first, *others = [make(*shape, seed=seed) for seed in range(3)]
  krr.solve(*first, ridge=1e-3)
  with jax.log_compiles(), caplog.at_level('WARNING'):
    for other in others:
      krr.solve(*other, ridge=1e-3)
    found = [x for x in caplog.messages if 'Compiling' in x]
    jax.jit(lambda x: x + 1)(first[0])  # Such a message is seen.
  assert not found
  assert any('Compiling' in message for message in caplog.messages)


def test_half_precision_is_solved_in_single():
  features, labels = make(3, 5)
  half = features.astype(jnp.bfloat16)
  found = krr.solve(half, labels, ridge=1e-3)
  expected = krr.solve(half.astype(jnp.float32), labels, ridge=1e-3)
  np.testing.assert_array_equal(found, expected)


def test_few_images_anywhere_among_padding_are_solved_by_their_kernel():
  features, labels = make(20, 64)
  places = np.sort(np.random.default_rng(3).permutation(500)[:20])
  padded = jnp.zeros((500, 64)).at[places].set(features)
  padded_labels = jnp.zeros((500, 3)).at[places].set(labels)
  mask = jnp.zeros(500).at[places].set(1.0)
  found = solve(padded, padded_labels, ridge=1e-6, mask=mask)
  expected = oracle(features, labels, 1e-6)
  np.testing.assert_allclose(
    krr.predict(features, found),
    np.asarray(features, np.float64) @ expected,
    atol=1e-4,
  )
