"""What is kept on a device, and which sizes are compiled for it."""

import types

import pytest

from fsdd_jax.runtime import residence


def _device(monkeypatch, platform, stats):
  device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
  monkeypatch.setattr(residence, 'default_device', lambda: device)


def test_a_cpu_keeps_nothing_and_compiles_each_size():
  assert residence.is_cpu()
  assert not residence.fits(1)
  assert residence.padded_sizes([3, 1, 3, 2]) == [1, 2, 3]


@pytest.mark.parametrize(
  ('num_bytes', 'stats', 'expected'),
  [
    (40, {'bytes_limit': 100, 'bytes_in_use': 20}, True),
    (41, {'bytes_limit': 100, 'bytes_in_use': 20}, False),
    (1, None, False),  # The device does not say.
  ],
)
def test_half_of_the_free_memory_may_be_taken(
  monkeypatch, num_bytes, stats, expected
):
  _device(monkeypatch, 'gpu', stats)
  assert not residence.is_cpu()
  assert residence.fits(num_bytes) == expected
  assert residence.padded_sizes([3, 1, 3, 2]) == [3]
