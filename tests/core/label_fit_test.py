"""Labels in closed form against float64 least squares over all networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.core import krr, krr_errors, label_fit

_RIDGE = 1e-3


def _networks(n, d, *, num_target=50, num_networks=3):
  """Features of n images and of a target set in each network, and labels."""
  rng = np.random.default_rng(0)
  labels = rng.standard_normal((n, 4)).astype(np.float32)
  truth = rng.standard_normal((num_target, 4)).astype(np.float32)
  mask = np.ones(num_target, np.float32)
  each = [
    tuple(
      np.abs(rng.standard_normal((size, d))).astype(np.float32)
      for size in (n, num_target)
    )
    for _ in range(num_networks)
  ]
  return each, labels, truth, mask


def _predictor(features, seen):
  """`[m, n]` in float64: what predictions are of labels, by the closed form."""
  features, seen = features.astype(np.float64), seen.astype(np.float64)
  kernel = features @ features.T
  level = _RIDGE * np.trace(kernel) / len(kernel)
  kernel += level * np.eye(len(kernel))
  return seen @ np.linalg.solve(kernel, features).T


@jax.jit
def _sums(features, mask, target):
  return label_fit.label_sums(features, mask, target, ridge=_RIDGE)


def _total(each, mask, targets):
  parts = [_sums(x, mask, t) for (x, _), t in zip(each, targets, strict=True)]
  return jax.tree.map(lambda *x: sum(x), *parts)


@pytest.mark.parametrize(('n', 'd'), [(6, 30), (20, 9)])
@pytest.mark.parametrize('strength', [1e-2, 1.0])
def test_labels_are_those_of_penalised_least_squares(n, d, strength):
  each, labels, truth, mask = _networks(n, d)
  # Near the truth, so that their best multiple is positive.
  first = _predictor(*each[0])
  labels += 3 * np.linalg.lstsq(first, truth, rcond=None)[0]
  targets = [krr_errors.statistics(seen, truth, mask) for _, seen in each]
  found = label_fit.fit(
    _total(each, jnp.ones(n), targets), labels, jnp.ones(n), strength=strength
  )

  stacked = np.concatenate([_predictor(*x) for x in each]) / np.sqrt(50)
  goal = np.tile(truth.astype(np.float64), (3, 1)) / np.sqrt(50)
  prior = labels.astype(np.float64)
  predicted = stacked @ prior
  multiple = np.sum(predicted * goal) / np.sum(predicted**2)
  assert multiple > 0
  level = strength * np.trace(stacked.T @ stacked) / n
  rows = np.concatenate([stacked, np.sqrt(level) * np.eye(n)])
  right = np.concatenate([goal / multiple, np.sqrt(level) * prior])
  expected = np.linalg.lstsq(rows, right, rcond=None)[0]
  expected *= np.linalg.norm(prior) / np.linalg.norm(expected)
  np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_fitted_labels_lower_the_error_of_the_closed_form():
  each, labels, truth, mask = _networks(6, 30)
  targets = [krr_errors.statistics(seen, truth, mask) for _, seen in each]
  fitted = label_fit.fit(
    _total(each, jnp.ones(6), targets), labels, jnp.ones(6), strength=1e-6
  )

  @jax.jit
  def error(labels):
    return sum(
      krr_errors.scale_free_error_from_statistics(
        krr.solve(features, labels, ridge=_RIDGE), target
      )
      for (features, _), target in zip(each, targets, strict=True)
    )

  assert error(fitted) < error(labels)


def test_features_of_the_target_do_as_their_sums():
  each, _, truth, mask = _networks(6, 30)
  mask[40:] = 0
  for features, seen in each:
    padded = np.where(mask[:, None] > 0, seen, 7.0)
    by_sums, by_features = (
      _sums(features, jnp.ones(6), target)
      for target in (
        krr_errors.statistics(seen[:40], truth[:40]),
        krr_errors.FeatureSet(padded, truth * mask[:, None], mask),
      )
    )
    for a, b in zip(
      jax.tree.leaves(by_sums), jax.tree.leaves(by_features), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_padding_changes_no_label():
  each, labels, truth, mask = _networks(6, 30)
  targets = [krr_errors.statistics(seen, truth, mask) for _, seen in each]
  alone = label_fit.fit(
    _total(each, jnp.ones(6), targets), labels, jnp.ones(6), strength=0.1
  )
  junk = np.full((2, 30), 3.0, np.float32)
  padded = [(np.concatenate([x, junk]), seen) for x, seen in each]
  own = jnp.array([1.0] * 6 + [0.0] * 2)
  found = label_fit.fit(
    _total(padded, own, targets),
    np.concatenate([labels, np.ones((2, 4), np.float32)]),
    own,
    strength=0.1,
  )
  np.testing.assert_allclose(found[:6], alone, rtol=1e-3, atol=1e-3)
  assert not np.any(found[6:])


def _halves(num_networks, scale):
  """Half-sums of labels near the truth, by `scale` of noise, and by numpy."""
  each, _, truth, mask = _networks(12, 40, num_networks=num_networks)
  first = _predictor(*each[0])
  near = np.linalg.lstsq(first, truth, rcond=None)[0]
  noise = np.random.default_rng(1).standard_normal(near.shape)
  labels = (near + scale * noise).astype(np.float32)
  targets = [krr_errors.statistics(seen, truth, mask) for _, seen in each]
  halves = tuple(
    _total(each[start::2], jnp.ones(12), targets[start::2]) for start in (0, 1)
  )
  return each, labels, truth.astype(np.float64), halves


@pytest.mark.parametrize('scale', [0.0, 0.3, 3.0])
def test_each_half_of_the_networks_chooses_for_the_other(scale):
  each, labels, truth, halves = _halves(6, scale)
  found, strength = label_fit.fit_checked(halves, labels, jnp.ones(12))

  def score(strength):
    total = 0.0
    for own in (0, 1):
      fitted = label_fit.fit(
        halves[own], labels, jnp.ones(12), strength=strength
      )
      fitted = np.asarray(fitted, np.float64)
      predicted = np.stack(
        [_predictor(*x) @ fitted for x in each[1 - own :: 2]]
      )
      multiple = np.sum(predicted * truth) / np.sum(predicted**2)
      total -= np.sum((multiple * predicted - truth) ** 2)
    return total

  assert strength == np.float32(max(label_fit.STRENGTHS, key=score))
  whole = jax.tree.map(jnp.add, *halves)
  expected = label_fit.fit(whole, labels, jnp.ones(12), strength=strength)
  np.testing.assert_array_equal(found, expected)


def test_labels_that_say_nothing_move_further_than_good_ones():
  strengths = []
  for scale in (0.0, 10.0):
    _, labels, _, halves = _halves(6, scale)
    found = label_fit.fit_checked(halves, labels, jnp.ones(12))
    strengths.append(float(found[1]))
  good, poor = strengths
  assert good > poor


def test_labels_that_predict_worse_than_nothing_are_replaced():
  sums = label_fit.LabelSums(jnp.eye(2), jnp.eye(2))
  found = label_fit.fit(sums, -jnp.eye(2), jnp.ones(2), strength=0.1)
  np.testing.assert_allclose(found, np.eye(2), rtol=1e-6)


def test_labels_that_predict_next_to_nothing_do_not_blow_up():
  sums = label_fit.LabelSums(jnp.eye(2), jnp.eye(2))
  near = jnp.array([[1e-6, 1.0], [-1.0, 1e-6]])
  for labels in (near, jnp.zeros((2, 2))):
    found = label_fit.fit(sums, labels, jnp.ones(2), strength=0.1)
    assert 0 < np.linalg.norm(found) < 2


def test_halves_that_contradict_each_other_leave_labels_alone():
  one = label_fit.LabelSums(jnp.eye(2), jnp.eye(2))
  two = label_fit.LabelSums(jnp.eye(2), -jnp.eye(2))
  labels = jnp.array([[1.0, 0.5], [0.5, 1.0]])
  _, strength = label_fit.fit_checked((one, two), labels, jnp.ones(2))
  assert strength == max(label_fit.STRENGTHS)
