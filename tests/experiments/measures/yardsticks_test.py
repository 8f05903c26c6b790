"""Both sides of a benchmark run, in turn, and do the same work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.algorithms.peers.peer_configs import RcigConfig, RfadConfig
from fsdd_jax.core import losses
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks.translator import Translator
from fsdd_jax.runtime import metrics
from measures import (
  adaptation_yardstick,
  peer_yardsticks,
  side_by_side,
  yardsticks,
)

_CACHING = CachingConfig(
  num_subsets=5,
  min_classes=2,
  max_classes=3,
  max_images=13,
  max_synthetic=7,
  num_steps=4,
  subsets_per_batch=2,
  ridge=1e-3,
)


def test_calls_are_timed_in_turn_after_a_warm_up():
  calls = []
  pairs = yardsticks.time_pairs(
    lambda: calls.append('measured'),
    lambda: calls.append('yardstick'),
    repeats=3,
  )
  assert calls == ['measured', 'yardstick'] * 5
  assert len(pairs.measured) == len(pairs.yardstick) == 3


def test_ratios_are_of_pairs():
  assert yardsticks.Pairs([1.0, 6.0], [2.0, 3.0]).ratios == [0.5, 2.0]


@pytest.mark.parametrize(
  'measure',
  [
    functools.partial(yardsticks.distillation_step, num_real=30),
    functools.partial(
      adaptation_yardstick.adaptation_step,
      translator=Translator(width=4, num_blocks=0),
      batch_size=2,
    ),
    functools.partial(
      peer_yardsticks.step_of,
      'rfad',
      own=RfadConfig(networks_per_step=2),
      real_batch=12,
    ),
    functools.partial(
      peer_yardsticks.step_of,
      'rcig',
      own=RcigConfig(pool_size=1, solver='cg', num_inner_steps=1),
      real_batch=12,
    ),
  ],
)
def test_both_sides_run_and_compile_before_they_are_timed(
  tiny_network, monkeypatch, measure
):
  calls = []

  def time_pairs(measured, yardstick, *, repeats):
    for call in (measured, yardstick):
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(call()))
    clock = metrics.StageClock()
    with clock.part('second'):
      jax.block_until_ready((measured(), yardstick()))
    assert set(clock.seconds()) == {'second'}
    calls.append(repeats)

  monkeypatch.setattr(yardsticks, 'time_pairs', time_pairs)
  network = tiny_network.clone(num_classes=yardsticks.NUM_CLASSES)
  measure(network=network, ipc=1, image_size=8, repeats=2)
  assert calls == [2]


def test_the_yardstick_is_the_gradient_of_translator_and_networks(tiny_network):
  translator = Translator(width=4, num_blocks=0, head_scale=1.0)
  features_of = losses.feature_fn(tiny_network)
  labeled = yardsticks.noisy_set(1, 8)
  sets = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), labeled)
  keys = jax.random.split(jax.random.key(0), 3)
  params = jax.jit(translator.init)(keys[0], labeled.images)['params']
  draw = jax.jit(tiny_network.init)
  networks = [draw(key, labeled.images) for key in keys[1:]]
  cotangent = jax.random.normal(
    keys[0], features_of(networks[0], labeled.images).shape
  )

  def total(params):
    images = translator.apply({'params': params}, sets.images)
    features = [features_of(*pair) for pair in zip(networks, images)]  # noqa: B905
    return sum(jnp.vdot(f, cotangent) for f in features)

  found = jax.jit(adaptation_yardstick._passes(translator, features_of))(
    params, jax.tree.map(lambda *x: jnp.stack(x), *networks), sets, cotangent
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3),
    found,
    jax.jit(jax.grad(total))(params),
  )


def test_caching_side_by_side_is_the_loop_with_padding(
  tiny_network, tiny_dataset, tiny_normalization
):
  result = side_by_side.compare(
    tiny_network,
    TargetSet(tiny_dataset, tiny_normalization),
    config=_CACHING,
  )
  assert 0 < result.difference < 1e-3
  first, second = result.passes
  assert first.batched_compilation > 0
  assert first.loop_compilation > 0
  assert second.batched_compilation == second.loop_compilation == 0.0
  assert second.batched > 0
  assert second.loop > 0
  assert 1 < result.num_shapes <= 5
  assert 0 < result.padded_synthetic < 0.5
