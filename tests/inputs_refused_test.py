"""Bad input ends at once, by an error that names it and the remedy."""

import dataclasses
import importlib.metadata
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from absl import flags

import binaries
import fsdd_jax as fsdd
import toy
from fsdd_jax.algorithms import adaptation, baseline, in_theta
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import DataConfig, EvaluationConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data import normalization, sources
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks.extractors import describe_network
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.options import Config, whole
from fsdd_jax.reporting import exports
from fsdd_jax.storage import (
  containers,
  distilled_set,
  learned_network,
  translators,
)
from fsdd_jax.storage.translators import stage_keys
from workbench import config_flags, problems


@pytest.mark.parametrize('seed', [-1, 2**32, 1.5, True, '0'])
def test_seeds_that_would_wrap_are_refused_by_name(seed):
  with pytest.raises(ValueError, match=r'^seed = '):
    fsdd.DistillationConfig(seed=seed)
  with pytest.raises(ValueError, match=r'^theta_seed = '):
    CachingConfig(theta_seed=seed)
  with pytest.raises(ValueError, match=r'^evaluation_seed = '):
    EvaluationConfig(evaluation_seed=seed)
  with pytest.raises(ValueError, match=r'^theta_seed = '):
    FixedNetwork(toy.problem()[0], seed, (8, 8, 3))
  with pytest.raises(ValueError, match=r'^seed = '):
    stage_keys(seed)


def test_the_largest_seed_is_one_of_its_own():
  last, zero = stage_keys(2**32 - 1), stage_keys(0)
  assert not (jax.random.key_data(last) == jax.random.key_data(zero)).all()
  assert fsdd.DistillationConfig(seed=np.int64(7)).seed == 7


@pytest.mark.parametrize(
  ('kind', 'name', 'value'),
  [
    (fsdd.DistillationConfig, 'num_steps', 1.5),
    (fsdd.DistillationConfig, 'num_steps', 2.0),
    (fsdd.DistillationConfig, 'ipc', True),
    (fsdd.DistillationConfig, 'ipc', '1'),
    (fsdd.DistillationConfig, 'revisit', 1),
    (fsdd.DistillationConfig, 'learning_rate', '0.1'),
    (fsdd.DistillationConfig, 'learning_rate', True),
    (fsdd.DistillationConfig, 'optimizer', None),
    (AdaptationConfig, 'adapt_ipcs', (1, 2.5)),
    (AdaptationConfig, 'adapt_ipcs', 1),
    (DataConfig, 'classes', 'cat'),
    (DataConfig, 'holdout', None),
  ],
)
def test_types_of_settings_are_checked(kind, name, value):
  with pytest.raises(ValueError, match=name):
    kind(**{name: value})


def test_scalars_of_numpy_become_those_of_python():
  config = fsdd.DistillationConfig(
    ipc=np.int32(2), learning_rate=np.float64(0.5), revisit=np.bool_(True)
  )
  found = config.ipc, config.learning_rate, config.revisit
  assert [type(x) for x in found] == [int, float, bool]
  assert fsdd.DistillationConfig(learning_rate=1).learning_rate == 1.0
  assert AdaptationConfig(adapt_ipcs=[1, 2]).adapt_ipcs == (1, 2)


def test_every_field_of_every_config_refuses_another_type():
  def classes(kind):
    for part in kind.__subclasses__():
      yield part
      yield from classes(part)

  count = 0
  for kind in set(classes(Config)):
    if not kind.__module__.startswith('fsdd_jax'):
      continue
    for field in dataclasses.fields(kind):
      with pytest.raises(ValueError, match=field.name):
        kind(**{field.name: object()})
      count += 1
  assert count > 60


def test_whole_numbers():
  assert whole('ipc', np.int64(3), least=1) == 3
  with pytest.raises(ValueError, match='ipc = 0 is out of range: use 1 or'):
    whole('ipc', 0, least=1)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *(('limit', x) for x in (20.5, 0, -1, True, '20')),
    *(('image_size', x) for x in (8.5, 0, '8')),
    *(('holdout', x) for x in ('0.1', None, float('nan'))),
  ],
)
def test_types_of_what_is_loaded_are_checked(name, value):
  with pytest.raises(ValueError, match=name):
    fsdd.load_dataset('digits', progress=False, **{name: value})


