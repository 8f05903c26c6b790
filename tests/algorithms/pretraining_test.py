"""Alg. 2: descent, objectives, plateau, resume, order of samples, refusals."""

import dataclasses
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import binaries
from fsdd_jax.algorithms import caching, pretraining, pretraining_state
from fsdd_jax.algorithms.method_configs import CachingConfig, PretrainingConfig
from fsdd_jax.algorithms.pretraining_banks import Problem
from fsdd_jax.algorithms.pretraining_objectives import make_score, translation
from fsdd_jax.core import losses, params_step
from fsdd_jax.data import datasets, normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import Translator
from fsdd_jax.runtime import metrics
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage import translators, weight_files
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache import shards
from fsdd_jax.types import labeled_set, unpad

_CONFIG = PretrainingConfig(
  num_steps=6,
  batch_size=2,
  eval_every=2,
  heldout_subsets=2,
  heldout_networks=2,
  checkpoint_every=2,
  log_every=2,
  bank_networks=2,
  bank_renewal=3,
  bank_images=5,
)
_MAX_SYNTHETIC = 6
# One module for all, as drawing weights of another compiles for seconds.
_TRANSLATOR = Translator(width=4, num_blocks=0, head_scale=1.0)
_NETWORK = extractors.make(
  'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='none'
)


@pytest.fixture(scope='module')
def data(tiny_dataset, tiny_normalization):
  return tiny_dataset, tiny_normalization


@pytest.fixture(scope='module')
def network():
  """Without a norm, which would hide the colors that tell classes apart."""
  return _NETWORK


@pytest.fixture(scope='module')
def source(data, network, tmp_path_factory):
  """A cache of seven subsets of the tiny data set."""
  config = CachingConfig(
    num_subsets=7,
    heldout_subsets=2,
    min_classes=2,
    max_classes=3,
    max_images=12,
    max_synthetic=_MAX_SYNTHETIC,
    num_steps=2,
    augmentation='none',
    subsets_per_batch=4,
  )
  assert config.num_heldout == 1  # A tenth at most.
  folder = tmp_path_factory.mktemp('cache')
  manifest = caching.build_cache(
    network, TargetSet(*data), config=config, folder=folder
  )
  return shards.open_cache(folder, manifest)


def _pretrain(
  network, source, data, *, options=None, ends=None, start=None, **changes
):
  return pretraining.pretrain(
    network,
    _TRANSLATOR,
    source,
    TargetSet(*data),
    config=dataclasses.replace(_CONFIG, **changes),
    options=options,
    ends=ends,
    start=start,
  )


def _bytes(variables):
  return b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(variables))


class _Negatives:
  """A cache whose distilled images are inverted, so that G has work to do."""

  def __init__(self, source):
    self.manifest, self._source = source.manifest, source

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    entry = self._source[index]
    synthetic = dataclasses.replace(
      entry.synthetic, images=-entry.synthetic.images
    )
    return dataclasses.replace(entry, synthetic=synthetic)


def test_pretraining_lowers_the_heldout_loss(data, network, source):
  result = _pretrain(
    network,
    _Negatives(source),
    data,
    num_steps=40,
    learning_rate=0.01,
    eval_every=20,
  )
  record = result.record
  losses = record['heldout_losses']
  assert len(losses) == 2
  assert record['best_heldout_loss'] == min(losses)
  assert min(losses) < 0.8 * record['untranslated_loss']
  assert record['heldout_subsets'] == [0, 1]
  assert record['learned_subsets'] == [1, 7]
  assert record['ended_by'] == 'step limit'


def test_reconstruction_learns_the_identity(data, source, network):
  result = pretraining.pretrain(
    network,
    _TRANSLATOR,
    source,
    TargetSet(*data),
    config=dataclasses.replace(
      _CONFIG,
      objective='reconstruction',
      num_steps=20,
      eval_every=5,
      learning_rate=0.01,
    ),
  )
  losses = result.record['heldout_losses']
  assert result.record['untranslated_loss'] == 0.0
  assert losses[-1] < 0.5 * losses[0]
  images = source[0].synthetic.images[:1]
  changed = _TRANSLATOR.apply(result.variables, images) - images
  assert 0 < float(jnp.mean(changed**2)) < 1.0


