"""What compare.py hands on to its methods."""

import dataclasses
import functools

import numpy as np
import pytest

import toy
from fsdd_jax.algorithms import adaptation, translated_sets
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.data import normalization
from fsdd_jax.runtime.loop import LoopOptions
from workbench import curves, runners


def test_an_adaptation_distils_in_theta_as_its_translator_knows(
  tmp_path, monkeypatch
):
  (tmp_path / 'tiny_adapt.flags').write_text('--network_pool=2\n')
  caching = {'num_steps': 7, 'learning_rate': 0.5, 'jitter': ['flip']}
  start = toy.translator()
  params, transform = start.variables['params'], toy.problem()[2]
  start = start.adapted(params, transform, record={})
  metadata = {**(start.metadata or {}), 'caching': caching, 'training': {}}
  start = dataclasses.replace(start, metadata=metadata)
  seen = []
  monkeypatch.setattr(
    adaptation, 'adapt', lambda *_, config, **__: seen.append(config)
  )
  runner = runners.make_runner(
    'adapt --learning_rate=0.25',
    toy.problem(),
    start,
    ipc=3,
    settings=runners.Settings(str(tmp_path), 'tiny', NetworkConfig(), seed=4),
  )
  runner.run(5, LoopOptions())
  (config,) = seen
  assert (config.num_steps, config.jitter) == (7, ('flip',))
  assert config.learning_rate == 0.25  # What is asked for comes first.
  assert (config.adapt_ipcs, config.num_adaptation_steps) == ((3,), 5)
  assert (config.network_pool, config.seed) == (2, 4)


def test_translation_alone_makes_what_adapt_does_without_updates(tmp_path):
  flags = '--network_pool=2\n--num_steps=2\n'
  (tmp_path / 'tiny_adapt.flags').write_text(flags)
  problem, start = toy.problem(), toy.translator()
  runner = runners.make_runner(
    'translate',
    problem,
    start,
    ipc=1,
    settings=runners.Settings(str(tmp_path), 'tiny', NetworkConfig(), seed=4),
  )
  (last,) = curves.record(lambda options: runner.run(0, options), every=1)
  config = AdaptationConfig(adapt_ipcs=(1,), num_steps=2, seed=4)
  expected = translated_sets.distill_dataset(
    start, toy.target(), ipc=1, config=config
  )
  np.testing.assert_array_equal(last.synthetic.images, expected.images)
  assert runner.title == 'w/o Pre-Train, w/o Ada'


def _last_by(folder):
  """A function of a method's text: its title, and the set it makes last."""
  flags = '--network_pool=2\n--num_steps=2\n--num_adaptation_steps=1\n'
  (folder / 'tiny_adapt.flags').write_text(flags)
  settings = runners.Settings(str(folder), 'tiny', NetworkConfig(), seed=4)

  def last(text):
    runner = runners.make_runner(
      text, toy.problem(), toy.translator(), ipc=1, settings=settings
    )
    *_, found = curves.record(
      lambda options: runner.run(runner.num_steps, options),
      every=1,
      translate_fn=lambda _, labeled: labeled,
    )
    return runner.title, found.synthetic

  return last


def test_direct_steps_go_on_from_the_translated_set(tmp_path):
  last = _last_by(tmp_path)
  _, start = last('translate')
  title, finished = last('translate --finishing_steps=3')
  assert title == 'w/o Pre-Train, w/o Ada, then Pool(2)'
  # Adam's steps are at most about their rate, which is 0.03.
  assert 0 < np.abs(finished.images - start.images).max() < 0.1
  title, adapted = last('adapt --finishing_steps=3')
  assert title == 'w/o Pre-Train, 2 networks, then Pool(2)'
  assert np.abs(adapted.images - finished.images).max() > 0


