"""A client in plain PyTorch trains on an export as well as we do."""

import dataclasses
import importlib.util
import os

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


def _torch_accuracy(folder, test, seed):
  """DC's protocol without augmentation, from files and README alone."""
  import torch
  from torch import nn

  torch.manual_seed(seed)
  data = torch.load(folder / 'distilled.pt', weights_only=True)
  layers, channels = [], 3
  for _ in range(3):
    layers += [
      nn.Conv2d(channels, _WIDTH, 3, padding=1),
      nn.InstanceNorm2d(_WIDTH, affine=True),
      nn.ReLU(),
      nn.AvgPool2d(2),
    ]
    channels = _WIDTH
  net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * _WIDTH, 10))
  classes = data['labels'].argmax(1)
  tx = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
  for step in range(_STEPS):
    if step == _STEPS // 2 + 1:
      tx.param_groups[0]['lr'] = 0.001
    tx.zero_grad()
    nn.functional.cross_entropy(net(data['images']), classes).backward()
    tx.step()
  pixels = torch.tensor(test.images.transpose(0, 3, 1, 2))
  x = pixels.float() / 255
  x = (x - data['mean'][:, None, None]) / data['std'][:, None, None]
  with torch.no_grad():
    found = net(x).argmax(1).numpy()
  return 100 * float(np.mean(found == test.labels))


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
  theirs = [
    _torch_accuracy(tmp_path / 'export', test, seed)
    for seed in range(_NETWORKS)
  ]
  training = dataclasses.replace(
    trainings.dc_training(),
    num_steps=lambda num_images, batch_size: _STEPS,
    augment=lambda key, images: images,
  )
  monkeypatch.setattr(trainings, 'dc_training', lambda without: training)
  ours = evaluate.evaluate(
    jax.random.key(0),
    synthetic,
    test,
    transform,
    network,
    protocol='dc',
    repeats=_NETWORKS,
  ).accuracies
  spread = np.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / _NETWORKS)
  print('PyTorch', theirs, 'JAX', ours)
  assert abs(np.mean(ours) - np.mean(theirs)) < 3 * spread + 0.5
  assert np.mean(theirs) > 14  # Chance is 10.