def test_the_literal_way_has_a_network_a_sample_and_the_ridge_asked_for(
  data, network, source
):
  config = dataclasses.replace(_CONFIG, batch_size=2, ridge=0.1)
  goal = translation(
    Problem(network, TargetSet(*data), jax.random.key(0), config)
  )
  batch = cache_batches.read(source, data[0], goal.read_fn, rows=[0, 1])
  steps = [goal.inputs(step, batch) for step in range(3)]
  kernels = {
    np.asarray(kernel).tobytes()
    for networks, _, _ in steps
    for kernel in networks['params']['Conv_0']['kernel']
  }
  assert len(kernels) == 6
  key = jax.random.key(3)
  (variables, labeled, statistics), *_ = goal.heldout_inputs([key], batch)
  target = jax.tree.map(lambda x: x[0], steps[0][2])
  assert float(goal.loss_fn(variables, labeled, target)) == pytest.approx(
    float(goal.heldout_loss_fn(variables, labeled, statistics)), rel=1e-3
  )


def test_heldout_score_is_the_loss_on_the_real_images(data, network, source):
  dataset, transform = data
  config = dataclasses.replace(_CONFIG, ridge=1e-3, loss='squared')
  objective_ = translation(
    Problem(network, TargetSet(*data), jax.random.key(0), config)
  )
  keys = jax.random.split(jax.random.key(3), 2)
  batch = cache_batches.read(source, dataset, objective_.read_fn, rows=range(3))
  score = make_score(objective_, keys, batch)(lambda labeled: labeled)
  expected = []
  for i in range(3):
    entry = source[i]
    keep = entry.target.mask > 0
    expected.append(
      losses.krr_loss(
        losses.feature_fn(network),
        random_networks.sample(keys[i % 2], network, (8, 8, 3)),
        unpad(jax.tree.map(jnp.asarray, entry.synthetic)),
        labeled_set(
          normalization.normalize(
            dataset.images[entry.target.rows[keep]], transform
          ),
          jnp.asarray(entry.target.labels[keep]),
        ),
        ridge=1e-3,
      )
    )
  assert float(score) == pytest.approx(float(np.mean(expected)), rel=1e-4)


def _state(loss_so_far):
  params = {'w': jnp.ones(2)}
  translator = params_step.ParamsState(
    jnp.int32(1), {'w': jnp.full(2, 5.0)}, ()
  )
  return pretraining_state.PretrainingState(
    translator, params, jnp.array([loss_so_far, jnp.inf])
  )


def test_the_best_parameters_are_kept():
  worse = pretraining_state.keep_best(_state(1.0), 1, jnp.float32(2.0))
  assert worse.best_params['w'].tolist() == [1.0, 1.0]
  better = pretraining_state.keep_best(_state(1.0), 1, jnp.float32(0.5))
  assert better.best_params['w'].tolist() == [5.0, 5.0]
  assert better.curve == [1.0, 0.5]


@pytest.mark.parametrize(
  ('curve', 'patience', 'ends'),
  [
    ([], 1, False),
    ([3.0, 2.0], 1, False),
    ([2.0, 3.0], 1, True),
    ([2.0, 3.0], 2, False),
    ([2.0, 3.0, 2.0], 2, True),
    ([2.0, 3.0, 3.0], 0, False),
  ],
)
def test_plateau(curve, patience, ends):
  assert pretraining_state.is_plateau(curve, patience) is ends


def test_the_caller_ends_the_stage_after_a_score(
  data, network, source, tmp_path
):
  asked = []

  def ends():
    asked.append(len(metrics.read_metrics(tmp_path / 'metrics.jsonl')))
    return len(asked) == 2

  result = _pretrain(
    network,
    source,
    data,
    options=LoopOptions(tmp_path, 50, 3),
    ends=ends,
    num_steps=20,
    eval_every=2,
  )
  assert asked == [2, 4]
  assert result.record['ended_by'] == 'caller'
  assert result.record['num_steps'] == 4
  assert len(result.record['heldout_losses']) == 2
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert ['heldout_loss' in row for row in rows] == [False, True] * 2