@pytest.mark.parametrize('name', ['checkpoint_every', 'log_every'])
@pytest.mark.parametrize('value', [0, -1, 1.5, None])
def test_how_often_a_stage_writes_is_a_number_from_1(name, value):
  with pytest.raises(ValueError, match=f'^{name} = '):
    fsdd.LoopOptions(**{name: value})


def test_subsets_of_one_class_are_refused_at_once():
  with pytest.raises(ValueError, match='min_classes = 1 is out of range'):
    CachingConfig(min_classes=1)


def _images(count):
  return np.random.default_rng(0).integers(
    0, 256, (count, 8, 8, 3), dtype=np.uint8
  )


def test_one_class_is_refused_at_once():
  with pytest.raises(ValueError, match='1 class; at least 2'):
    fsdd.from_arrays(_images(3), np.zeros(3, int))
  with pytest.raises(ValueError, match='1 class; at least 2'):
    fsdd.load_dataset('digits', classes=['3'], progress=False)


def test_classes_by_name_or_number_in_text():
  options = {'image_size': 8, 'limit': 4, 'progress': False}
  data = fsdd.load_dataset('fractals:3', classes=['2', 'fractal_0'], **options)
  assert data.class_names == ('fractal_2', 'fractal_0')
  digits = fsdd.load_dataset(
    'digits', classes=['7', '1'], limit=4, progress=False
  )
  assert digits.class_names == ('7', '1')  # Names go before numbers.
  with pytest.raises(ValueError, match=r"Unknown class '3'.*\[0, 3\)"):
    fsdd.load_dataset('fractals:3', classes=['3', '0'], **options)


def test_gaps_among_labels_name_the_remedy_for_arrays():
  with pytest.raises(ValueError, match=r"Class '1' .*np\.unique\(labels, ret"):
    fsdd.from_arrays(_images(3), np.array([0, 2, 5]))


def test_names_that_are_numbers_become_text(tmp_path):
  data = fsdd.from_arrays(_images(3), np.arange(3), [3, 5, 7])
  assert data.class_names == ('3', '5', '7')
  distilled = toy.distilled()
  metadata = dataclasses.replace(
    distilled.metadata, class_names=data.class_names
  )
  distilled = dataclasses.replace(distilled, metadata=metadata)
  exports.export(distilled, tmp_path, ['png', 'npz', 'torch'])
  with pytest.raises(ValueError, match='same name'):
    fsdd.from_arrays(_images(3), np.arange(3), ['a', 'a', 'b'])


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('class_names', (3, 5, 7)),
    ('class_names', 'rgb'),
    ('ipc', 1.0),
    ('ipc', True),
    ('network', None),
    ('recipe', []),
    ('seeds', {'theta': '0'}),
    ('scores', ({}, 1)),
    ('versions', {'jax': 1}),
    ('dataset', None),
  ],
)
def test_metadata_of_another_type_are_neither_written_nor_read(
  tmp_path, field, value
):
  distilled = toy.distilled()
  metadata = dataclasses.replace(distilled.metadata, **{field: value})
  path = tmp_path / 'set.safetensors'
  with pytest.raises(ValueError, match=rf'set\.safetensors: {field} of'):
    distilled_set.save_distilled(
      path, dataclasses.replace(distilled, metadata=metadata)
    )
  assert not path.exists()
  distilled_set.save_distilled(path, distilled)
  arrays, fields = containers.read_container(path, 'distilled_set')
  containers.write_container(
    path, 'distilled_set', arrays, fields | {field: value}
  )
  with pytest.raises(ValueError, match=r'set\.safetensors: '):
    distilled_set.read_distilled(path)


def _translator_file(tmp_path):
  path = tmp_path / 'translator.safetensors'
  start, transform = toy.translator(), toy.problem()[2]
  translators.save_translator(
    path, start.adapted(start.variables['params'], transform, record={})
  )
  return path


