"""Alg. 3: adaptation, any IPC, higher resolutions, grey images, resume."""

import dataclasses
import functools
import signal

import jax
import numpy as np
import pytest

import binaries
import fsdd_jax
from fsdd_jax.algorithms import (
  adaptation,
  adaptation_samples,
  baseline,
  finishing,
  translated_sets,
)
from fsdd_jax.algorithms import in_theta as in_theta_stage
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.in_theta import distill_sets
from fsdd_jax.core import losses
from fsdd_jax.data import datasets, normalization, passes, resolution
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import Translator, translate
from fsdd_jax.runtime import metrics, preemption
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage import distilled_set, translators

_TRANSLATOR = Translator(width=4, num_blocks=1, head_scale=1.0)
_CONFIG = AdaptationConfig(
  adapt_ipcs=(1, 2),
  num_steps=4,
  num_adaptation_steps=4,
  batch_size=2,
  real_batch=9,
  log_every=1,
  checkpoint_every=2,
)


@pytest.fixture(scope='module')
def start(tiny_network):
  """A random translator for images of 8 x 8."""
  theta = FixedNetwork(tiny_network, 7, (8, 8, 3))
  return translators.random_translator(0, _TRANSLATOR, theta)


@pytest.fixture(scope='module')
def target(tiny_dataset, tiny_normalization):
  """The data set and its normalisation."""
  return TargetSet(tiny_dataset, tiny_normalization)


@pytest.fixture(scope='module')
def in_theta(start, target):
  """Sets of `_CONFIG` in theta, for one IPC that adaptation does not see."""
  return in_theta_stage.distill_in_theta(
    start.theta, target, ipcs=(1, 2, 3), config=_CONFIG
  )


def _adapt(
  network, start, target, in_theta, *, options=None, networks=None, **changes
):
  return adaptation.adapt(
    network,
    start,
    target,
    config=dataclasses.replace(_CONFIG, **changes),
    in_theta=in_theta,
    options=options,
    networks=networks,
  )


def _loss_in_unseen_networks(network, labeled, target):
  features_of = losses.feature_fn(network)
  stats_of = functools.partial(
    passes.target_statistics,
    images=target.dataset.images,
    labels=target.labels,
    normalization=target.normalization,
  )
  loss = jax.jit(
    functools.partial(losses.krr_loss_from_statistics, features_of, ridge=1e-6)
  )
  return np.mean(
    [
      loss(variables, labeled, stats_of(features_of, variables))
      for variables in (
        random_networks.sample(key, network, labeled.images.shape[1:])
        for key in jax.random.split(jax.random.key(99), 8)
      )
    ]
  )


def _bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
  'changes',
  [{}, {'real_batch': 0}, {'network_pool': 3, 'networks_per_call': 2}],
  ids=['fresh', 'fresh, all images', 'pool'],
)
def test_adaptation_lowers_the_loss_in_unseen_networks(
  tiny_network, start, target, in_theta, changes
):
  result = _adapt(
    tiny_network,
    start,
    target,
    in_theta,
    adapt_ipcs=(2,),
    num_adaptation_steps=40,
    **changes,
  )

  def loss(variables):
    translated = translate(_TRANSLATOR, variables, in_theta[3])
    return _loss_in_unseen_networks(tiny_network, translated, target)

  assert loss(result.translator.variables) < 0.8 * loss(start.variables)
  assert ('adaptation statistics' in result.seconds) == (changes != {})
  assert result.seconds['adaptation'] > 0


def test_sets_in_theta_do_not_depend_on_each_other(start, target, in_theta):
  alone = in_theta_stage.distill_in_theta(
    start.theta, target, ipcs=(2,), config=_CONFIG
  )
  assert _bytes(alone[2]) == _bytes(in_theta[2])
  assert in_theta[3].images.shape == (9, 8, 8, 3)


def test_statistics_of_theta_are_summed_once(start, target, monkeypatch):
  calls = []
  summed = passes.target_statistics

  def counted(*args, **kwargs):
    calls.append(args)
    return summed(*args, **kwargs)

  monkeypatch.setattr(passes, 'target_statistics', counted)
  clock = metrics.StageClock()
  in_theta_stage.distill_in_theta(
    start.theta, target, ipcs=(1, 2), config=_CONFIG, clock=clock
  )
  assert len(calls) == 1
  assert set(clock.seconds()) == {
    'compilation',
    'distillation, IPC 1',
    'distillation, IPC 2',
    'statistics',
  }