def test_a_plateau_ends_the_stage_and_its_log_is_whole(
  data, network, source, tmp_path
):
  # Updates so small that no score differs from the first.
  result = _pretrain(
    network,
    source,
    data,
    options=LoopOptions(tmp_path, 50, 3),
    num_steps=20,
    optimizer='sgd',
    schedule='constant',
    learning_rate=1e-30,
    patience=2,
  )
  assert result.record['ended_by'] == 'plateau'
  assert result.record['num_steps'] == 6
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == list(range(1, 7))
  assert ['heldout_loss' in row for row in rows] == [False, True] * 3
  assert rows[1]['untranslated_loss'] == pytest.approx(
    result.record['untranslated_loss']
  )
  with pytest.raises(ValueError, match=r'num_steps: 20 there, 6 now'):
    _pretrain(network, source, data, options=LoopOptions(tmp_path))


def _rows(batches, count):
  """First label row of each sample tells the subset apart well enough."""

  def padded(images):  # Batches are cut to the longest of their sets.
    missing = _MAX_SYNTHETIC - len(images)
    return np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]).tobytes()

  return [
    [padded(sample) for sample in next(batches).synthetic.images]
    for _ in range(count)
  ]


def test_batches_depend_on_their_step_and_visit_all_each_epoch(data, source):
  def read(**kwargs):
    return cache_batches.random_batches(
      source,
      data[0],
      cache_batches.without_images,
      seed=1,
      size=2,
      numbers=range(1, 7),
      **kwargs,
    )

  first = _rows(read(), 6)
  epochs = [[x for b in part for x in b] for part in (first[:3], first[3:])]
  learned = {source[i].synthetic.images.tobytes() for i in range(1, 7)}
  assert set(epochs[0]) == set(epochs[1]) == learned
  assert epochs[0] != epochs[1]
  assert _rows(read(start=4), 2) == first[4:]
  halves = [
    _rows(read(process_index=index, process_count=2), 6) for index in (0, 1)
  ]
  assert [a + b for a, b in zip(*halves, strict=True)] == first
  with pytest.raises(ValueError, match='3 processes do not divide a batch'):
    read(process_count=3)


def test_samples_carry_the_images_of_their_rows(data, source):
  batch = cache_batches.read(
    source, data[0], cache_batches.with_images, rows=[4]
  )
  entry = source[4]
  used = int(entry.synthetic.mask.sum())
  np.testing.assert_array_equal(
    batch.start[0, :used], data[0].images[entry.start_rows[:used]]
  )
  np.testing.assert_array_equal(
    batch.images[0], data[0].images[entry.target.rows]
  )
  assert batch.images.dtype == np.uint8
  np.testing.assert_array_equal(batch.target.labels[0], entry.target.labels)


def test_another_network_data_or_theta_is_named_and_refused(
  data, network, source
):
  dataset, transform = data
  other = datasets.from_arrays(dataset.images[:30], dataset.labels[:30])
  with pytest.raises(ValueError, match=r'dataset_fingerprint: .* now'):
    _pretrain(network, source, (other, transform))
  shifted = dataclasses.replace(transform, mean=transform.mean + 0.1)
  with pytest.raises(ValueError, match=r'normalization: .* in the cache'):
    _pretrain(network, source, (dataset, shifted))
  wide = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=8
  )
  with pytest.raises(ValueError, match=r"network: .*'width': 4.*'width': 8"):
    _pretrain(wide, source, data)
  with pytest.raises(ValueError, match='network_seed: 0 in the cache, 7 now'):
    _pretrain(network, source, data, theta_seed=7)