@pytest.mark.parametrize('change', ['missing', 'shape', 'further'])
def test_a_translator_of_other_variables_is_refused_at_load(tmp_path, change):
  path = _translator_file(tmp_path)
  arrays, metadata = containers.read_container(path, 'translator')
  name = 'params/head/kernel'
  if change == 'missing':
    del arrays[name]
  elif change == 'shape':
    arrays[name] = arrays[name][..., :2]
  else:
    name = 'params/other/kernel'
    arrays[name] = np.zeros(3, np.float32)
  containers.write_container(path, 'translator', arrays, metadata)
  with pytest.raises(ValueError, match=f'translator.safetensors: .*{name}'):
    translators.read_translator(path)


def test_a_start_of_pretraining_is_checked_as_a_translator_is(tmp_path):
  path = _translator_file(tmp_path)
  arrays, metadata = containers.read_container(path, 'translator')
  arrays = {name.replace('params/', 'other/'): x for name, x in arrays.items()}
  containers.write_container(path, 'translator', arrays, metadata)
  toy.build_cache(tmp_path / 'cache')
  result = binaries.run(
    'pretrain.py',
    *('--dataset=fractals:3', '--limit=30', '--image_size=8', '--width=4'),
    *(f'--cache={tmp_path}/cache', f'--start={path}'),
    f'--workdir={tmp_path}/run',
  )
  assert result.returncode == 1
  assert 'translator.safetensors: its variables are not' in result.stderr
  assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
  'changes',
  [
    {'image_shape': None},
    {'image_shape': [8, 8]},
    {'image_shape': [8, 8, '3']},
    {'network': {}},
    {'network': {'name': 'unknown'}},
    {'translator': {'name': 'Translator', 'width': 4, 'colour': 1}},
  ],
)
def test_a_translator_whose_modules_cannot_be_made_is_refused(
  tmp_path, changes
):
  path = _translator_file(tmp_path)
  arrays, metadata = containers.read_container(path, 'translator')
  containers.write_container(path, 'translator', arrays, metadata | changes)
  with pytest.raises(ValueError, match=r'translator\.safetensors: '):
    translators.read_translator(path)


def test_a_learned_network_keeps_all_but_its_head(tmp_path):
  network, _, transform = toy.problem()
  own = toy.theta(5)
  theta = learned_network.learned_network(network, 3, (8, 8, 3), own)
  path = tmp_path / 'network.safetensors'
  learned_network.save_learned(path, theta, transform, record={})
  # Other classes and another resolution draw the head alone.
  again = learned_network.load_learned(path, num_classes=7)
  found = again.sample((16, 16, 3))['params']
  np.testing.assert_array_equal(
    found['Conv_0']['kernel'], own['params']['Conv_0']['kernel']
  )
  assert found['classifier']['kernel'].shape == (256, 7)
  arrays, metadata = containers.read_container(path, 'network')
  kernel = arrays['params/Conv_0/kernel']
  arrays['params/Conv_0/kernel'] = kernel[..., :2]
  containers.write_container(path, 'network', arrays, metadata)
  with pytest.raises(ValueError, match='params/Conv_0/kernel is'):
    learned_network.load_learned(path)
  broken = {'params': dict(own['params'])}
  broken['params']['Conv_0'] = {
    **own['params']['Conv_0'], 'kernel': kernel[..., :2]
  }  # fmt: skip
  theta = learned_network.learned_network(network, 3, (8, 8, 3), broken)
  with pytest.raises(ValueError, match=r'The learned network: .*Conv_0'):
    theta.sample((8, 8, 3))


def test_a_translator_of_a_learned_theta_is_not_saved(tmp_path):
  start, transform = toy.translator(), toy.problem()[2]
  adapted = start.adapted(start.variables['params'], transform, record={})
  learned = learned_network.learned_network(
    start.theta.network, 0, (8, 8, 3), toy.theta(5)
  )
  with pytest.raises(ValueError, match='theta was learned'):
    translators.save_translator(
      tmp_path / 'w.safetensors', dataclasses.replace(adapted, theta=learned)
    )
  assert not list(tmp_path.iterdir())


