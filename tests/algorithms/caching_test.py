"""Alg. 1: batches of subsets, files, restart, inspection."""

import dataclasses
import functools
import pathlib
import re
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import binaries
from experiments import cache as cache_binary
from fsdd_jax.algorithms import caching, subset_step
from fsdd_jax.algorithms.caching import SubsetDistiller
from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.core import distill_step, krr, krr_errors
from fsdd_jax.core.losses import feature_fn
from fsdd_jax.data import datasets
from fsdd_jax.data.normalization import normalize, standardization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.runtime import metrics
from fsdd_jax.storage.cache import shards
from fsdd_jax.storage.cache import summary as cache_summary
from fsdd_jax.storage.cache.manifest import read_manifest
from fsdd_jax.types import labeled_set
from workbench import problems

_CONFIG = CachingConfig(
  num_subsets=5,
  min_classes=2,
  max_classes=4,
  max_images=18,
  max_synthetic=8,
  num_steps=4,
  augmentation='none',
  subsets_per_batch=2,
  features_per_call=10,
  log_every=2,
)
_NETWORK = extractors.make(
  'convnet', image_shape=(8, 8, 3), num_classes=5, width=4
)


@pytest.fixture(scope='module')
def data():
  """100 images of five classes, and their standardisation."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(5), 20)
  base = rng.integers(60, 200, (5, 1, 1, 3))[labels]
  noise = rng.integers(-50, 50, (100, 8, 8, 3))
  images = np.clip(base + noise, 0, 255).astype(np.uint8)
  return datasets.from_arrays(images, labels), standardization(images)


def _distiller(data, **changes):
  config = dataclasses.replace(_CONFIG, **changes)
  return SubsetDistiller(_NETWORK, TargetSet(*data), config=config)


def _build(data, folder, *, process_index=0, process_count=1, **changes):
  return caching.build_cache(
    _NETWORK,
    TargetSet(*data),
    config=dataclasses.replace(_CONFIG, **changes),
    folder=folder,
    process_index=process_index,
    process_count=process_count,
  )


def _content(folder):
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """A complete cache."""
  folder = tmp_path_factory.mktemp('whole')
  _build(data, folder)
  return folder


def _distilled_alone(data, entry, config):
  """X_S, Y_S and losses of an entry by `distill`, without any padding."""
  dataset, normalization = data
  rows = np.asarray(entry.target.rows)[entry.target.mask > 0]
  num_classes, ipc = int(entry.num_classes), int(entry.ipc)
  per_class = config.max_images // num_classes
  assert len(rows) == num_classes * per_class
  labels = np.eye(num_classes, dtype=np.float32) - 1 / num_classes
  images = normalize(dataset.images[rows], normalization)
  first = np.concatenate(
    [np.arange(ipc) + c * per_class for c in range(num_classes)]
  )
  start = labeled_set(images[first], jnp.asarray(np.repeat(labels, ipc, 0)))
  theta = random_networks.sample(
    jax.random.key(config.theta_seed), _NETWORK, (8, 8, 3)
  )

  features_of = feature_fn(_NETWORK)
  target = krr_errors.FeatureSet(  # As a bank keeps them.
    features_of(theta, images).astype(jnp.float16),
    jnp.asarray(np.repeat(labels, per_class, 0)),
    jnp.ones(len(rows)),
  )

  def loss_fn(synthetic):
    features = features_of(theta, synthetic.images)
    weights = krr.solve(features, synthetic.labels, ridge=config.ridge)
    return krr_errors.error_on(config.loss, weights, target)

  tx = distill_step.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
    schedule=lambda rate: distill_step.SCHEDULES[config.schedule](
      rate, config.num_steps
    ),
  )
  losses = []
  step = distill_step.make_step(loss_fn, tx)
  state = distill_step.init_state(start, tx)
  for _ in range(config.num_steps):
    state, values = step(state)
    losses.append(float(values['loss']))
  return state.synthetic, losses


@pytest.mark.parametrize(('optimizer', 'checked'), [('adam', 2), ('lamb', 1)])
def test_a_batch_of_padded_subsets_is_each_alone_without_padding(
  data, optimizer, checked
):
  config = dataclasses.replace(
    _CONFIG, optimizer=optimizer, subsets_per_batch=3, ridge=1e-3
  )
  entries = SubsetDistiller(_NETWORK, TargetSet(*data), config=config)(range(2))
  assert len(entries) == 2
  assert len({int(e.num_classes * e.ipc) for e in entries}) == 2
  for entry in entries[:checked]:
    expected, losses = _distilled_alone(data, entry, config)
    keep = entry.synthetic.mask > 0
    np.testing.assert_allclose(entry.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(
      entry.synthetic.images[keep], expected.images, atol=1e-3
    )
    np.testing.assert_allclose(
      entry.synthetic.labels[keep][:, : entry.num_classes],
      expected.labels,
      atol=1e-3,
    )
    assert not np.any(entry.synthetic.images[~keep])
    assert not np.any(entry.synthetic.labels[:, entry.num_classes :])


def test_losses_fall(data):
  entries = _distiller(data, num_steps=25, learning_rate=0.05)(range(2))
  assert all(e.losses[-1] < 0.9 * e.losses[0] for e in entries)


@pytest.mark.parametrize('copies', [4, 0])
def test_augmentation_has_a_key_for_each_subset_and_step(data, copies):
  # So slow that only the augmentation changes the loss.
  still = {'learning_rate': 1e-9, 'label_learning_rate': 0.0}
  plain = _distiller(data, **still)([1, 3])
  np.testing.assert_allclose(plain[0].losses, plain[0].losses[0], rtol=1e-3)
  distil = _distiller(
    data, augmentation='dsa', augmented_copies=copies, **still
  )
  one, three = distil([1, 3])
  again = distil([3, 0])[0]
  relative = [e.losses / p.losses for e, p in zip((one, three), plain)]  # noqa: B905
  assert len(np.unique(np.round(relative[0], 4))) == len(relative[0])
  assert not np.any(np.isclose(*relative, rtol=1e-4))
  # The place in a batch plays no part.
  np.testing.assert_allclose(again.losses, three.losses, rtol=1e-4)


def test_few_sizes_serve_all_numbers_of_classes_and_images(data):
  distil = _distiller(data, augmentation='dsa')
  sizes, pairs = set(), set()
  for numbers in np.arange(20).reshape(-1, 2):
    initial = distil.draw(numbers).initial.mask
    size = len(subset_step.packed_rows(np.asarray(initial)))
    clock = metrics.StageClock()
    with clock.part('all'):
      entries = distil(numbers)
    pairs |= {(int(e.num_classes), int(e.ipc)) for e in entries}
    if size in sizes:
      assert clock.seconds().get('compilation', 0.0) == 0.0
    sizes.add(size)
  assert len(pairs) > 4
  assert len(sizes) <= 8


@given(hnp.arrays(np.bool_, st.integers(1, 40)).filter(np.any))
def test_packed_rows_are_all_that_are_in_use_and_little_else(mask):
  rows = subset_step.packed_rows(mask)
  np.testing.assert_array_equal(rows[: mask.sum()], np.flatnonzero(mask))
  assert np.all(rows[mask.sum() :] == mask.size)
  assert len(rows) <= mask.size
  assert len(rows) < mask.sum() + -(-mask.size // 8)


def test_moves_of_distilled_images_do_not_depend_on_the_batch(data):
  moving = {'jitter': ('flip',), 'ridge': 1e-3}
  entries = _distiller(data, **moving)([0, 1])
  (alone,) = _distiller(data, **moving, subsets_per_batch=1)([1])
  np.testing.assert_allclose(entries[1].losses, alone.losses, rtol=1e-4)
  (still,) = _distiller(data, ridge=1e-3, subsets_per_batch=1)([1])
  assert not np.allclose(alone.losses, still.losses, rtol=1e-3)


def test_moves_are_others_for_each_step_set_and_image():
  keys = jax.random.split(jax.random.key(0), 3)
  drawn = np.concatenate(
    [
      jax.random.key_data(subset_step.image_keys(keys, step, 4))
      for step in range(5)
    ]
  )
  assert len(np.unique(drawn, axis=0)) == 3 * 5 * 4


def test_regressions_are_not_batched(data, monkeypatch):
  # Two batched LAPACK calls at once can block a machine of two cores for ever.
  step, shapes = subset_step.step, []

  def traced(*args, **settings):
    text = str(step.trace(*args, **settings).jaxpr)
    shapes.extend(re.findall(r':f32\[([\d,]+)\] = cholesky', text))
    return step(*args, **settings)

  monkeypatch.setattr(subset_step, 'step', traced)
  _distiller(data, num_steps=1)([0, 1])
  assert set(shapes) == {'8,8'}


def test_fixed_labels_stay(data):
  (entry,) = _distiller(data, label_learning_rate=0.0)([0])
  c = int(entry.num_classes)
  expected = np.repeat(np.eye(c) - 1 / c, int(entry.ipc), 0)
  keep = entry.synthetic.mask > 0
  np.testing.assert_allclose(
    entry.synthetic.labels[keep][:, :c], expected, atol=1e-6
  )


def test_restart_writes_missing_files_only_to_the_same_bytes(
  data, whole, tmp_path, monkeypatch
):
  content = _content(whole)
  assert len(content) == 4  # The manifest and ceil(5 / 2) files.
  removed = read_manifest(whole).shard_name(1)
  for name in content.keys() - {removed}:
    (tmp_path / name).write_bytes(content[name])
  written = []
  write_shard = shards.CacheWriter.write_shard

  def write(self, shard, entries):
    written.append(shard)
    write_shard(self, shard, entries)

  monkeypatch.setattr(shards.CacheWriter, 'write_shard', write)
  _build(data, tmp_path)
  assert written == [1]
  assert _content(tmp_path) == content


def test_two_processes_write_what_one_does(data, whole, tmp_path):
  for index in (1, 0):
    _build(data, tmp_path, process_index=index, process_count=2)
  assert _content(tmp_path) == _content(whole)
  with pytest.raises(ValueError, match='process_index=2 must lie in'):
    _build(data, tmp_path, process_index=2, process_count=2)


def test_progress_and_losses_reach_the_caller(data, whole, tmp_path):
  done = []
  manifest = caching.build_cache(
    _NETWORK,
    TargetSet(*data),
    config=_CONFIG,
    folder=tmp_path,
    progress_fn=lambda count, values: done.append((count, values)),
  )
  source = shards.open_cache(tmp_path, manifest)
  assert [count for count, _ in done] == [1, 3, 5]
  assert done[0][1]['last_loss'] == pytest.approx(source[0].losses[-1])
  assert source[0].losses.shape == (_CONFIG.num_steps,)


def test_another_cache_in_the_folder_is_refused(data, whole):
  with pytest.raises(ValueError, match=r'configuration.num_steps: 4 in the'):
    _build(data, whole, num_steps=5)
  with pytest.raises(ValueError, match='network_seed: 0 in the cache, 1'):
    _build(data, whole, theta_seed=1)


def test_features_are_computed_only_for_subsets_that_are_missing(
  data, whole, monkeypatch
):
  def computed(*_):
    raise AssertionError('Features were computed.')

  monkeypatch.setattr(caching.drawn_subsets, 'targets_fn', computed)
  with pytest.raises(ValueError, match=r'configuration.ridge: .* in the'):
    _build(data, whole, ridge=0.5)
  _build(data, whole)


def test_ranges_beyond_the_data_are_refused_before_anything_is_written(
  data, tmp_path
):
  with pytest.raises(ValueError, match='Class 0 has 20 images'):
    _build(data, tmp_path / 'new', max_images=60)
  assert not (tmp_path / 'new').exists()


def test_divergence_names_the_subset_and_writes_no_file(data, tmp_path):
  with pytest.raises(FloatingPointError, match=r'Subset 0 \(C = \d classes, I'):
    _build(data, tmp_path, optimizer='sgd', learning_rate=1e30)
  assert list(_content(tmp_path)) == ['manifest.json']


def test_a_description_builds_the_network_and_its_theta_again():
  network = extractors.make(
    'convnet',
    image_shape=(8, 8, 3),
    num_classes=5,
    width=4,
    dtype=jnp.bfloat16,
  )
  described = extractors.describe_network(network)
  assert described['dtype'] == 'bfloat16'
  assert described['norm'] == 'instance'
  sample = functools.partial(
    random_networks.sample, jax.random.key(0), image_shape=(8, 8, 3)
  )
  theta, again = (
    sample(network=net)['params']['Conv_0']
    for net in (
      network,
      extractors.make(**described, image_shape=(8, 8, 3), num_classes=9),
    )
  )
  jax.tree.map(np.testing.assert_array_equal, theta, again)


def test_summary_tells_counts_losses_and_damage(data, whole, tmp_path):
  summary = cache_summary.summarize(whole)
  text = cache_summary.to_text(summary)
  assert '5 of 5 subsets' in text
  entries = [shards.open_cache(whole)[i] for i in range(5)]
  assert summary.subsets.tolist() == list(range(5))
  assert summary.ipc.tolist() == [int(e.ipc) for e in entries]
  np.testing.assert_allclose(
    summary.last_losses, [e.losses[-1] for e in entries]
  )
  used = np.mean([e.synthetic.mask.mean() for e in entries])
  assert summary.padded_share == pytest.approx(1 - used)
  names = [read_manifest(whole).shard_name(i) for i in range(3)]
  content = _content(whole)
  damaged = bytearray(content[names[2]])
  damaged[len(damaged) // 2] ^= 255
  content[names[2]] = bytes(damaged)
  del content[names[0]]
  for name, value in content.items():
    (tmp_path / name).write_bytes(value)
  summary = cache_summary.summarize(tmp_path)
  assert summary.missing == (names[0],)
  assert list(summary.damaged) == [names[2]]
  assert summary.subsets.tolist() == [1, 2]
  (tmp_path / names[2]).write_bytes(bytes(damaged[:1000]))
  summary = cache_summary.summarize(tmp_path)
  text = cache_summary.to_text(summary)
  assert f'Missing: {names[0]}' in text
  assert f'{names[2]}: ' in text
  assert '2 of 5 subsets' in text


def test_histogram_counts_every_subset():
  num_classes = np.array([2, 2, 3, 9, 10])
  ipc = np.array([1, 2, 3, 4, 16])
  lines = cache_summary.histogram(num_classes, ipc)
  assert lines[0].split() == ['1', '2-3', '4-7', '8-15', '16-31']
  table = np.array([line.split()[1:] for line in lines[1:]], int)
  assert table.sum(axis=0).tolist() == [1, 2, 1, 0, 1]
  assert table.sum(axis=1)[0] == 3  # C = 2 and 3 share a row.


_SCRIPT = """
import os, signal, sys
from workbench import config_flags, launching
from fsdd_jax.storage.cache import shards
from experiments import cache as binary