def test_a_large_gradient_is_clipped():
  gradient = {'weights': np.array([3.0, 4.0], np.float32)}

  def moved(clip_norm):
    config = PretrainingConfig(
      optimizer='sgd',
      schedule='constant',
      learning_rate=1.0,
      clip_norm=clip_norm,
    )
    tx = pretraining._optimizer(config)
    return tx.update(gradient, tx.init(gradient), gradient)[0]['weights']

  np.testing.assert_allclose(moved(0.0), [-3, -4])
  np.testing.assert_allclose(moved(1.0), [-0.6, -0.8], rtol=1e-6)


def test_networks_per_call_divides_the_batch():
  with pytest.raises(ValueError, match=r'networks_per_call = 2 .* = 3'):
    dataclasses.replace(_CONFIG, batch_size=3, networks_per_call=2)


def _with_coding(source, **configuration):
  """The cache with another setting of how its labels were coded."""
  known = dict(source.manifest.configuration)
  del known['label_coding']
  other = _Negatives(source)
  other.manifest = dataclasses.replace(
    source.manifest, configuration={**known, **configuration}
  )
  return other


@pytest.mark.parametrize('bank_networks', [0, 2])
def test_another_coding_of_labels_than_the_caches_is_refused(
  data, network, source, bank_networks
):
  other = _with_coding(source, label_coding='onehot')
  message = "'onehot' in the cache, 'centered' now.*label_coding to 'onehot'"
  with pytest.raises(ValueError, match=message):
    _pretrain(network, other, data, bank_networks=bank_networks)


def test_a_cache_that_does_not_know_its_coding_is_taken(data, network, source):
  result = _pretrain(network, _with_coding(source), data, num_steps=1)
  assert result.record['num_steps'] == 1


def test_too_few_subsets_are_refused(data, network, source):
  with pytest.raises(ValueError, match='6 to learn from beside 1 held-out'):
    _pretrain(network, source, data, num_subsets=7)


@pytest.mark.parametrize(
  ('changes', 'message', 'remedy'),
  [
    ({'num_subsets': 7}, 'lower num_subsets', {'num_subsets': 6}),
    ({'label_coding': 'onehot'}, "to 'centered'", {}),
    ({'start': {'params': {'head': np.zeros(1)}}}, 'give its body', {}),
  ],
)
def test_what_is_corrected_runs_in_the_same_workdir(
  data, network, source, tmp_path, changes, message, remedy
):
  options = LoopOptions(tmp_path / 'run')
  with pytest.raises(ValueError, match=message):
    _pretrain(network, source, data, options=options, num_steps=1, **changes)
  assert not (tmp_path / 'run').exists()
  _pretrain(network, source, data, options=options, num_steps=1, **remedy)


def test_divergence_stops_with_the_step(data, network, source):
  with pytest.raises(FloatingPointError, match='pre-train stopped at step'):
    _pretrain(network, source, data, optimizer='sgd', learning_rate=1e30)


def test_metadata_make_a_translator_file(data, network, source, tmp_path):
  metadata = pretraining_state.translator_metadata(
    _TRANSLATOR, source.manifest, {'num_steps': 1}
  )
  theta = FixedNetwork(network, 0, (8, 8, 3))
  random = translators.random_translator(0, _TRANSLATOR, theta)
  variables = random.variables
  path = tmp_path / 'omega.safetensors'
  with pytest.raises(ValueError, match='this translator is random'):
    translators.save_translator(path, random)
  whole = dataclasses.replace(random, metadata=metadata)
  translators.save_translator(path, whole)
  again = translators.read_translator(path, num_classes=3)
  assert again.theta == theta
  assert again.translator == _TRANSLATOR
  assert again.record == {'num_steps': 1}
  loaded, found = weight_files.load_translator(path)
  assert _bytes(loaded) == _bytes(variables)
  assert found['network'] == extractors.describe_network(network)
  assert found['translator']['width'] == 4
  assert found['theta_seed'] == 0
  assert found['image_shape'] == [8, 8, 3]