def test_the_schedule_of_adaptation_reaches_its_steps(
  tiny_network, start, target, in_theta
):
  found = [
    _bytes(
      _adapt(
        *(tiny_network, start, target, in_theta),
        num_adaptation_steps=2,
        adaptation_schedule=name,
      ).translator.variables
    )
    for name in ('cosine', 'constant')
  ]
  assert found[0] != found[1]


def test_without_adaptation_a_set_is_translated_once(
  tiny_network, start, target, in_theta
):
  result = _adapt(tiny_network, start, target, in_theta, num_adaptation_steps=0)
  assert result.translator.variables is start.variables
  distilled = translated_sets.distill_dataset(
    result.translator, target, ipc=3, config=_CONFIG
  )
  expected = translate(_TRANSLATOR, start.variables, in_theta[3])
  np.testing.assert_allclose(distilled.images, expected.images, atol=1e-5)
  np.testing.assert_array_equal(distilled.labels, in_theta[3].labels)


def test_translation_in_parts_is_that_of_the_whole(
  start, target, in_theta, monkeypatch
):
  monkeypatch.setattr(translators, '_PIXELS_A_BATCH', 4 * 64)
  distilled = translated_sets.distill_dataset(
    start,
    target,
    ipc=3,
    config=_CONFIG,
    in_theta=in_theta[3],
  )
  expected = translate(_TRANSLATOR, start.variables, in_theta[3])
  np.testing.assert_allclose(distilled.images, expected.images, atol=1e-5)


class KilledError(Exception):
  pass


def test_interrupted_and_resumed_gives_the_bytes_of_the_straight_run(
  tiny_network, start, target, in_theta, tmp_path
):
  changes = {'network_pool': 2, 'batch_size': 1}

  def run(progress_fn=None):
    options = LoopOptions(tmp_path, 2, 1, progress_fn)
    return _adapt(
      tiny_network,
      start,
      target,
      None,
      options=options,
      **changes,
    )

  done = []

  def kill(step, values):
    done.append(step)
    if len(done) in (3, 12):  # In theta at IPC 1, then in adaptation.
      raise KilledError

  for _ in range(2):
    with pytest.raises(KilledError):
      run(kill)
  resumed = run(lambda step, values: done.append(step))
  assert done == [1, 2, 3, 3, 4, 1, 2, 3, 4, 1, 2, 3, 3, 4]
  straight = _adapt(tiny_network, start, target, in_theta, **changes)
  assert _bytes(resumed.translator.variables) == _bytes(
    straight.translator.variables
  )
  assert _bytes(resumed.distilled_in_theta) == _bytes(
    {ipc: in_theta[ipc] for ipc in (1, 2)}
  )
  changes['batch_size'] = 2
  with pytest.raises(ValueError, match=r'batch_size: 1 there, 2 now'):
    run()


def test_a_signal_ends_the_passes_of_the_pool_after_a_network(
  tiny_network, start, target, in_theta, tmp_path, monkeypatch, capsys
):
  passes = []
  summed = TargetSet.statistics

  def signalled(self, *arguments, **keywords):
    passes.append(self)
    if len(passes) == 1:
      signal.raise_signal(signal.SIGTERM)
    return summed(self, *arguments, **keywords)

  def run(options=None):
    return _adapt(
      *(tiny_network, start, target, in_theta),
      options=options,
      network_pool=3,
      num_adaptation_steps=2,
    )

  monkeypatch.setattr(TargetSet, 'statistics', signalled)
  kinds = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
  before = [signal.getsignal(kind) for kind in kinds]
  try:
    preemption.install()
    with pytest.raises(SystemExit):
      run(LoopOptions(tmp_path))
  finally:
    list(map(signal.signal, kinds, before))
  assert len(passes) == 1
  assert 'Stopped by SIGTERM. What was saved' in capsys.readouterr().err
  assert _bytes(run(LoopOptions(tmp_path)).translator.variables) == _bytes(
    run().translator.variables
  )


