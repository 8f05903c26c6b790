"""Curves hold the sets of a method as it went, at times that never go back."""

import types

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.algorithms import adaptation, baseline, translated_sets
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import DistillationConfig
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


def _timed(monkeypatch, *parts):
  """A method whose steps take the given seconds, one list a part."""
  now = [0.0]
  monkeypatch.setattr(
    curves, 'time', types.SimpleNamespace(perf_counter=lambda: now[0])
  )

  def method(num_steps, options):
    for seconds in parts:
      synthetic = toy.distilled()
      for step in range(num_steps if callable(seconds) else len(seconds)):
        now[0] += seconds(step) if callable(seconds) else seconds[step]
        options.state_fn(step + 1, types.SimpleNamespace(synthetic=synthetic))

  return method


def test_steps_within_a_time_are_told_by_a_few(monkeypatch):
  method = _timed(monkeypatch, lambda step: 10.0 if step == 0 else 2.0)
  assert curves.steps_within(method, 60.0, unlike_later=1) == 26


def test_a_tenth_of_the_time_is_timed_where_that_is_longer(monkeypatch):
  # The eight steps after the first are fast; the next 22 take 0.5 s each.
  lasts = [5.0] + [0.2] * 8 + [0.5] * 22
  method = _timed(monkeypatch, lambda step: lasts[step])
  mean = (8 * 0.2 + 22 * 0.5) / 30
  expected = int((60.0 - 5.0 + mean) / mean)
  assert curves.steps_within(method, 60.0, unlike_later=1) == expected


def test_a_step_that_takes_longer_than_the_time_is_taken_once(monkeypatch):
  taken = []

  def slow(step):
    taken.append(step)
    return 38.0

  method = _timed(monkeypatch, slow)
  assert curves.steps_within(method, 60.0, unlike_later=1) == 1
  assert taken == [0, 1]  # The second one ends it.


def test_steps_of_one_part_are_timed_beside_the_others(monkeypatch):
  before, after = [0.5] * 20, [1.0] * 5
  method = _timed(monkeypatch, before, lambda step: 2.0, after)
  # Fifteen seconds are for the two other parts.
  assert curves.steps_within(method, 60.0, unlike_later=1, part=1) == 22
  # Three fit beside the part before.
  assert curves.steps_within(method, 16.5, unlike_later=1, part=1) == 3
  # Time is up before the part begins.
  assert curves.steps_within(method, 8.0, unlike_later=1, part=1) == 1


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
