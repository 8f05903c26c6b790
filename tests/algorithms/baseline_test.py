"""Alg. 4: order of networks, descent, resume, NaN."""

import dataclasses
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import binaries
from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.core import losses
from fsdd_jax.data import passes
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import centered_one_hot

_CONFIG = DistillationConfig(
  ipc=2, num_steps=6, num_networks=3, checkpoint_every=2, log_every=2
)


def _distill(dataset, normalization, network, *, options=None, **changes):
  return baseline.distill_over_networks(
    network,
    TargetSet(dataset, normalization),
    config=dataclasses.replace(_CONFIG, **changes),
    options=options,
  )


def test_sequence_takes_equal_turns_and_drops_the_rest():
  order = baseline.network_order(jax.random.key(0), 3, 8, revisit=False)
  assert order.tolist() == [0, 0, 1, 1, 2, 2]


def test_pool_visits_every_network_each_round_in_changing_order():
  order = baseline.network_order(jax.random.key(0), 5, 23, revisit=True)
  assert len(order) == 23
  rounds = order[:20].reshape(4, 5)
  assert (np.sort(rounds, axis=1) == np.arange(5)).all()
  assert len({tuple(r) for r in rounds}) > 1


@pytest.mark.parametrize(
  ('changes', 'name'),
  [
    ({'num_networks': 1}, '1 Net'),
    ({'num_networks': 6}, 'Baseline'),
    ({}, 'Baseline(R=3)'),
    ({'revisit': True}, 'Pool(3)'),
  ],
)
def test_method_names(changes, name):
  config = dataclasses.replace(_CONFIG, **changes)
  assert baseline.method_name(config) == name


@pytest.mark.parametrize(
  'changes',
  [
    {'num_networks': 1},
    {},
    {'revisit': True},
    {'real_batch': 9},
    {'real_batch': 9, 'revisit': True, 'optimizer': 'adabelief'},
    {'label_coding': 'onehot', 'label_learning_rate': 0.0},
  ],
)
def test_distillation_lowers_the_loss_in_its_networks(
  tiny_dataset, tiny_normalization, tiny_network, changes
):
  # Noisy start: the real images of this data set are too easy to improve on.
  result = _distill(
    tiny_dataset,
    tiny_normalization,
    tiny_network,
    num_steps=30,
    learning_rate=0.05,
    **changes,
  )
  start = TargetSet(
    tiny_dataset,
    tiny_normalization,
    changes.get('label_coding', 'centered'),
  ).random_real(jax.random.split(jax.random.key(0), 4)[0], ipc=2)
  stats = [
    passes.target_statistics(
      losses.feature_fn(tiny_network),
      variables,
      tiny_dataset.images,
      np.asarray(centered_one_hot(tiny_dataset.labels, 3))
      if 'label_coding' not in changes
      else np.eye(3, dtype=np.float32)[tiny_dataset.labels],
      tiny_normalization,
    )
    for variables in result.seen
  ]

  def loss(synthetic):
    return np.mean(
      [
        losses.LOSSES[_CONFIG.loss].on_statistics(
          losses.feature_fn(tiny_network), v, synthetic, s, ridge=1e-6
        )
        for v, s in zip(result.seen, stats, strict=True)
      ]
    )

  assert loss(result.synthetic) < 0.9 * loss(start)
  if changes.get('label_learning_rate') == 0.0:
    np.testing.assert_array_equal(result.synthetic.labels, start.labels)
  assert result.seconds['distillation'] > 0
  assert ('statistics' in result.seconds) == ('real_batch' not in changes)


def test_a_pool_minimises_an_error_that_needs_features(
  tiny_dataset, tiny_normalization, tiny_network
):
  labels = tiny_dataset.labels.copy()
  labels[::3] = (labels[::3] + 1) % 3  # Else cross-entropy is zero already.
  dataset = dataclasses.replace(tiny_dataset, labels=labels)
  target = TargetSet(dataset, tiny_normalization)
  start = target.random_real(jax.random.split(jax.random.key(0), 4)[0], ipc=2)
  result = _distill(
    dataset,
    tiny_normalization,
    tiny_network,
    num_steps=30,
    learning_rate=0.05,
    loss='platt',
    revisit=True,
  )
  real = target.inputs(np.arange(len(labels)))
  features_of = losses.feature_fn(tiny_network)
  before, after = (
    np.mean(
      [
        losses.LOSSES['platt'].on_images(features_of, v, s, real, ridge=1e-6)
        for v in result.seen
      ]
    )
    for s in (start, result.synthetic)
  )
  assert after < 0.9 * before