def test_a_network_of_whitened_images_takes_no_others(tmp_path):
  network, train, transform = toy.problem()
  path = tmp_path / 'network.safetensors'
  theta = learned_network.learned_network(network, 3, (8, 8, 3), toy.theta(5))
  whitening = normalization.zca_whitening(train.images)
  for kept, other in ((transform, whitening), (whitening, transform)):
    learned_network.save_learned(path, theta, kept, record={})
    again = learned_network.load_learned(path, num_classes=3)
    in_theta.check_target(again, TargetSet(train, kept))
    with pytest.raises(ValueError, match=r'whitening \(ZCA\)'):
      in_theta.distill_in_theta(
        again,
        TargetSet(train, other),
        ipcs=(1,),
        config=AdaptationConfig(num_steps=1),
      )


class _Wrong(nn.Module):
  """Returns what a network must not."""

  form: str
  num_classes: int = 3

  @nn.compact
  def __call__(self, images, train=False):
    features = images.reshape(len(images), -1)
    logits = nn.Dense(self.num_classes)(features)
    return {
      'logits alone': logits,
      'a map': (logits, images),
      'three': (logits, features, features),
      'one row': (logits, features[:1]),
      'few': (logits, features),
    }[self.form]


@pytest.mark.parametrize('form', ['logits alone', 'a map', 'three', 'one row'])
@pytest.mark.parametrize('protocol', ['krr', 'frepo'])
def test_a_network_that_returns_something_else_is_told_what_it_must(
  form, protocol
):
  _, dataset, transform = toy.problem()
  network = _Wrong(form)
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  says = r'must return \(logits \[n, k\], features \[n, d\]\); got float32\['
  with pytest.raises(ValueError, match=says):
    fsdd.evaluate(
      jax.random.key(1),
      real,
      dataset,
      transform,
      network,
      protocol=protocol,
      repeats=1,
    )
  with pytest.raises(ValueError, match=says):
    baseline.distill_over_networks(
      network,
      TargetSet(dataset, transform),
      config=fsdd.DistillationConfig(ipc=1, num_steps=1),
    )


@pytest.mark.parametrize('count', [1, 2])
def test_logits_of_another_number_of_classes_are_no_scores(count):
  _, dataset, transform = toy.problem()
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  network = _Wrong('few', num_classes=count)
  with pytest.raises(ValueError, match=f'{count} logits .* for 3 classes'):
    fsdd.evaluate(
      *(jax.random.key(1), real, dataset, transform, network),
      protocol='dc',
      repeats=1,
    )
  config = fsdd.DistillationConfig(ipc=1, num_steps=1, real_batch=3)
  with pytest.raises(ValueError, match=f'{count} logits .* for 3 classes'):
    fsdd.distill_by(fsdd.PEERS['frepo'], network, toy.target(), config=config)


def test_a_class_with_few_images_is_named_or_filled():
  images, labels = _images(5), np.array([0, 0, 0, 1, 1])
  data = fsdd.from_arrays(images, labels, ('cat', 'dog'))
  transform = fsdd.standardization(images)
  key, target = jax.random.key(0), TargetSet(data, transform)
  with pytest.raises(ValueError, match=r"Class 'dog' has 2 .*ipc = 3.*short_"):
    target.random_real(key, ipc=3)
  repeated, noisy = (
    np.asarray(target.random_real(key, ipc=3, short_classes=kind).images)
    for kind in ('repeat', 'noise')
  )
  np.testing.assert_array_equal(repeated[5], repeated[3])
  assert len(np.unique(repeated[:5].reshape(5, -1), axis=0)) == 5
  np.testing.assert_array_equal(noisy[:5], repeated[:5])
  assert abs(noisy[5] - repeated[5]).max() > 0.1
  assert 0.7 < noisy[5].std() < 1.3
  config = fsdd.DistillationConfig(
    ipc=3, num_steps=1, short_classes='repeat', real_batch=2
  )
  network = toy.problem()[0]
  result = baseline.distill_over_networks(network, target, config=config)
  assert result.synthetic.images.shape == (6, 8, 8, 3)