def test_labels_are_fitted_in_the_pool_after_translation(tmp_path):
  last = _last_by(tmp_path)
  title, fitted = last('translate --fit_labels')
  assert title == 'w/o Pre-Train, w/o Ada, labels(2)'
  _, plain = last('translate')
  np.testing.assert_array_equal(fitted.images, plain.images)
  assert np.abs(fitted.labels - plain.labels).max() > 1e-3
  title, finished = last('translate --fit_labels --finishing_steps=2')
  assert title == 'w/o Pre-Train, w/o Ada, labels(2), then Pool(2)'
  # Adam's steps are at most about their rate, which is 0.03.
  assert 0 < np.abs(finished.labels - fitted.labels).max() < 0.1
  title, adapted = last('adapt --fit_labels')
  assert title == 'w/o Pre-Train, 2 networks, labels(2)'
  assert np.abs(adapted.labels - plain.labels).max() > 1e-3


def test_labels_are_fitted_after_any_method(tmp_path):
  (tmp_path / 'tiny_pool.flags').write_text('--num_steps=2\n')
  last = _last_by(tmp_path)
  for name, title in (('pool', '1 Net'), ('random_real', 'random real')):
    _, plain = last(name)
    found, fitted = last(f'{name} --label_networks=2')
    assert found == f'{title}, labels(2)'
    np.testing.assert_array_equal(fitted.images, plain.images)
    assert np.abs(fitted.labels - plain.labels).max() > 1e-3


@pytest.mark.parametrize(
  ('flags', 'title', 'unlike_later'),
  [
    ('--num_networks=6', 'Baseline', 1),
    ('--num_networks=3', 'Baseline(R=3)', None),
    ('--num_networks=3 --revisit', 'Pool(3)', None),
    ('--num_networks=6 --revisit', 'Pool(6)', None),
    ('--num_networks=1', '1 Net', None),
  ],
)
def test_networks_of_a_fixed_number_keep_their_steps(
  flags, title, unlike_later, tmp_path
):
  (tmp_path / 'tiny_own.flags').write_text('--num_steps=6\n')
  runner = runners.make_runner(
    f'own {flags}',
    toy.problem(),
    toy.translator(),
    ipc=1,
    settings=runners.Settings(str(tmp_path), 'tiny', NetworkConfig()),
  )
  assert (runner.title, runner.num_steps) == (title, 6)
  assert runner.unlike_later == unlike_later


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('pool --num_netwroks=4', 'num_netwroks'),
    ('adapt --width=16', 'width'),  # Of the whole comparison.
    ('labels', 'num_adaptation_steps'),  # A flagfile of adapt.py.
    ('pool --seed=7', 'leave --seed=7 out'),
    ('adapt --adapt_ipcs=1', 'leave --adapt_ipcs=1 out'),
  ],
)
def test_flags_that_a_method_does_not_know_are_refused(text, message, tmp_path):
  for name, flag in {
    'pool': '--num_steps=2',
    'adapt': '--network_pool=2',
    'labels': '--num_adaptation_steps=0',
  }.items():
    (tmp_path / f'tiny_{name}.flags').write_text(f'{flag}\n')
  settings = runners.Settings(str(tmp_path), 'tiny', NetworkConfig())
  with pytest.raises(ValueError, match=message):
    runners.make_runner(
      text, toy.problem(), toy.translator(), ipc=1, settings=settings
    )


def test_images_that_an_adaptation_cannot_take_are_refused_before_it(tmp_path):
  (tmp_path / 'tiny_adapt.flags').write_text('--network_pool=2\n')
  network, dataset, _ = toy.problem()
  images = dataset.images.repeat(2, axis=1).repeat(2, axis=2)
  large = dataclasses.replace(dataset, images=images)
  make = functools.partial(
    runners.make_runner,
    start=toy.translator(),
    settings=runners.Settings(str(tmp_path), 'tiny', NetworkConfig()),
  )
  whitened = network, large, normalization.zca_whitening(images)
  with pytest.raises(ValueError, match='cannot be scaled to the 8 x 8'):
    make('adapt', whitened, ipc=1)
  with pytest.raises(ValueError, match='fewer than ipc = 9'):
    make('translate', toy.problem(), ipc=9)
