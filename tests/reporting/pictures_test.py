import io
import os

import numpy as np
import PIL.Image
import pytest

from fsdd_jax.reporting import pictures


def _decode(data):
  return np.asarray(PIL.Image.open(io.BytesIO(data)))


def _images(n, size=8, channels=3):
  generator = np.random.default_rng(0)
  return generator.integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def test_floats_are_rounded_and_clipped():
  values = np.array([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])
  expected = [0, 0, 0, 1, 255, 255]
  np.testing.assert_array_equal(pictures.to_uint8(values), expected)


def test_bad_values_are_named():
  with pytest.raises(TypeError, match='int64'):
    pictures.to_uint8(np.zeros((2, 2, 1), np.int64))
  with pytest.raises(ValueError, match='1 of 4 values to show are NaN'):
    pictures.to_uint8(np.array([0.0, np.nan, 1.0, 0.5]))


@pytest.mark.parametrize('channels', [1, 3])
def test_png_holds_the_pixels(channels):
  image = _images(1, channels=channels)[0]
  decoded = _decode(pictures.png_bytes(image))
  np.testing.assert_array_equal(decoded.reshape(image.shape), image)


@pytest.mark.parametrize('shape', [(4, 4), (4, 4, 2), (1, 4, 4, 3)])
def test_png_refuses_other_shapes(shape):
  with pytest.raises(ValueError, match='channels; got'):
    pictures.png_bytes(np.zeros(shape, np.uint8))


@pytest.mark.parametrize('channels', [1, 3])
def test_grid_places_enlarged_images(channels):
  images = _images(5, size=4, channels=channels)
  grid = pictures.image_grid(images, columns=3, gap=2, min_tile=8)
  assert grid.shape == (2 * 8 + 2, 3 * 8 + 2 * 2, channels)
  for i, image in enumerate(images):
    top, left = i // 3 * 10, i % 3 * 10
    tile = grid[top : top + 8, left : left + 8]
    np.testing.assert_array_equal(tile[::2, ::2], image)
    np.testing.assert_array_equal(tile[1::2, 1::2], image)
  # The place of the sixth image and the gaps are white.
  assert (grid[10:, 20:] == 255).all()
  assert (grid[8:10] == 255).all()


def test_small_and_oblong_images_are_visible():
  assert pictures.enlarge(np.zeros((1, 8, 8, 1))).shape == (1, 64, 64, 1)
  assert pictures.enlarge(np.zeros((1, 32, 48, 1))).shape == (1, 64, 96, 1)
  assert pictures.enlarge(np.zeros((1, 128, 128, 3))).shape[1:3] == (128, 128)


def test_titles_are_written_above_each_image():
  images = np.full((2, 64, 64, 1), 200, np.uint8)
  grid = pictures.image_grid(images, columns=2, titles=['a', ''], gap=0)
  assert (grid[16:] == 200).all()
  assert (grid[:16, :64] < 128).any()
  assert (grid[:16, 64:] == 255).all()


def test_long_titles_are_cut_to_the_width():
  images = np.full((2, 64, 64, 3), 200, np.uint8)
  grid = pictures.image_grid(images, columns=2, titles=['W' * 99, ''], gap=0)
  assert (grid[:16, 64:] == 255).all()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'images': _images(0), 'columns': 1}, 'at least one image'),
    ({'images': _images(2), 'columns': 0}, 'columns >= 1; got 0'),
    ({'images': _images(2)[0], 'columns': 1}, r'got \(8, 8, 3\)'),
    ({'images': _images(2), 'columns': 1, 'titles': ['a']}, '1 titles for 2'),
  ],
)
def test_bad_grids_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    pictures.image_grid(**arguments)


def _contains(picture, tile):
  """Whether `tile` stands somewhere in `picture`, pixel by pixel."""
  h, w = tile.shape[:2]
  corners = np.argwhere((picture == tile[0, 0]).all(axis=-1))
  return any(
    np.array_equal(picture[y : y + h, x : x + w], tile) for y, x in corners
  )


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('ipc', [1, 2])
def test_saved_grid_shows_each_image_unblurred(tmp_path, channels, ipc):
  # A narrow range of values: a picture that stretches it would not match.
  images = 100 + _images(3 * ipc, channels=channels) // 8
  path = tmp_path / 'grid.png'
  pictures.save_grid(path, images, ('a', 'b', 'c $x_{'), ipc=ipc, title='t')
  shown = _decode(path.read_bytes())[..., :3]
  for tile in pictures.enlarge(images):
    assert _contains(shown, np.broadcast_to(tile, (64, 64, 3)))
  assert os.listdir(tmp_path) == ['grid.png']


def _texts(figure):
  return '\n'.join(text.get_text() for text in figure.texts)


def test_many_classes_are_cut_and_it_says_so():
  names = [f'name {i}' for i in range(30)]
  figure = pictures.class_grid(_images(30 * 12), names, ipc=12, title='all')
  assert _texts(figure).split('\n') == [
    'all',
    '20 of 30 classes shown',
    '10 of 12 images a class shown',
  ]
  labels = [x.get_text() for x in figure.axes[0].get_yticklabels()]
  assert labels == names[:20]


def test_few_classes_are_shown_whole():
  figure = pictures.class_grid(_images(6), ('a', 'b', 'c'), ipc=2)
  assert _texts(figure) == ''


def test_one_image_a_class_is_cut_by_rows():
  names = [str(i) for i in range(9)]
  figure = pictures.class_grid(
    _images(9), names, ipc=1, max_rows=2, max_columns=4
  )
  assert _texts(figure) == '8 of 9 classes shown'


def test_same_grid_gives_the_same_bytes():
  def draw():
    return pictures.figure_png(pictures.class_grid(_images(2), 'ab', ipc=1))

  assert draw() == draw()


def test_wrong_ipc_is_named(tmp_path):
  with pytest.raises(ValueError, match='6 images are not 3 images of each'):
    pictures.save_grid(tmp_path / 'x', _images(6), ('a', 'b', 'c'), ipc=3)
  assert not os.listdir(tmp_path)