def test_same_seed_same_bytes_another_seed_others(
  tiny_dataset, tiny_normalization, tiny_network
):
  def run(**changes):
    result = _distill(tiny_dataset, tiny_normalization, tiny_network, **changes)
    return np.asarray(result.synthetic.images).tobytes()

  assert run() == run()
  assert run() != run(seed=1)


def test_another_config_on_the_workdir_is_refused(
  tiny_dataset, tiny_normalization, tiny_network, tmp_path
):
  run = (tiny_dataset, tiny_normalization, tiny_network)
  _distill(*run, options=LoopOptions(tmp_path))
  with pytest.raises(ValueError, match=r'ridge: 1e-06 there, 0.01 now'):
    _distill(*run, options=LoopOptions(tmp_path), ridge=0.01)


def test_too_many_images_per_class_is_refused(
  tiny_dataset, tiny_normalization, tiny_network
):
  with pytest.raises(ValueError, match="Class 'red' has 20 images"):
    _distill(tiny_dataset, tiny_normalization, tiny_network, ipc=21)


def test_divergence_names_step_norms_and_condition_number(
  tiny_dataset, tiny_normalization, tiny_network
):
  with pytest.raises(FloatingPointError) as caught:
    _distill(
      tiny_dataset,
      tiny_normalization,
      tiny_network,
      optimizer='sgd',
      learning_rate=1e30,
    )
  text = str(caught.value)
  assert 'stopped at step' in text
  assert 'condition number of the kernel' in text
  assert 'largest absolute value of images' in text


_SCRIPT = """
import os, signal, sys
from absl import flags
from workbench import config_flags, launching
from experiments import distill
from fsdd_jax.runtime.loop import Loop

kill_at = int(sys.argv.pop())
on_step = Loop.on_step

def killing(self, done, state, metrics):
  on_step(self, done, state, metrics)
  if done == kill_at:
    os.kill(os.getpid(), signal.SIGKILL)

Loop.on_step = killing
config_flags.define(*distill.CONFIGS)
launching.run(distill.main)
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_bytes_of_the_straight_run(tmp_path):
  arguments = [
    *('--dataset=digits', '--limit=100', '--ipc=1', '--width=4'),
    *('--num_networks=4', '--revisit', '--num_steps=12'),
    '--checkpoint_every=3',
  ]

  def killed(kill_at):
    command = [sys.executable, '-c', _SCRIPT, *arguments]
    command += [f'--workdir={tmp_path / "killed"}', str(kill_at)]
    return subprocess.run(command, capture_output=True).returncode

  def run(folder):
    return binaries.run(
      'distill.py', *arguments, f'--workdir={tmp_path / folder}'
    ).returncode

  assert run('straight') == 0
  assert killed(5) == -signal.SIGKILL
  assert killed(10) == -signal.SIGKILL
  assert run('killed') == 0
  straight, killed = (
    (tmp_path / folder / 'distilled.safetensors').read_bytes()
    for folder in ('straight', 'killed')
  )
  assert straight == killed


def test_a_start_takes_the_place_of_random_real_images(
  tiny_network, tiny_dataset, tiny_normalization, tmp_path
):
  problem = tiny_network, TargetSet(tiny_dataset, tiny_normalization)
  config = DistillationConfig(ipc=2, num_steps=2)
  key = jax.random.split(jax.random.key(config.seed), 4)[0]
  same = problem[1].random_real(key, ipc=2)
  plain = baseline.distill_over_networks(*problem, config=config)
  given = baseline.distill_over_networks(*problem, config=config, start=same)
  np.testing.assert_array_equal(plain.synthetic.images, given.synthetic.images)
  np.testing.assert_array_equal(plain.synthetic.labels, given.synthetic.labels)
  with pytest.raises(ValueError, match='ipc = 1 of 3 classes'):
    baseline.distill_over_networks(
      *problem, config=DistillationConfig(ipc=1), start=same
    )
  # A work directory is of one start.
  options = LoopOptions(tmp_path)
  baseline.distill_over_networks(*problem, config=config, options=options)
  with pytest.raises(ValueError, match='start_sha256'):
    baseline.distill_over_networks(
      *problem, config=config, options=options, start=same
    )
