"""Tests of the procedural fractals."""

import numpy as np
import pytest

from fsdd_jax.data import fractals


def _draw(seed=0, num_classes=4, images_per_class=5, image_size=16, draw=0):
  return fractals.generate(
    seed,
    num_classes=num_classes,
    images_per_class=images_per_class,
    image_size=image_size,
    draw=draw,
  )


def test_shapes_types_and_labels():
  images, labels = _draw()
  assert images.shape == (20, 16, 16, 3)
  assert images.dtype == np.uint8
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 5))


def test_same_seed_same_bytes():
  np.testing.assert_array_equal(_draw()[0], _draw()[0])


@pytest.mark.parametrize('change', [{'seed': 1}, {'draw': 1}])
def test_other_seeds_and_draws_give_other_images(change):
  different = (_draw()[0] != _draw(**change)[0]).any((1, 2, 3))
  assert different.all()


def test_an_image_depends_on_neither_number():
  few = _draw(num_classes=2, images_per_class=3)[0].reshape(2, 3, 16, 16, 3)
  many = _draw(num_classes=4, images_per_class=5)[0].reshape(4, 5, 16, 16, 3)
  np.testing.assert_array_equal(few, many[:2, :3])


def test_chunks_do_not_change_images(monkeypatch):
  whole = _draw()[0]
  monkeypatch.setattr(fractals, '_POINTS_AT_ONCE', 1)
  np.testing.assert_array_equal(_draw()[0], whole)


def test_classes_are_told_apart_in_another_draw():
  """Class means of one draw classify another draw far above chance."""
  train, labels = _draw(num_classes=10, images_per_class=60)
  test, test_labels = _draw(num_classes=10, images_per_class=20, draw=1)

  def features(images):
    # Edges, so that the random backgrounds do not matter.
    x = images.astype(np.float64) / 255
    return np.abs(np.diff(x, axis=1))[:, :, 1:].reshape(len(x), -1)

  x = features(train)
  means = np.stack([x[labels == c].mean(0) for c in range(10)])
  distances = ((features(test)[:, None] - means) ** 2).sum(-1)
  accuracy = np.mean(distances.argmin(1) == test_labels)
  assert accuracy > 0.4  # Chance is 0.1.


def test_images_within_a_class_vary():
  images = _draw(num_classes=3, images_per_class=8)[0].astype(np.float64)
  images = images.reshape(3, 8, -1)
  distance = np.abs(images[:, :, None] - images[:, None]).mean(-1)
  distance += 1000 * np.eye(8)
  assert distance.min() > 5  # Grey levels a pixel, of 255.


def test_classes_are_neither_dots_nor_squares():
  for c in range(20):
    maps, palette = fractals._draw_class(np.random.default_rng(c))
    assert maps.shape == (len(palette), 2, 3)
    assert np.linalg.norm(maps[:, :, :2], ord=2, axis=(1, 2)).max() < 1
    start = np.zeros((2, 4096))
    points, last = fractals._attractor(
      maps[None], fractals._shares(maps), start, rounds=30
    )
    counts = fractals._count(fractals._fit(points), last, len(maps), 32)
    assert 0.15 < np.mean(counts.sum(1) > 0) < 0.75


def test_points_lie_on_the_attractor():
  """The Sierpinski triangle: no point in the open middle triangle."""
  offsets = np.asarray([[0, 0], [0.5, 0], [0, 0.5]])
  halves = np.broadcast_to(0.5 * np.eye(2), (3, 2, 2))
  maps = np.concatenate([halves, offsets[..., None]], axis=2)
  points, last = fractals._attractor(
    maps[None], fractals._shares(maps), np.zeros((2, 3000)), rounds=20
  )
  x, y = points[..., 0]
  assert np.all(x + y <= 1 + 1e-5)
  assert not np.any((x < 0.499) & (y < 0.499) & (x + y > 0.501))
  np.testing.assert_array_equal(np.bincount(last), [1000] * 3)
  # The map that moved a point last tells which third it is in.
  np.testing.assert_array_equal(last == 1, x >= 0.5 - 1e-6)


@pytest.mark.parametrize(
  'change', [{'num_classes': 0}, {'image_size': 0}, {'seed': -1}, {'draw': -1}]
)
def test_refuses_numbers_out_of_range(change):
  with pytest.raises(ValueError, match='must be positive'):
    _draw(**change)
