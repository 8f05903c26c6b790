"""How compare.py runs a method."""

import pytest

import toy
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from workbench import comparison_runs, curves, problems, runners


def test_a_time_of_one_step_is_told(monkeypatch):
  plan = comparison_runs.Plan(None, None, 60.0, 1, lambda config: None)
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


def test_an_adaptation_is_followed_from_the_start_that_it_had(tmp_path):
  (tmp_path / 'tiny_adapt.flags').write_text(
    '--num_steps=1\n--num_adaptation_steps=1\n--network_pool=1\n'
  )
  network, dataset, transform = toy.problem()
  problem = problems.AdaptationProblem(
    *(toy.translator(), network, NetworkConfig(), dataset, transform),
    DataConfig(),
  )
  runner = runners.make_runner(
    'adapt --short_classes=repeat',
    toy.problem(),
    toy.translator(),
    ipc=9,  # A class has eight images.
    settings=runners.Settings(str(tmp_path), 'tiny', NetworkConfig(), seed=4),
  )
  plan = comparison_runs.Plan(
    *(problem, None, 0.0, 1), comparison_runs.translating(problem)
  )
  snapshots, steps = comparison_runs.run(runner, plan)
  assert steps == 1
  assert [len(each.synthetic.mask) for each in snapshots] == [27, 27]