def test_later_steps_compile_nothing(tiny_network, start, target, in_theta):
  compiled, counts = [], []

  def listen(event, seconds, **_):
    if event.endswith('backend_compile_duration'):
      compiled.append(seconds)

  options = LoopOptions(
    log_every=1, progress_fn=lambda step, values: counts.append(len(compiled))
  )
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    _adapt(
      tiny_network, start, target, in_theta, options=options, adapt_ipcs=(2,)
    )
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert counts[0] > 0
  assert counts == counts[:1] * 4


def test_sets_of_other_starts_differ_and_reach_the_adaptation(
  tiny_network, start, target, in_theta
):
  found = distill_sets(
    start.theta, target, names=[(1, 0), (1, 1), (2, 1)], config=_CONFIG
  )
  assert _bytes(found[1, 0]) == _bytes(in_theta[1])
  assert not np.array_equal(found[1, 1].start, found[1, 0].start)
  assert not np.array_equal(found[1, 1].images, found[1, 1].start)
  one, two = (
    _adapt(
      tiny_network, start, target, in_theta, num_starts=n
    ).translator.variables
    for n in (1, 2)
  )
  assert _bytes(one) != _bytes(two)


def test_the_statistics_of_theta_are_summed_once_for_all_that_share_them(
  tiny_network, start, target, monkeypatch
):
  passes = []
  summed = TargetSet.statistics

  def counted(self, *arguments, **keywords):
    passes.append(self)
    return summed(self, *arguments, **keywords)

  monkeypatch.setattr(TargetSet, 'statistics', counted)
  config = dataclasses.replace(_CONFIG, num_starts=2, network_pool=2)
  shared = in_theta_stage.theta_networks(start.theta, target, config)
  sets = in_theta_stage.distill_in_theta(
    start.theta, target, ipcs=(1, 2), config=config, networks=shared
  )
  assert len(passes) == 1
  adaptation.adapt(
    tiny_network,
    start,
    target,
    config=config,
    in_theta=sets,
    theta_networks=shared,
  )
  assert len(passes) == 3  # Two more in the pool.


def test_shared_statistics_of_theta_have_the_coding_of_the_config(
  start, target
):
  config = dataclasses.replace(_CONFIG, label_coding='onehot', loss='squared')
  networks = in_theta_stage.theta_networks(start.theta, target, config)
  shared, own = (
    in_theta_stage.distill_in_theta(
      start.theta, target, ipcs=(1,), config=config, networks=given
    )[1]
    for given in (networks, None)
  )
  assert _bytes(shared) == _bytes(own)


def test_sets_in_theta_begin_with_those_given(start, target, tmp_path):
  def distil(starts, workdir=None):
    return in_theta_stage.distill_in_theta(
      start.theta,
      target,
      ipcs=(1, 2),
      config=_CONFIG,
      starts=starts,
      options=LoopOptions(workdir, progress=False),
    )

  own = distil({})
  given = target.random_real(jax.random.key(77), ipc=2)
  found = distil({2: given}, tmp_path)
  np.testing.assert_array_equal(found[2].start, given.images)
  assert np.abs(found[2].images - own[2].images).max() > 1e-3
  assert _bytes(found[1]) == _bytes(own[1])
  assert _bytes(found) == _bytes(distil({2: given}, tmp_path))
  with pytest.raises(ValueError, match='start_sha256'):
    distil({}, tmp_path)
  with pytest.raises(ValueError, match='images'):
    distil({1: given})


def test_direct_steps_go_on_from_the_translated_set_in_the_pool(
  tiny_network, start, target, in_theta
):
  config = dataclasses.replace(_CONFIG, network_pool=2, finishing_steps=3)
  networks = adaptation_samples.pool_networks(tiny_network, target, config)
  result = finishing.finish(
    tiny_network, in_theta[2], target, ipc=2, config=config, networks=networks
  )
  assert result.seconds['finishing, IPC 2'] > 0
  moved = np.abs(result.synthetic.images - in_theta[2].images).max()
  assert 0 < moved < 1
  kernels = {
    np.asarray(x['params']['Conv_0']['kernel']).tobytes() for x in result.seen
  }
  assert kernels == {
    np.asarray(networks(i)[0]['params']['Conv_0']['kernel']).tobytes()
    for i in (0, 1)
  }
  slow = dataclasses.replace(config, finishing_learning_rate=1e-4)
  slow = finishing.finish(
    tiny_network, in_theta[2], target, ipc=2, config=slow, networks=networks
  )
  # Adam's steps are at most about its rate.
  assert np.abs(slow.synthetic.images - in_theta[2].images).max() < 1e-3 < moved
  with pytest.raises(ValueError, match=r'finishing_steps = 1 .*network_pool'):
    dataclasses.replace(config, finishing_steps=1)


