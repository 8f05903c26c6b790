"""Batches of real images, from the host and from the device."""

import dataclasses

import jax
import numpy as np
import pytest

import toy
from fsdd_jax.runtime import residence


@pytest.mark.parametrize('coding', ['centered', 'onehot'])
def test_a_batch_is_the_same_from_the_memory_of_the_device(coding, monkeypatch):
  host = toy.target().coded(coding).batch(jax.random.key(3), 7)
  asked = []
  monkeypatch.setattr(
    residence, 'fits', lambda size: asked.append(size) or True
  )
  target = dataclasses.replace(toy.target(), label_coding=coding)
  found = target.batch(jax.random.key(3), 7)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    *(found, host),
  )
  other = target.batch(jax.random.key(4), 7)
  assert np.abs(found.images - other.images).max() > 0.1
  assert asked == [target.dataset.images.nbytes]
