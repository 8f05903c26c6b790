"""What an estimate counts; how long a call takes is not tested."""

import dataclasses
import pathlib

import jax.numpy as jnp
import pytest

import toy
from measures import costs, programs
from measures.programs import Program
from workbench import columns, estimates, score_estimates, tasks
from workbench.tasks import Task

_TARGET = ('--dataset=digits', '--width=4')
_LARGE = ('--dataset=fractals:4', '--image_size=8', '--width=4')
_SUBSETS = (
  *('--min_classes=2', '--max_classes=3', '--max_images=12'),
  '--max_synthetic=6',
)
_PROBLEM = programs.Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)


def _distil(*flags):
  return Task('distil', 'distill.py', (*_TARGET, *flags))


def test_seconds_add_up_and_memory_is_the_most():
  first, second = costs.Estimate(1.0, 300), costs.Estimate(2.0, 200)
  assert first.then(second.times(4)) == costs.Estimate(9.0, 300)
  assert first.times(0) == costs.NOTHING
  assert first.beside(50).num_bytes == 350


def test_the_compiler_tells_the_bytes_of_what_is_held():
  found = costs.measure(
    Program(lambda x: jnp.sin(x).sum(), lambda: (jnp.ones(1000),))
  )
  assert found.num_bytes >= 4000


def test_a_pass_grows_with_the_real_images():
  one = costs.real_pass(dataclasses.replace(_PROBLEM, num_real=2**12))
  # 2^18 pixels a batch are 2^12 images of 8 x 8.
  many = costs.real_pass(dataclasses.replace(_PROBLEM, num_real=3 * 2**12))
  assert one.num_bytes == many.num_bytes


def test_seconds_of_distillation_grow_with_its_steps():
  short = estimates.of_task(_distil('--num_steps=10', '--num_networks=1'))
  long = estimates.of_task(_distil('--num_steps=110', '--num_networks=1'))
  longer = estimates.of_task(_distil('--num_steps=210', '--num_networks=1'))
  assert longer.seconds - long.seconds == pytest.approx(
    long.seconds - short.seconds
  )
  assert long.num_bytes == short.num_bytes


def test_a_pool_pays_a_pass_a_network_and_keeps_them():
  steps = '--num_steps=8'
  four, eight, batches = (
    estimates.of_task(_distil(steps, *flags))
    for flags in (
      ('--num_networks=4', '--revisit'),
      ('--num_networks=8', '--revisit'),
      ('--num_networks=8', '--real_batch=50'),
    )
  )
  assert eight.seconds > four.seconds
  assert eight.num_bytes > four.num_bytes > 0
  assert batches.seconds > 0


def test_an_error_that_needs_features_is_estimated_with_them():
  steps = ('--num_steps=8', '--num_networks=4', '--revisit')
  sums, features = (
    estimates.of_task(_distil(*steps, f'--loss={loss}'))
    for loss in ('squared', 'platt')
  )
  assert features.seconds > 0
  assert features.num_bytes != sums.num_bytes


def test_every_kind_of_task_is_estimated():
  cache = Task('cache', 'cache.py', (*_LARGE, *_SUBSETS, '--num_subsets=4'))
  small = ('--translator_width=4', '--translator_blocks=0', '--batch_size=1')
  pretrain, copy = (
    Task(
      objective,
      'pretrain.py',
      (*_LARGE, *small, f'--objective={objective}', '--num_steps=20'),
      {'cache': cache},
    )
    for objective in ('translation', 'reconstruction')
  )
  theta = Task(
    'bilevel',
    'bilevel.py',
    (*_LARGE, *_SUBSETS, '--num_steps=2', '--num_updates=3'),
  )
  ours = ('--dataset=fractals:3', '--image_size=16', '--width=4', '--ipc=1')
  adapt = Task(
    'adapt',
    'adapt.py',
    (*ours[:3], '--adapt_ipcs=1', '--network_pool=2', '--batch_size=1'),
    {'translator': pretrain},
  )
  bilevel = Task('b', 'distill.py', ours, {'theta': theta})
  for task in (cache, pretrain, copy, theta, adapt, bilevel):
    found = estimates.of_task(task)
    assert found.seconds > 0
    assert found.num_bytes > 0
  without = dataclasses.replace(
    adapt, arguments=(*adapt.arguments, '--num_adaptation_steps=0')
  )
  assert estimates.of_task(without).seconds < estimates.of_task(adapt).seconds


def test_an_adaptation_counts_the_steps_of_its_sets(monkeypatch):
  one_second = costs.Estimate(1.0, 1)
  monkeypatch.setattr(costs, 'of', lambda *_, **__: one_second)
  monkeypatch.setattr(estimates, 'real_pass', lambda _: costs.NOTHING)

  def seconds(*flags):
    given = (
      *('--dataset=fractals:3', '--image_size=32', '--width=4'),
      *('--translator=tiny_imagenet_32', '--adapt_ipcs=1,2', '--num_starts=5'),
      *('--network_pool=2', '--batch_size=1', *flags),
    )
    return estimates.of_task(Task('adapt', 'adapt.py', given)).seconds

  without = '--num_adaptation_steps=0'
  assert seconds(without) == 2 * 30  # The file has 30 steps in theta.
  assert seconds(without, '--num_steps=7') == 2 * 7
  assert seconds('--num_adaptation_steps=8') == 5 * 2 * 30 + 8
  finished = seconds(without, '--finishing_steps=11')
  assert finished == 2 * 30 + 2 * 11
  assert seconds(without, '--fit_labels') == 2 * 30
  passed = []

  def one_pass(problem):
    passed.append(problem)
    return one_second

  monkeypatch.setattr(estimates, 'real_pass', one_pass)
  of_theta = 1
  assert seconds(without) == of_theta + 2 * 30
  assert len(passed) == 1  # What no network of the pool sees is not measured.
  assert seconds(without, '--fit_labels') == of_theta + 2 * 30 + 2
  few = seconds(without, '--fit_labels', '--label_images=3')
  assert few == pytest.approx(of_theta + 2 * 30 + 2 * 3 / 300)
  assert seconds(without, '--finishing_steps=11') == of_theta + 2 * 30 + 22 + 2
  assert seconds('--num_adaptation_steps=8') == of_theta + 5 * 2 * 30 + 8 + 2


def test_real_images_with_labels_take_the_passes_of_these(monkeypatch):
  monkeypatch.setattr(estimates, 'real_pass', lambda _: costs.Estimate(1.0, 1))
  flags = '--method=random_real', '--limit=100', '--label_networks=3'
  assert estimates.of_task(_distil(*flags)).seconds == 3
  few = estimates.of_task(_distil(*flags, '--label_images=50'))
  assert few.seconds == pytest.approx(3 / 2)


def test_scores_count_networks_and_training():
  task = _distil()
  one, three = (
    score_estimates.of_scores(task, 1, protocol='krr', repeats=n)
    for n in (1, 3)
  )
  assert three.seconds == pytest.approx(3 * one.seconds)
  trained = score_estimates.of_scores(task, 1, protocol='frepo', repeats=1)
  assert trained.seconds > one.seconds


def test_every_column_has_a_binary_that_is_known():
  experiments = str(pathlib.Path(__file__).parents[3] / 'experiments')
  recipe = columns.Recipe(experiments, f'{experiments}/recipes', 'cpu', (1,))
  made = [make(recipe, 'cifar10', 1).task for make in columns.COLUMNS.values()]
  binaries = {task.binary for task in tasks.in_order(made)}
  assert {name.rpartition('/')[2] for name in binaries} == set(
    estimates.BINARIES
  )
