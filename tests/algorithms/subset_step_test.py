"""Regressions side by side give what they give one after another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.algorithms import subset_step
from fsdd_jax.core import krr, krr_errors
from fsdd_jax.runtime import residence


def _targets(kind, rng, features=5, labels=2):
  sets = [
    krr_errors.FeatureSet(
      jnp.asarray(rng.normal(size=(7, features)), dtype),
      jnp.asarray(rng.normal(size=(7, labels)), jnp.float32),
      jnp.ones(7).at[-1].set(0),
    )
    for dtype in (jnp.float16, jnp.float16, jnp.float16)
  ]
  if kind == 'features':
    return sets
  return [
    krr_errors.statistics(x.features.astype(jnp.float32), x.labels, x.mask)
    for x in sets
  ]


@pytest.mark.parametrize('kind', ['features', 'statistics'])
def test_losses_and_gradients_are_the_same(kind):
  rng = np.random.default_rng(0)
  targets = _targets(kind, rng)
  features = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
  labels = jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32)
  mask = jnp.ones((3, 4)).at[1, 2:].set(0)

  def loss_of(features, labels, mask, target):
    weights = krr.solve(features, labels, ridge=1e-3, mask=mask)
    return krr_errors.error_on('scale_free', weights, target)

  def total(features, labels, regressions):
    found = regressions(loss_of, (features, labels, mask), targets)
    return found.sum(), found

  ways = [
    jax.jit(
      jax.grad(functools.partial(total, regressions=way), (0, 1), has_aux=True)
    )(features, labels)
    for way in (subset_step.one_after_another, subset_step.side_by_side)
  ]
  assert ways[0][1].shape == (3,)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *ways
  )


def test_the_device_decides(monkeypatch):
  assert subset_step._suited() is subset_step.one_after_another
  monkeypatch.setattr(residence, 'is_cpu', lambda: False)
  assert subset_step._suited() is subset_step.side_by_side
