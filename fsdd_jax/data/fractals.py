"""Procedural RGB images of any number of classes: iterated function systems.

A source for pre-training that needs no download, after FractalDB (Kataoka et
al., 2020): a class is a set of random contractions of the plane, an image is
the attractor of a jittered copy. Affine maps are drawn by their singular
values, the sum of which is kept in a range that gives well-formed attractors
(Anderson & Farrell, 2022).
"""

import numpy as np

_MAX_SCALE = 0.85  # Largest singular value, before jitter.
_JITTER = 0.12  # Relative for the maps, absolute for their offsets.
_ROUNDS = 14  # Of the chaos game from anywhere: within 0.001.
_ROUNDS_AFTER_JITTER = 6  # From the attractor before jitter.
_POINTS_AT_ONCE = 2**19  # Of all images together, to bound memory.
_COVERAGE = (0.2, 0.7)  # Share of pixels that a class's attractor hits.
_TEST_SIZE = 32  # Resolution at which coverage is measured.


def generate(
  seed: int,
  *,
  num_classes: int,
  images_per_class: int,
  image_size: int = 32,
  draw: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws labelled fractals.

  Class i, and image j of it, depend on `seed`, i, j and `draw` alone, not on
  how many classes and images are drawn.

  Args:
    seed: which family of classes to draw, at least 0.
    num_classes: number of classes.
    images_per_class: images of each class.
    image_size: side of the images in pixels.
    draw: which images of the same classes, at least 0; for instance 0 to train
      and 1 to test.

  Returns:
    Images `[num_classes * images_per_class, size, size, 3]` uint8, class by
    class, and their labels int32.

  Raises:
    ValueError: if a number is out of range.
  """
  if min(num_classes, images_per_class, image_size) < 1 or min(seed, draw) < 0:
    raise ValueError(
      'num_classes, images_per_class and image_size must be positive, seed '
      f'and draw at least 0; got {num_classes}, {images_per_class}, '
      f'{image_size}, {seed} and {draw}.'
    )
  shape = (num_classes, images_per_class, image_size, image_size, 3)
  images = np.empty(shape, np.uint8)
  for c in range(num_classes):
    maps, palette = _draw_class(np.random.default_rng((seed, c, 0)))
    rng = np.random.default_rng((seed, c, 1 + draw))
    images[c] = _draw_images(rng, maps, palette, images_per_class, image_size)
  labels = np.repeat(np.arange(num_classes, dtype=np.int32), images_per_class)
  return images.reshape(-1, *shape[2:]), labels


def _draw_class(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Maps `[k, 2, 3]` and a palette `[k, 3]` in [0, 1] of a new class."""
  while True:
    maps = _draw_maps(rng)
    start = np.zeros((2, _num_points(_TEST_SIZE)))
    points, last_map = _attractor(
      maps[None], _shares(maps), start, rounds=_ROUNDS
    )
    counts = _count(_fit(points), last_map, len(maps), _TEST_SIZE)
    coverage = np.mean(counts.sum(axis=1) > 0)
    # Too little is a dot or a line, too much is a square.
    if _COVERAGE[0] < coverage < _COVERAGE[1]:
      break
  hue = rng.random() + np.arange(len(maps)) * rng.uniform(0.1, 0.4)
  saturation = rng.uniform(0.4, 1.0, len(maps))
  value = rng.uniform(0.6, 1.0, len(maps))
  return maps, _rgb(hue, saturation, value)


def _draw_maps(rng: np.random.Generator) -> np.ndarray:
  """Between 2 and 5 random contractions `[k, 2, 3]`: matrix and offset."""
  k = rng.integers(2, 6)
  scales = np.sort(rng.uniform(0.2, 1.0, (k, 2)), axis=1)[:, ::-1]
  # Anderson & Farrell: the sum of s1 + 2 s2 lies in [(5 + k)/2, (6 + k)/2].
  target = rng.uniform(5 + k, 6 + k) / 2
  scales = scales * target / (scales @ (1.0, 2.0)).sum()
  scales = np.minimum(scales, _MAX_SCALE)
  left, right = _rotation(rng.uniform(0, 2 * np.pi, (2, k)))
  signs = rng.choice((-1.0, 1.0), (k, 1, 2))
  matrices = (left * scales[:, None, :] * signs) @ right
  offsets = rng.uniform(-1, 1, (k, 2, 1))
  return np.concatenate([matrices, offsets], axis=2)


def _rotation(angle: np.ndarray) -> np.ndarray:
  """Rotation matrices `[..., 2, 2]`."""
  cos, sin = np.cos(angle), np.sin(angle)
  return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _rgb(
  hue: np.ndarray, saturation: np.ndarray, value: np.ndarray
) -> np.ndarray:
  """Colours `[..., 3]` in [0, 1]; hue in turns."""
  phase = (hue[..., None] + np.asarray([0.0, 2 / 3, 1 / 3])) % 1.0
  ramp = np.clip(np.abs(phase * 6 - 3) - 1, 0.0, 1.0)
  return value[..., None] * (1 - saturation[..., None] * (1 - ramp))


def _shares(maps: np.ndarray) -> np.ndarray:
  """Share `[k]` of the points that each of maps `[k, 2, 3]` is to move."""
  area = np.abs(np.linalg.det(maps[:, :, :2]))
  area = np.maximum(area, 0.05 * area.sum())
  return area / area.sum()


def _attractor(
  maps: np.ndarray, shares: np.ndarray, start: np.ndarray, *, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
  """Moves points to the attractors of n similar function systems.

  A chaos game of a whole population: in each round every map moves a random
  share of the points, in proportion to its area, so that points cover the
  attractor evenly. All n systems share these random choices.

  Args:
    maps: `[n, k, 2, 3]`.
    shares: `[k]`, summing to 1.
    start: `[2, p]` first points.
    rounds: how often points move; the distance to the attractor falls like
      0.6 ** rounds.

  Returns:
    Points `[2, p, n]` float32, and the map `[p]` that moved each point last.
  """
  n, k = maps.shape[:2]
  num_points = start.shape[1]
  ends = np.round(np.cumsum(shares) * num_points).astype(int)
  starts = np.concatenate([[0], ends[:-1]])
  rng = np.random.default_rng(0)
  m = np.moveaxis(maps.astype(np.float32), 0, -1)  # [k, 2, 3, n]
  # With n last, moving a point to another place copies whole rows.
  points = np.repeat(start.astype(np.float32)[..., None], n, axis=2)
  for _ in range(rounds):
    order = rng.permutation(num_points)
    moved = np.empty_like(points)
    for i in range(k):
      part = order[starts[i] : ends[i]]
      x, y = points[0, part], points[1, part]
      for axis in range(2):
        a, b, c = m[i, axis]
        out = moved[axis, starts[i] : ends[i]]
        np.multiply(a, x, out=out)
        out += b * y
        out += c
    points = moved
  return points, np.repeat(np.arange(k), ends - starts)


def _fit(points: np.ndarray) -> np.ndarray:
  """Centres points `[2, p, n]` on 0 and scales their longer side to 1."""
  low, high = points.min(axis=1), points.max(axis=1)
  span = np.maximum((high - low).max(axis=0), 1e-6)
  return (points - ((low + high) / 2)[:, None]) / span


def _count(
  points: np.ndarray, last_map: np.ndarray, num_maps: int, image_size: int
) -> np.ndarray:
  """Points `[n, k, size, size]` that each map has moved to each pixel.

  Args:
    points: `[2, p, n]`; those outside [-0.5, 0.5] are lost.
    last_map: `[p]` in [0, k).
    num_maps: k.
    image_size: pixels a side.
  """
  n = points.shape[2]
  shape = (n, num_maps, image_size, image_size)
  x, y = np.floor((points + 0.5) * image_size).astype(np.int32)
  inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < image_size)
  block = np.arange(n, dtype=np.int32) * num_maps + last_map[:, None]
  index = (block * image_size + y) * image_size + x
  counts = np.bincount(index[inside], minlength=int(np.prod(shape)))
  return counts.reshape(shape).astype(np.float32)


def _draw_images(
  rng: np.random.Generator,
  maps: np.ndarray,
  palette: np.ndarray,
  num_images: int,
  image_size: int,
) -> np.ndarray:
  """Varied images `[n, size, size, 3]` uint8 of one class."""
  # One row of numbers an image, so that image j is the same for any n.
  noise = rng.random((num_images, 6 * len(maps) + 16), np.float32)
  start = np.zeros((2, _num_points(image_size)))
  base, _ = _attractor(maps[None], _shares(maps), start, rounds=_ROUNDS)
  images = np.empty((num_images, image_size, image_size, 3), np.uint8)
  chunk = max(1, _POINTS_AT_ONCE // base.shape[1])
  for i in range(0, num_images, chunk):
    part = slice(i, i + chunk)
    images[part] = _render(noise[part], maps, palette, base[..., 0], image_size)
  return images


def _render(
  noise: np.ndarray,
  maps: np.ndarray,
  palette: np.ndarray,
  base: np.ndarray,
  image_size: int,
) -> np.ndarray:
  """Images with their own jitter, pose, tint, contrast and background.

  Args:
    noise: `[n, 6 * k + 16]` in [0, 1), the variation of each image.
    maps: `[k, 2, 3]`, the class.
    palette: `[k, 3]` colours in [0, 1].
    base: `[2, p]` points on the attractor of the maps.
    image_size: pixels a side.
  """
  k = len(maps)
  jitter = noise[:, : 6 * k].reshape(-1, k, 2, 3) * 2 - 1
  pose, tint, contrast, canvas_noise = np.split(
    noise[:, 6 * k :], [5, 8, 9], axis=1
  )
  jittered = maps * (1 + _JITTER * jitter)
  jittered[..., 2] = maps[..., 2] + _JITTER * jitter[..., 2]
  points, last_map = _attractor(
    jittered, _shares(maps), base, rounds=_ROUNDS_AFTER_JITTER
  )
  counts = _count(_pose(points, pose), last_map, k, image_size)
  colors = palette * (1 + 0.4 * (tint[:, None] - 0.5))
  density = counts.sum(axis=1)[..., None]
  ink = np.einsum('nkhw,nkc->nhwc', counts, np.minimum(colors, 1))
  ink /= np.maximum(density, 1)
  opacity = 1 - np.exp(-density * (0.3 + 0.7 * contrast[..., None, None]))
  canvas = _background(canvas_noise, image_size)
  pixels = canvas + opacity * (ink - canvas)
  return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _num_points(image_size: int) -> int:
  """Enough points to fill the pixels of an attractor."""
  return 4 * max(image_size, 16) ** 2


def _pose(points: np.ndarray, noise: np.ndarray) -> np.ndarray:
  """Rotates up to 30 degrees, mirrors, fits, zooms and shifts points.

  Args:
    points: `[2, p, n]`.
    noise: `[n, 5]` in [0, 1).
  """
  angle, mirror, zoom, *shift = noise.T
  cos = np.cos((angle - 0.5) * (np.pi / 3))
  sin = np.sin((angle - 0.5) * (np.pi / 3))
  x, y = points[0] * np.where(mirror < 0.5, -1, 1).astype(np.float32), points[1]
  fitted = _fit(np.stack([cos * x - sin * y, sin * x + cos * y]))
  return fitted * (0.7 + 0.4 * zoom) + 0.2 * (np.stack(shift)[:, None] - 0.5)


def _background(noise: np.ndarray, image_size: int) -> np.ndarray:
  """Gradients `[n, size, size, 3]` between two random dark colours.

  Args:
    noise: `[n, 7]` in [0, 1): two colours and a direction.
    image_size: pixels a side.
  """
  axis = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size - 0.5
  angle = 2 * np.pi * noise[:, 6, None, None]
  ramp = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
  ramp = np.clip(ramp + 0.5, 0, 1)[..., None]
  start, end = 0.5 * noise[:, None, None, :3], 0.5 * noise[:, None, None, 3:6]
  return start + ramp * (end - start)
