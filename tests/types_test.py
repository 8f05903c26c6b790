"""Padding and label codings."""

import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax import types


def _set(n):
  rng = np.random.default_rng(n)
  return types.labeled_set(
    jnp.asarray(rng.standard_normal((n, 4, 4, 3)), jnp.float32),
    jnp.asarray(rng.standard_normal((n, 2)), jnp.float32),
  )


@pytest.mark.parametrize('size', [3, 7])
def test_unpad_undoes_pad(size):
  original = _set(3)
  padded = types.pad(original, size)
  assert padded.images.shape == (size, 4, 4, 3)
  assert float(padded.mask.sum()) == 3
  assert not padded.images[3:].any()
  back = types.unpad(padded)
  np.testing.assert_array_equal(back.images, original.images)
  np.testing.assert_array_equal(back.labels, original.labels)


def test_pad_refuses_a_smaller_size():
  with pytest.raises(ValueError, match='Cannot pad 3 images to 2'):
    types.pad(_set(3), 2)


def test_labeled_set_refuses_other_shapes():
  with pytest.raises(ValueError, match='same n'):
    types.labeled_set(jnp.zeros((2, 4, 4, 3)), jnp.zeros((3, 2)))
  with pytest.raises(ValueError, match=r'images \[n, h, w, c\]'):
    types.labeled_set(jnp.zeros((2, 4, 4)), jnp.zeros((2, 2)))


def test_label_codings():
  classes = jnp.asarray([1, 0])
  np.testing.assert_array_equal(
    types.one_hot(classes, 4), [[0, 1, 0, 0], [1, 0, 0, 0]]
  )
  np.testing.assert_array_equal(
    types.centered_one_hot(classes, 4)[0], [-0.25, 0.75, -0.25, -0.25]
  )