kill_at = int(sys.argv.pop())
write_records = shards.CacheWriter._write_records

def killing(self, path, subsets, entries):
  count = write_records(self, path, subsets, entries)
  if subsets.start == kill_at:
    os.kill(os.getpid(), signal.SIGKILL)
  return count

shards.CacheWriter._write_records = killing
config_flags.define(*binary.CONFIGS, **binary.DEFAULTS)
launching.run(binary.main)
"""


@pytest.mark.slow
def test_the_binary_killed_and_restarted_gives_the_bytes_of_a_straight_run(
  tmp_path, capsys
):
  arguments = [
    *('--dataset=fractals:6', '--limit=120', '--image_size=8', '--width=4'),
    *('--num_subsets=4', '--min_classes=2', '--max_classes=4'),
    *('--max_images=16', '--max_synthetic=8', '--num_steps=2'),
    *('--subsets_per_batch=1', '--augmentation=none'),
    f'--folder={tmp_path / "a"}',
  ]
  done = subprocess.run(
    [sys.executable, '-c', _SCRIPT, *arguments, '2'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  # Files 0 and 1, the manifest, and what was in flight.
  left = _content(tmp_path / 'a')
  assert len([name for name in left if not name.endswith('.lock')]) == 4
  done = binaries.run('cache.py', *arguments)
  assert done.returncode == 0, done.stderr
  train = problems.load_dataset(
    DataConfig('fractals:6', limit=120, image_size=8), 'train'
  )
  caching.build_cache(
    problems.make_network(NetworkConfig(width=4), (8, 8, 3), 6),
    TargetSet(train, standardization(train.images)),
    config=CachingConfig(
      num_subsets=4,
      min_classes=2,
      max_classes=4,
      max_images=16,
      max_synthetic=8,
      num_steps=2,
      augmentation='none',
      subsets_per_batch=1,
    ),
    folder=tmp_path / 'b',
    dataset_name='fractals:6',
  )
  assert _content(tmp_path / 'a') == _content(tmp_path / 'b')
  cache_binary.inspect(tmp_path / 'a')
  assert '4 of 4 subsets of fractals:6' in capsys.readouterr().out
  assert (tmp_path / 'a' / 'inspection.png').stat().st_size > 1000