def test_enough_images_are_drawn_as_without_the_choice():
  key = jax.random.key(3)
  sets = [
    toy.target().random_real(key, ipc=5, short_classes=kind).images
    for kind in ('error', 'repeat', 'noise')
  ]
  np.testing.assert_array_equal(sets[0], sets[1])
  np.testing.assert_array_equal(sets[0], sets[2])


def test_a_source_tree_without_metadata_is_imported(monkeypatch):
  def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'version', version)
  names = runpy.run_path(fsdd.__file__)
  assert names['__version__'] == 'not installed'


def test_adapted_translators_say_that_they_are(tmp_path):
  network, dataset, transform = toy.problem()
  config = AdaptationConfig(
    adapt_ipcs=(1,),
    num_steps=1,
    num_adaptation_steps=1,
    network_pool=1,
    batch_size=1,
  )
  trained = dataclasses.replace(
    toy.translator(),
    metadata={
      'theta_seed': toy.translator().theta.seed,
      'network': describe_network(network),
      'image_shape': [8, 8, 3],
      'normalization': {'mean': [0.0]},
      'training': {'config': {'objective': 'translation'}},
    },
  )
  adapted = fsdd.adapt(
    network, trained, TargetSet(dataset, transform), config=config
  ).translator
  still = dataclasses.replace(config, num_adaptation_steps=0)
  assert adaptation.method_name(trained, still) == 'w/o Ada'
  assert adaptation.method_name(adapted, still) == 'w Ada'
  path = tmp_path / 'translator.safetensors'
  translators.save_translator(path, adapted)
  found = translators.read_translator(path)
  assert found.is_adapted
  described = normalization.describe_normalization(transform)
  assert found.metadata['normalization'] == described
  kernel = safetensors.numpy.load_file(path)['params/head/kernel']
  np.testing.assert_array_equal(
    kernel, adapted.variables['params']['head']['kernel']
  )


def test_no_test_images_are_told_before_the_work(tmp_path, capsys):
  for name in ('train/a', 'train/b'):
    (tmp_path / name).mkdir(parents=True)
  config = DataConfig(dataset=f'folder:{tmp_path}')
  problems.warn_without_test(config)
  assert 'no test images' in capsys.readouterr().err
  (tmp_path / 'val').mkdir()
  assert sources.has_test_split(config.dataset)
  problems.warn_without_test(config)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'command',
  [
    ('distill.py',),
    ('adapt.py', '--translator=none', '--translator_width=2'),
  ],
)
def test_stages_tell_of_no_test_images_before_they_load(
  command, tmp_path, monkeypatch
):
  def stop(*_):
    raise ValueError('Loading begins.')

  monkeypatch.setattr(problems, 'load_dataset', stop)
  for name in ('train/a', 'train/b'):
    (tmp_path / name).mkdir(parents=True)
  result = binaries.run(
    *command, f'--dataset=folder:{tmp_path}', f'--workdir={tmp_path}/run'
  )
  told, _, later = result.stderr.partition('Loading begins.')
  assert 'has train but no test images' in told
  assert later.strip() == ''


def test_flags_name_a_seed_that_wraps():
  values = flags.FlagValues()
  tuple(config_flags._define(values, [EvaluationConfig], {}))
  values(['', '--evaluation_seed=4294967296'])
  with pytest.raises(ValueError, match='evaluation_seed = 4294967296'):
    config_flags.read(EvaluationConfig, values)


def test_double_precision_changes_no_draw_and_no_type():
  network, dataset, transform = toy.problem()
  config = fsdd.DistillationConfig(
    ipc=2, num_steps=2, num_networks=2, revisit=True
  )
  sets = []
  for x64 in (False, True):
    with jax.enable_x64(x64):
      images = jnp.asarray(np.ones((2, 8, 8, 3), np.float32))
      drawn = fsdd.dsa(jax.random.key(4), images, strategy='frepo')
      result = baseline.distill_over_networks(
        network, TargetSet(dataset, transform), config=config
      ).synthetic
      sets.append((drawn, *jax.tree.leaves(result)))
  for single, double in zip(*sets, strict=True):
    assert double.dtype == single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=2e-3)