def test_nan_stops_and_names_the_sets(tiny_network, start, target, in_theta):
  with pytest.raises(FloatingPointError, match=r'adapt stopped.*images up to'):
    _adapt(
      tiny_network,
      start,
      target,
      in_theta,
      adapt_ipcs=(1,),
      adaptation_learning_rate=1e30,
    )


@pytest.fixture(scope='module')
def large_target():
  """Images of 16 x 16, and their normalisation."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 16, 16, 3), np.uint8)
  images[:10, :, :, 1:] //= 4
  images[10:20, :, :, :2] //= 4
  dataset = datasets.from_arrays(images, np.repeat(np.arange(3), 10))
  return TargetSet(dataset, normalization.standardization(images))


def test_above_its_resolution_sets_are_upsampled(start, large_target):
  dataset, transform = large_target.dataset, large_target.normalization
  small = resolution.reduce_resolution(dataset, (8, 8, 3))
  assert small.images.shape == (30, 8, 8, 3)
  # Antialiased: a scaled pixel is about the mean of those that it covers.
  means = dataset.images.reshape(30, 8, 2, 8, 2, 3).mean((2, 4))
  correlation = np.corrcoef(small.images.ravel(), means.ravel())[0, 1]
  assert correlation > 0.9
  network = extractors.make(
    'convnet', image_shape=(16, 16, 3), num_classes=3, width=4
  )
  assert network.depth > start.theta.network.depth
  result = _adapt(
    network,
    start,
    large_target,
    None,
    adapt_ipcs=(1,),
    num_adaptation_steps=2,
  )
  direct = in_theta_stage.distill_in_theta(
    start.theta, TargetSet(small, transform), ipcs=(1,), config=_CONFIG
  )
  assert _bytes(result.distilled_in_theta[1]) == _bytes(direct[1])
  distilled = translated_sets.distill_dataset(
    result.translator,
    large_target,
    ipc=1,
    config=_CONFIG,
    in_theta=result.distilled_in_theta[1],
  )
  upsampled = resolution.upsample(direct[1], (16, 16, 3))
  expected = translate(_TRANSLATOR, result.translator.variables, upsampled)
  np.testing.assert_allclose(distilled.images, expected.images, atol=1e-4)


def test_upsampling_is_bilinear(in_theta):
  image = in_theta[1].images[:1]
  up = resolution.upsample(
    dataclasses.replace(in_theta[1], images=image), (16, 16, 3)
  ).images
  # Pixel 2 i + 1 lies a quarter of the way from pixel i to pixel i + 1.
  rows = 0.75 * image[:, :-1] + 0.25 * image[:, 1:]
  both = 0.75 * rows[:, :, :-1] + 0.25 * rows[:, :, 1:]
  np.testing.assert_allclose(up[:, 1:-1:2, 1:-1:2], both, atol=1e-5)


def test_theta_has_the_same_weights_at_any_resolution(start):
  small, large = (start.theta.sample((size, size, 3)) for size in (8, 16))
  convolution = small['params']['Conv_0']
  np.testing.assert_allclose(
    convolution['kernel'], large['params']['Conv_0']['kernel'], atol=1e-6
  )


def test_grey_images_are_repeated_and_color_is_not_dropped(start, target):
  grey = datasets.from_arrays(
    target.dataset.images[..., 0], target.dataset.labels
  )
  transform = normalization.standardization(grey.images)
  with pytest.raises(ValueError, match=r'1 channels, theta.*repeat_channels'):
    in_theta_stage.distill_in_theta(
      start.theta, TargetSet(grey, transform), ipcs=(1,), config=_CONFIG
    )
  repeated = resolution.repeat_channels(grey, 3)
  assert (repeated.images == grey.images).all()
  assert repeated.images.shape[-1] == 3
  with pytest.raises(ValueError, match='3 channels, but 1 are needed'):
    resolution.repeat_channels(repeated, 1)


def test_a_file_used_otherwise_than_trained_is_refused(start, target, tmp_path):
  path = tmp_path / 'translator.safetensors'
  translators.save_translator(
    path,
    start.adapted(start.variables['params'], target.normalization, record={}),
  )
  found = translators.read_translator(path, num_classes=3)
  assert found.theta == start.theta
  assert found.translator == start.translator
  assert _bytes(found.variables) == _bytes(start.variables)
  translators.check_translator(found, target.normalization)
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=8
  )
  other = FixedNetwork(network, 8, (8, 8, 3))
  with pytest.raises(ValueError, match='pre-trained otherwise') as caught:
    translators.check_translator(
      dataclasses.replace(found, theta=other),
      normalization.zca_whitening(target.dataset.images),
    )
  text = str(caught.value)
  assert 'theta_seed is 7 in its file, 8 here' in text
  assert 'width of theta is 4 in its file, 8 here' in text
  assert 'whitening (ZCA) is False in its file, True here' in text
  assert 'norm of theta' not in text


def test_whitened_images_cannot_change_resolution(start, large_target):
  whitened = normalization.zca_whitening(large_target.dataset.images)
  with pytest.raises(ValueError, match='16 x 16 are whitened'):
    in_theta_stage.distill_in_theta(
      start.theta,
      TargetSet(large_target.dataset, whitened),
      ipcs=(1,),
      config=_CONFIG,
    )


@pytest.mark.parametrize(
  ('training', 'steps', 'name'),
  [
    (None, 1, 'w/o Pre-Train'),
    (None, 0, 'w/o Pre-Train, w/o Ada'),
    ({'config': {'objective': 'translation'}}, 0, 'w/o Ada'),
    ({'config': {'objective': 'translation'}}, 1, 'w Ada'),
    ({'objective': 'translation', 'adaptation': {}}, 0, 'w Ada'),
    ({'objective': 'none', 'adaptation': {}}, 0, 'w/o Pre-Train'),
    ({'config': {'objective': 'reconstruction'}}, 1, 'w AE'),
  ],
)
def test_method_names(start, training, steps, name):
  metadata = None if training is None else {'training': training}
  found = dataclasses.replace(start, metadata=metadata)
  config = dataclasses.replace(_CONFIG, num_adaptation_steps=steps)
  assert adaptation.method_name(found, config) == name


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'adapt_ipcs': ()}, 'adapt_ipcs = '),
    ({'adapt_ipcs': (2, 2)}, 'adapt_ipcs = '),
    ({'batch_size': 0}, 'batch_size = 0'),
    ({'num_steps': 0}, 'num_steps = 0'),
    ({'adaptation_schedule': 'step'}, "adaptation_schedule 'step'"),
    ({'batch_size': 3, 'networks_per_call': 2}, 'networks_per_call = 2 .* = 3'),
  ],
)
def test_configs_out_of_range_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(_CONFIG, **changes)


def test_without_updates_any_number_of_networks_may_run_side_by_side():
  config = AdaptationConfig(num_adaptation_steps=0, networks_per_call=2)
  assert config.batch_size == 1


def test_a_missing_set_in_theta_is_named(tiny_network, start, target, in_theta):
  with pytest.raises(ValueError, match=r'for IPC \[4\]'):
    _adapt(tiny_network, start, target, in_theta, adapt_ipcs=(1, 4))


def test_the_binary_takes_grey_images_above_its_resolution(
  start, target, tmp_path
):
  file = tmp_path / 'translator.safetensors'
  translators.save_translator(
    file,
    start.adapted(start.variables['params'], target.normalization, record={}),
  )
  result = binaries.run(
    'adapt.py',
    *(f'--translator={file}', '--dataset=digits', '--limit=100'),
    *('--image_size=16', '--adapt_ipcs=1', '--ipcs=2', '--num_steps=2'),
    *('--num_adaptation_steps=2', '--network_pool=2'),
    *('--fit_labels', '--label_learning_rate=0'),
    f'--workdir={tmp_path / "run"}',
  )
  assert result.returncode == 0, result.stderr
  assert 'adaptation statistics' in result.stdout
  codings = [
    distilled_set.read_distilled(
      tmp_path / 'run' / f'{name}_ipc2.safetensors'
    ).metadata.label_coding
    for name in ('in_theta', 'distilled', 'fitted')
  ]
  assert codings == ['centered', 'centered', 'learned']
  path = tmp_path / 'run' / 'distilled_ipc2.safetensors'
  distilled = distilled_set.read_distilled(path)
  assert distilled.images.shape == (20, 16, 16, 3)
  assert distilled.metadata.seeds == {'distillation': 0, 'theta': 7}
  assert path.with_suffix('.png').stat().st_size > 1000
  adapted = translators.read_translator(path.parent / 'translator.safetensors')
  assert adapted.is_adapted
  assert _bytes(adapted.variables) != _bytes(start.variables)
  scored = binaries.run('evaluate.py', path, '--repeats=1')
  assert scored.returncode == 0, scored.stderr
  assert 'random real' in scored.stdout


def test_a_whitened_translator_whitens_the_target_set_by_itself(
  start, target, tmp_path
):
  file = tmp_path / 'translator.safetensors'
  whitened = normalization.zca_whitening(target.dataset.images)
  omega = start.adapted(start.variables['params'], whitened, record={})
  assert omega.is_whitened
  assert not start.is_whitened
  translators.save_translator(file, omega)
  given = (
    *(f'--translator={file}', '--dataset=digits', '--limit=100'),
    *('--adapt_ipcs=1', '--num_steps=2', '--num_adaptation_steps=0'),
  )
  result = binaries.run('adapt.py', *given, f'--workdir={tmp_path / "run"}')
  assert result.returncode == 0, result.stderr
  path = tmp_path / 'run' / 'distilled_ipc1.safetensors'
  distilled = distilled_set.read_distilled(path)
  assert distilled.metadata.recipe['data']['zca']
  digits = fsdd_jax.load_dataset('digits', split='train', limit=100)
  own = normalization.zca_whitening(np.repeat(digits.images, 3, axis=-1))
  found = np.asarray(distilled.normalization.zca)
  np.testing.assert_allclose(found, own.zca, rtol=1e-4, atol=1e-4)
  assert np.abs(found - whitened.zca).max() > 0.1
  result = binaries.run(
    'adapt.py', *given, '--nozca', f'--workdir={tmp_path / "no"}'
  )
  assert result.returncode == 1
  assert 'whitening (ZCA) is True in its file, False here' in result.stderr
  assert not (tmp_path / 'no').exists()


def test_flags_against_the_file_end_in_one_line(start, target, tmp_path):
  file = tmp_path / 'translator.safetensors'
  translators.save_translator(
    file,
    start.adapted(start.variables['params'], target.normalization, record={}),
  )
  result = binaries.run(
    'adapt.py',
    *(f'--translator={file}', '--dataset=digits', '--width=8'),
    f'--workdir={tmp_path}',
  )
  assert result.returncode == 1
  assert 'width of theta is 4 in its file, 8 here' in result.stderr
  assert 'Traceback' not in result.stderr


def test_a_pool_is_shared_with_direct_steps(
  tiny_network, start, target, in_theta
):
  config = dataclasses.replace(_CONFIG, real_batch=0, network_pool=2)
  clock = metrics.StageClock()
  pool = adaptation_samples.pool_networks(tiny_network, target, config, clock)
  adapt = functools.partial(
    adaptation.adapt,
    tiny_network,
    start,
    target,
    config=config,
    in_theta=in_theta,
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    adapt(networks=pool).translator.variables,
    adapt().translator.variables,
  )
  assert clock.seconds()['adaptation statistics'] > 0
  direct = dataclasses.replace(
    config.distillation(1), num_networks=2, num_steps=3, revisit=True
  )
  summed = clock.seconds()
  result = baseline.distill_over_networks(
    tiny_network, target, config=direct, start=in_theta[1], networks=pool
  )
  assert clock.seconds() == summed
  assert 'statistics' not in result.seconds
  ours = [pool(index)[0] for index in range(2)]
  assert all(any(seen is one for one in ours) for seen in result.seen)
  with pytest.raises(ValueError, match='real_batch = 6'):
    baseline.distill_over_networks(
      tiny_network,
      target,
      config=dataclasses.replace(direct, real_batch=6),
      networks=pool,
    )
  with pytest.raises(ValueError, match='network_pool = 0'):
    _adapt(tiny_network, start, target, in_theta, networks=pool)


@pytest.mark.parametrize(
  ('ipcs', 'given'),
  [
    ((1,), lambda sets: {1: sets[2]}),
    ((1,), lambda sets: {1: dataclasses.replace(
      sets[1], labels=sets[1].labels[:, :2]
    )}),
  ],
)  # fmt: skip
def test_given_sets_have_the_ipc_and_the_classes(
  ipcs, given, start, target, tiny_network
):
  config = dataclasses.replace(_CONFIG, adapt_ipcs=(1, 2))
  sets = in_theta_stage.distill_in_theta(
    start.theta, target, ipcs=(1, 2), config=config
  )
  config = dataclasses.replace(config, adapt_ipcs=ipcs)
  with pytest.raises(ValueError, match='ipc = 1 of 3 classes'):
    adaptation.adapt(
      tiny_network, start, target, config=config, in_theta=given(sets)
    )
  with pytest.raises(ValueError, match='ipc = 1 of 3 classes'):
    translated_sets.distill_dataset(
      start, target, ipc=1, config=config, in_theta=given(sets)[1]
    )


def test_a_given_set_without_the_start_that_a_translator_sees_is_refused(
  start, target, in_theta, tiny_network, tmp_path
):
  module = Translator(width=4, num_blocks=0, inputs=('images', 'start'))
  sees = translators.random_translator(0, module, start.theta)
  bare = {
    ipc: dataclasses.replace(labeled, start=None)
    for ipc, labeled in in_theta.items()
  }
  options = LoopOptions(tmp_path / 'run')
  message = r'IPC 1 has no start.*inputs.*`distill_in_theta` returns it'
  with pytest.raises(ValueError, match=message):
    _adapt(tiny_network, sees, target, bare, options=options)
  with pytest.raises(ValueError, match=message):
    translated_sets.distill_dataset(
      *(sees, target), ipc=1, config=_CONFIG, in_theta=bare[1], options=options
    )
  assert not (tmp_path / 'run').exists()
  # Where nothing is translated, nothing is missing.
  _adapt(tiny_network, start, target, bare, num_adaptation_steps=1)
  _adapt(tiny_network, sees, target, bare, num_adaptation_steps=0)
  _adapt(
    *(tiny_network, sees, target, {**bare, 1: in_theta[1]}),
    adapt_ipcs=(1,),
    num_adaptation_steps=1,
  )


def test_given_sets_are_checked_without_scaling_the_images(
  start, target, monkeypatch
):
  large = TargetSet(
    dataclasses.replace(
      target.dataset,
      images=target.dataset.images.repeat(2, axis=1).repeat(2, axis=2),
    ),
    target.normalization,
  )
  given = target.random_real(jax.random.key(0), ipc=1)

  def scaled(*_):
    raise AssertionError('The images were scaled.')

  monkeypatch.setattr(resolution, 'reduce_resolution', scaled)
  in_theta_stage.check_set(start.theta, large, given, ipc=1)
  with pytest.raises(ValueError, match='ipc = 2 of 3 classes'):
    in_theta_stage.check_set(start.theta, large, given, ipc=2)


def test_a_translator_of_whitened_images_takes_no_others(
  start, target, tiny_network
):
  whitened = normalization.zca_whitening(target.dataset.images)
  omega = start.adapted(start.variables['params'], whitened, record={})
  calls = (
    lambda: adaptation.adapt(tiny_network, omega, target, config=_CONFIG),
    lambda: translated_sets.distill_dataset(
      omega, target, ipc=1, config=_CONFIG
    ),
  )
  for call in calls:
    with pytest.raises(ValueError, match='whitening'):
      call()