_KILLED = """
import os, signal, sys
from workbench import config_flags, launching
from fsdd_jax.runtime.loop import Loop
from experiments import pretrain

kill_at = int(sys.argv.pop())
on_step = Loop.on_step

def killing(self, done, state, metrics):
  on_step(self, done, state, metrics)
  if done == kill_at:
    os.kill(os.getpid(), signal.SIGKILL)

Loop.on_step = killing
config_flags.define(*pretrain.CONFIGS, **pretrain.DEFAULTS)
launching.run(pretrain.main)
"""


def _of_binary(folder, **changes):
  """Makes a cache in a folder, and returns the flags that learn from it."""
  dataset = datasets.load('fractals:3', image_size=8, limit=60, progress=False)
  transform = normalization.standardization(dataset.images)
  caching.build_cache(
    _NETWORK,
    TargetSet(dataset, transform),
    config=CachingConfig(
      num_subsets=4,
      min_classes=2,
      max_classes=3,
      max_images=16,
      max_synthetic=8,
      num_steps=1,
      augmentation='none',
      **changes,
    ),
    folder=folder / 'cache',
    dataset_name='fractals:3',
  )
  return [
    *('--dataset=fractals:3', '--limit=60', '--image_size=8', '--width=4'),
    *('--norm=none', f'--cache={folder / "cache"}'),
    *('--translator_width=4', '--translator_blocks=0', '--head_scale=1'),
    *('--num_steps=5', '--batch_size=1', '--eval_every=2'),
    '--checkpoint_every=1',
  ]


@pytest.mark.slow
def test_the_binary_killed_and_resumed_writes_the_straight_runs_file(tmp_path):
  arguments = _of_binary(tmp_path)

  def run(folder):
    done = binaries.run(
      'pretrain.py', *arguments, f'--workdir={tmp_path / folder}'
    )
    assert done.returncode == 0, done.stderr
    return done

  run('straight')
  done = subprocess.run(
    [
      *(sys.executable, '-c', _KILLED, *arguments),
      *(f'--workdir={tmp_path / "killed"}', '3'),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  done = run('killed')
  assert 'Held-out loss: ' in done.stdout
  rows = metrics.read_metrics(tmp_path / 'killed' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5]
  ours, theirs = (
    (tmp_path / folder / 'translator.safetensors').read_bytes()
    for folder in ('killed', 'straight')
  )
  assert ours == theirs


@pytest.mark.slow
def test_the_binary_learns_from_what_is_there_until_its_time_is_over(tmp_path):
  arguments = (
    *(*_of_binary(tmp_path, subsets_per_batch=2), f'--workdir={tmp_path}/run'),
    *('--available', '--max_seconds=0', '--patience=0'),
  )
  first, last = sorted((tmp_path / 'cache').glob('shard-*'))
  kept = last.read_bytes()
  last.unlink()
  done = binaries.run('pretrain.py', *arguments)
  assert done.returncode == 0, done.stderr
  path = tmp_path / 'run' / 'translator.safetensors'
  record = translators.read_translator(path).record
  assert record['learned_subsets'] == [1, 2]
  assert record['num_steps'] == 2  # That of the first score.
  assert record['ended_by'] == 'caller'
  # More subsets come; the run goes on with those that it began with.
  last.write_bytes(kept)
  again = binaries.run('pretrain.py', *arguments)
  assert again.returncode == 0, again.stderr
  assert translators.read_translator(path).record['learned_subsets'] == [1, 2]
  last.unlink()
  first.unlink()
  (tmp_path / 'run' / 'config.json').unlink()
  refused = binaries.run('pretrain.py', *arguments)
  assert refused.returncode == 1
  assert 'has 0 subsets yet, of which 1 are held out' in refused.stderr


@pytest.mark.slow
def test_the_folder_of_another_stage_is_told_from_one_to_go_on_in(tmp_path):
  arguments = _of_binary(tmp_path, subsets_per_batch=2)
  sorted((tmp_path / 'cache').glob('shard-*'))[-1].unlink()
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'config.json').write_text('{"ipc": 1}')
  refused = binaries.run(
    'pretrain.py', *arguments, '--available', f'--workdir={other}'
  )
  assert refused.returncode == 1
  assert 'belongs to a run with other settings' in refused.stderr
  assert 'Traceback' not in refused.stderr
