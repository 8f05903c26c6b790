"""PyTorch's side of the benchmark computes what ours does."""

import numpy as np
import pytest

from fsdd_jax.networks import extractors
from measures import against_torch as torch_benchmark

pytest.importorskip('torch', reason='needs pip install torch')

_NETWORKS = [
  extractors.ConvNet(width=4, depth=1),
  extractors.ConvNet(width=4, depth=2, norm='none', width_multiplier=2),
]


@pytest.mark.parametrize('network', _NETWORKS, ids=lambda n: n.norm)
def test_steps_of_one_net_have_the_same_losses(network):
  calls = torch_benchmark.distillation_calls(
    network, ipc=1, num_real=30, image_size=8
  )
  for _ in range(3):
    ours, theirs = float(calls['ours']()), calls['torch']()
    np.testing.assert_allclose(ours, theirs, rtol=2e-2)


def test_a_step_with_more_images_than_features_has_the_same_loss():
  network = extractors.ConvNet(width=4, depth=3)
  calls = torch_benchmark.distillation_calls(
    network, ipc=2, num_real=30, image_size=8
  )
  np.testing.assert_allclose(
    float(calls['ours']()), calls['torch'](), rtol=2e-2
  )


@pytest.mark.parametrize('network', _NETWORKS, ids=lambda n: n.norm)
def test_statistics_are_the_same(network):
  calls = torch_benchmark.statistics_calls(network, num_images=20, image_size=8)
  np.testing.assert_allclose(
    float(calls['ours']()), calls['torch'](), rtol=1e-4
  )


@pytest.mark.parametrize('network', _NETWORKS, ids=lambda n: n.norm)
def test_training_steps_are_the_same(network):
  calls = torch_benchmark.training_calls(network, ipc=1, image_size=8)
  for _ in range(3):
    np.testing.assert_allclose(
      float(calls['ours']()), calls['torch'](), rtol=1e-3, atol=1e-5
    )


def test_every_row_is_timed():
  found = torch_benchmark.compare(
    _NETWORKS[0], ipcs=[1], num_real=20, image_size=8, repeats=2
  )
  assert list(found) == [
    'step of 1 Net, IPC 1',
    'statistics of 20 images',
    'training step of frepo, IPC 1',
  ]
  assert all(len(pairs.ratios) == 2 for pairs in found.values())
