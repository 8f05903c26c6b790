"""Curves hold the sets of a method as it went, at times that never go back."""

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.algorithms import adaptation, baseline, translated_sets
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.method_configs import AdaptationConfig
from fsdd_jax.networks import translator
from workbench import curves

_POOL = DistillationConfig(ipc=1, num_steps=4, num_networks=2, revisit=True)
_ADAPTATION = AdaptationConfig(
  adapt_ipcs=(1,),
  num_steps=2,
  num_adaptation_steps=3,
  batch_size=1,
  network_pool=2,
)


def test_the_last_snapshot_is_the_result_of_the_method():
  results = []

  def method(options):
    results.append(
      baseline.distill_over_networks(
        toy.problem()[0], toy.target(), config=_POOL, options=options
      )
    )

  snapshots = curves.record(method, every=2)
  assert [snapshot.step for snapshot in snapshots] == [2, 4]
  seconds = [snapshot.seconds for snapshot in snapshots]
  assert seconds == sorted(seconds)
  assert seconds[0] > 0
  last = snapshots[-1].synthetic.images
  np.testing.assert_array_equal(last, results[0].synthetic.images)
  assert np.abs(snapshots[0].synthetic.images - last).max() > 0


def _translated(params, labeled):
  module = toy.translator().translator
  return translator.translate(module, {'params': params}, labeled)


def test_adaptation_is_followed_through_the_translator():
  network = toy.problem()[0]
  results = []

  def method(options):
    results.append(
      adaptation.adapt(
        network,
        toy.translator(),
        toy.target(),
        config=_ADAPTATION,
        options=options,
      )
    )

  snapshots = curves.record(method, every=1, translate_fn=_translated)
  # Two steps in theta, then three of the translator.
  assert [snapshot.step for snapshot in snapshots] == [1, 2, 1, 2, 3]
  expected = translated_sets.distill_dataset(
    results[0].translator,
    toy.target(),
    ipc=1,
    config=_ADAPTATION,
    in_theta=results[0].distilled_in_theta[1],
  )
  np.testing.assert_allclose(
    snapshots[-1].synthetic.images, expected.images, atol=1e-5
  )


def test_a_method_with_a_translator_needs_one():
  network = toy.problem()[0]
  with pytest.raises(ValueError, match='pass translate_fn'):
    curves.record(
      lambda options: adaptation.adapt(
        network,
        toy.translator(),
        toy.target(),
        config=_ADAPTATION,
        options=options,
      ),
      every=1,
    )


def test_scores_are_in_the_same_networks():
  network, dataset, transform = toy.problem()
  snapshots = curves.record(
    lambda options: baseline.distill_over_networks(
      toy.problem()[0], toy.target(), config=_POOL, options=options
    ),
    every=4,
  )
  first, second = curves.score(
    jax.random.key(0),
    [snapshots[0], snapshots[0]],
    dataset,
    transform,
    network,
    repeats=2,
    split='train',
  )
  assert first == second
  assert first.n == 2
