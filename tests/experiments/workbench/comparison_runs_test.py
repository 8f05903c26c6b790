"""What compare.py says of a method that its time does not suit."""

import pytest

from fsdd_jax.algorithms.configs import DistillationConfig, NetworkConfig
from workbench import comparison_runs, curves, runners


def test_a_time_of_one_step_is_told(monkeypatch):
  plan = comparison_runs.Plan(None, None, 60.0, 1, None)
  runner = runners.Runner(
    *('w Ada, 16 networks', lambda steps, options: None, 600, 16),
    *(NetworkConfig(), DistillationConfig(), {}, 1),
  )
  seen = []

  def within(run, seconds, **settings):
    seen.append((seconds, settings))
    return 1

  monkeypatch.setattr(curves, 'steps_within', within)
  monkeypatch.setattr(curves, 'record', lambda run, **settings: ['end'])
  with pytest.warns(
    UserWarning, match='60 s leave w Ada, 16 networks a single'
  ):
    assert comparison_runs.run(runner, plan) == (['end'], 1)
  assert seen == [(60.0, {'unlike_later': 16, 'part': 1, 'translate_fn': None})]
