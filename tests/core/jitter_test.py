"""Small random moves of distilled images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.distillation import distill_from
from fsdd_jax.core import jitter
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.types import labeled_set

_BOTH = ('flip', 'shift')


def _keys(count, seed=0):
  return jitter.row_keys(jax.random.key(seed), count)


def _images(count, size=32, seed=1):
  return jax.random.normal(jax.random.key(seed), (count, size, size, 2))


def _all_moves(image, limit):
  """Every flip and shift of an image, in NumPy."""
  size = len(image)
  padded = np.pad(image, ((limit, limit), (limit, limit), (0, 0)), mode='edge')
  for flipped in (padded, padded[:, ::-1]):
    for row in range(2 * limit + 1):
      for column in range(2 * limit + 1):
        yield flipped[row : row + size, column : column + size]


@pytest.mark.parametrize(('size', 'limit'), [(32, 1), (64, 2), (8, 1)])
def test_each_move_is_a_mirror_image_and_a_shift_by_a_32nd(size, limit):
  images = np.asarray(_images(6, size))
  moved = np.asarray(jitter.move(_keys(6), images, _BOTH))
  for before, after in zip(images, moved, strict=True):
    assert any(
      np.allclose(after, expected, atol=1e-6)
      for expected in _all_moves(before, limit)
    )


def test_all_moves_occur_about_equally_often():
  image = np.asarray(_images(1))[0]
  moved = np.asarray(
    jax.jit(functools.partial(jitter.move, names=_BOTH))(
      _keys(900), jnp.broadcast_to(image, (900, *image.shape))
    )
  )
  counts = [
    np.all(np.isclose(moved, expected, atol=1e-6), axis=(1, 2, 3)).sum()
    for expected in _all_moves(image, 1)
  ]
  assert sum(counts) == 900
  assert min(counts) > 25
  assert max(counts) < 85


def test_a_move_does_not_depend_on_the_rest_of_the_batch():
  images, keys = _images(9), _keys(9)
  whole = jitter.move(keys, images, _BOTH)
  np.testing.assert_array_equal(
    jitter.move(keys[4:6], images[4:6], _BOTH), whole[4:6]
  )


def test_a_name_moves_alone_and_none_leaves_the_set_as_it_is():
  images, keys = _images(20), _keys(20)
  flipped = np.asarray(jitter.move(keys, images, ('flip',)))
  mirrored = np.asarray(images)[:, :, ::-1]
  same = np.all(flipped == images, axis=(1, 2, 3))
  assert 0 < same.sum() < 20
  np.testing.assert_array_equal(flipped[~same], mirrored[~same])
  labeled = labeled_set(images, jnp.eye(20))
  assert jitter.move_set(jax.random.key(0), labeled, ()) is labeled


def test_each_step_of_distillation_moves_each_image_anew():
  steps, count = 12, 10
  # The gradient is 1 where the left half of the moved image comes from.
  left = jnp.arange(8)[None, None, :, None] < 4
  start = labeled_set(jnp.zeros((count, 8, 8, 1)), jnp.eye(count))
  config = DistillationConfig(
    num_steps=steps,
    optimizer='sgd',
    learning_rate=1.0,
    schedule='constant',
    label_learning_rate=0.0,
    jitter=('flip',),
  )
  distil = functools.partial(
    distill_from,
    start,
    lambda variables, labeled, target: (labeled.images * left).sum(),
    lambda step: (0.0, 0.0),
    num_steps=steps,
    options=LoopOptions(),
    diagnose=lambda variables, labeled: '',
  )
  found = -np.asarray(distil(config=config).images)
  mirrored = found[:, 0, 7, 0]  # How often the right half was on the left.
  np.testing.assert_array_equal(found[:, 0, 0, 0], steps - mirrored)
  assert 0.2 * steps * count < mirrored.sum() < 0.8 * steps * count
  assert len(set(mirrored.tolist())) > 2  # Each image has moves of its own.
  again = -np.asarray(distil(config=config).images)
  np.testing.assert_array_equal(again, found)


def test_an_unknown_move_is_named():
  with pytest.raises(ValueError, match=r'jitter .*turn.* flip, shift'):
    DistillationConfig(jitter=('turn',))
