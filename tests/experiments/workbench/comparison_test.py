"""Scores of methods beside each other."""

import toy
from fsdd_jax import types
from fsdd_jax.data import resolution
from fsdd_jax.evaluation import evaluate
from workbench import comparison, curves


def test_sets_of_a_smaller_theta_are_scored_as_they_are_translated():
  problem = toy.problem()
  dataset = problem[1]
  scoring = comparison.Scoring(
    *(problem, dataset, 'toy', {}), repeats=1, split='train', protocol='krr'
  )
  given = toy.distilled()
  large = types.labeled_set(given.images, given.labels)
  small = types.labeled_set(given.images[:, ::2, ::2], given.labels)
  enlarged = resolution.upsample(small, dataset.images.shape[1:])
  points = scoring.curve(
    [curves.Snapshot(0.0, 0, each) for each in (small, enlarged, large)]
  )
  assert points[0] == points[1]
  assert len(points) == 3


def test_curves_and_ends_leave_out_what_does_not_suit_the_images(monkeypatch):
  problem, seen = toy.problem(), []

  def scored(*arguments, settings, **further):
    seen.append(settings.without)
    return evaluate.Score('krr', '', 'train', (1.0,), 0.0)

  monkeypatch.setattr(evaluate, 'evaluate', scored)
  scoring = comparison.Scoring(
    *(problem, problem[1], 'digits', {'krr': ('krr', problem[0])}),
    repeats=1,
    split='train',
    protocol='krr',
  )
  given = toy.distilled()
  labeled = types.labeled_set(given.images, given.labels)
  scoring.curve([curves.Snapshot(0.0, 0, labeled)])
  scoring.end('krr', labeled)
  assert seen == [('flip',), ('flip',)]
