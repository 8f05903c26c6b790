"""The program in an export trains in plain PyTorch as `frepo` does here."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from fsdd_jax.data import datasets, normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate, trainings
from fsdd_jax.networks import extractors
from fsdd_jax.reporting import exports
from fsdd_jax.storage import distilled_set
from workbench import results

pytestmark = [
  pytest.mark.skipif(
    importlib.util.find_spec('torch') is None, reason='PyTorch is not installed'
  ),
  pytest.mark.skipif(
    'FSDD_DATA_DIR' not in os.environ,
    reason='needs CIFAR-10 below FSDD_DATA_DIR',
  ),
]
_WIDTH, _NETWORKS, _STEPS = 16, 3, 300


def _torch_accuracies(folder, test):
  """What the program in an export prints, from the files beside it alone."""
  np.savez(folder / 'test.npz', images=test.images, labels=test.labels)
  result = subprocess.run(
    [
      *(sys.executable, '-I', folder / 'train_torch.py'),
      *('--test', folder / 'test.npz', '--steps', str(_STEPS)),
      *('--repeats', str(_NETWORKS)),
    ],
    capture_output=True,
    check=True,
    text=True,
  )
  return [
    float(x) for x in re.findall(r'^network \d: (.*)%', result.stdout, re.M)
  ]


@pytest.mark.slow
def test_pytorch_scores_an_export_as_we_do(tmp_path, monkeypatch):
  data = DataConfig(dataset='cifar10', limit=500)
  train = datasets.load('cifar10', limit=500)
  test = datasets.load('cifar10', split='test', limit=1000)
  transform = normalization.standardization(train.images)
  fields = NetworkConfig(width=_WIDTH)
  network = extractors.make(
    'convnet', image_shape=(32, 32, 3), num_classes=10, width=_WIDTH
  )
  config = DistillationConfig(ipc=1, num_steps=20, num_networks=4, revisit=True)
  synthetic = baseline.distill_over_networks(
    network, TargetSet(train, transform), config=config
  ).synthetic
  distilled = results.describe_result(
    synthetic, transform, train, data, fields, config
  )
  distilled_set.save_distilled(tmp_path / 'distilled.safetensors', distilled)
  exports.export(
    distilled_set.read_distilled(tmp_path / 'distilled.safetensors'),
    tmp_path / 'export',
    ['torch', 'pt'],
  )
  assert 'images' in load_file(
    tmp_path / 'export' / 'distilled_torch.safetensors'
  )
  theirs = _torch_accuracies(tmp_path / 'export', test)
  training = dataclasses.replace(
    trainings.frepo_training(),
    num_steps=lambda num_images, batch_size: _STEPS,
  )
  monkeypatch.setattr(trainings, 'frepo_training', lambda without: training)
  ours = evaluate.evaluate(
    jax.random.key(0),
    synthetic,
    test,
    transform,
    network,
    protocol='frepo',
    repeats=_NETWORKS,
  ).accuracies
  spread = np.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / _NETWORKS)
  print('PyTorch', theirs, 'JAX', ours)
  assert abs(np.mean(ours) - np.mean(theirs)) < 3 * spread + 0.5
  assert np.mean(theirs) > 14  # Chance is 10.
