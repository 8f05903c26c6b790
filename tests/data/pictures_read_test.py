"""Pictures of folders: as a viewer shows them, of every format, none lost."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fsdd_jax.data import datasets, sources, undecoded


def _load(root, **options):
  return datasets.load(f'folder:{root}', progress=False, **options)


def _picture(seed=0, shape=(8, 8, 3)):
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return Image.fromarray(pixels.squeeze())


def _two_classes(root, *, save):
  for name, seed in (('a', 0), ('b', 1)):
    (root / name).mkdir(parents=True)
    save(root / name, _picture(seed))


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_pictures_are_turned_as_shown(tmp_path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation

  def save(folder, image):
    image.save(folder / '0.png', exif=exif)

  _two_classes(tmp_path, save=save)
  turn = {3: 2, 6: -1, 8: 1}[orientation]
  expected = np.rot90(np.asarray(_picture(0)), turn)
  data = _load(tmp_path)
  first = data.images[data.labels == 0][0]
  np.testing.assert_array_equal(first, expected)


def test_sizes_of_a_turned_picture_are_those_shown(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  for name in 'ab':
    (tmp_path / name).mkdir()
    _picture(shape=(4, 9, 3)).save(tmp_path / name / '0.jpg', exif=exif)
  found = sources.size(f'folder:{tmp_path}', 'train')
  assert found.image_shape == (9, 4, 3)


def test_transparent_parts_are_shown_on_white(tmp_path):
  pixels = np.zeros((8, 8, 4), np.uint8)
  pixels[:, 4:] = 10, 20, 30, 255

  def save(folder, image):
    Image.fromarray(pixels).save(folder / '0.png')

  _two_classes(tmp_path, save=save)
  image = _load(tmp_path).images[0]
  assert (image[:, :4] == 255).all()
  assert (image[:, 4:] == (10, 20, 30)).all()


def test_every_format_that_pillow_reads_is_read(tmp_path):
  def save(folder, image):
    for suffix in ('png', 'gif', 'tif', 'tiff', 'bmp', 'webp', 'ppm', 'jpg'):
      image.save(folder / f'{suffix}.{suffix}')
    image.save(folder / 'UPPER.JPEG')

  _two_classes(tmp_path, save=save)
  train = datasets.sources.open_source(f'folder:{tmp_path}', 'train')
  test = datasets.sources.open_source(f'folder:{tmp_path}', 'test')
  assert len(train.labels) + len(test.labels) == 18


def test_what_is_passed_over_is_counted(tmp_path):
  def save(folder, image):
    image.save(folder / '0.png')
    (folder / 'notes.txt').write_text('x')
    (folder / 'more.txt').write_text('x')

  _two_classes(tmp_path, save=save)
  with pytest.warns(UserWarning, match=r'a: passed over 2 \.txt'):
    _load(tmp_path)


def test_pictures_in_the_wrong_place_are_counted(tmp_path):
  def save(folder, image):
    image.save(folder / '0.png')

  _two_classes(tmp_path / 'x', save=save)
  deep = tmp_path / 'x' / 'a' / 'more'
  deep.mkdir()
  _picture(5).save(deep / '1.png')
  with pytest.warns(UserWarning, match=r'/a: passed over 1 folder\(s\)'):
    assert len(_load(tmp_path / 'x').labels) == 2
  # As the tree of Tiny-ImageNet, but for a picture beside images/.
  (tmp_path / 'x' / 'b' / 'images').mkdir()
  _picture(6).save(tmp_path / 'x' / 'b' / 'images' / '2.png')
  with pytest.warns(UserWarning, match=r'/b: passed over 1 \.png'):
    assert len(_load(tmp_path / 'x').labels) == 2
  _picture(7).save(tmp_path / 'x' / 'stray.png')
  with pytest.warns(UserWarning, match=r'/x: passed over 1 \.png'):
    assert len(_load(tmp_path / 'x').labels) == 2


def test_copies_of_a_mac_are_passed_over(tmp_path, recwarn):
  def save(folder, image):
    image.save(folder / '0.png')
    (folder / '._0.png').write_bytes(b'Mac OS X')
    (folder / '.DS_Store').write_bytes(b'x')

  _two_classes(tmp_path, save=save)
  (tmp_path / '__MACOSX' / 'a').mkdir(parents=True)
  data = _load(tmp_path)
  assert data.class_names == ('a', 'b')
  assert len(data.labels) == 2
  assert not [w for w in recwarn if 'passed over' in str(w.message)]


def test_the_tree_of_tiny_imagenet(tmp_path):
  names = ('n01443537', 'n01629819')
  for seed, name in enumerate(names):
    folder = tmp_path / 'train' / name / 'images'
    folder.mkdir(parents=True)
    (folder.parent / f'{name}_boxes.txt').write_text('x')
    for number in range(3):
      _picture(10 * seed + number).save(folder / f'{name}_{number}.JPEG')
  for part in ('val', 'test'):
    (tmp_path / part / 'images').mkdir(parents=True)
  lines = []
  for number, name in enumerate((names[1], names[0], names[1])):
    file = f'val_{number}.png'
    _picture(100 + number).save(tmp_path / 'val' / 'images' / file)
    lines.append('\t'.join([file, name, '0', '0', '62', '62']))
  _picture(7).save(tmp_path / 'test' / 'images' / 'test_0.JPEG')
  annotations = tmp_path / 'val' / 'val_annotations.txt'
  annotations.write_text('\n'.join(lines) + '\n')
  train, test = _load(tmp_path), _load(tmp_path, split='test')
  assert train.class_names == test.class_names == names
  assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert test.labels.tolist() == [0, 1, 1]
  for row, seed in enumerate((101, 100, 102)):
    np.testing.assert_array_equal(test.images[row], np.asarray(_picture(seed)))
  annotations.write_bytes(b'\xff')
  with pytest.raises(ValueError, match=r'val_annotations\.txt is no text'):
    _load(tmp_path, split='test')
  annotations.write_text('val_9.png\tn01443537\n')
  with pytest.raises(ValueError, match=r'Line 1 of .*val_annotations\.txt'):
    _load(tmp_path, split='test')


def _bomb():
  """A PNG of 20,000 x 20,000 pixels of one bit."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
    )

  header = struct.pack('>IIBBBBB', 20_000, 20_000, 1, 0, 0, 0, 0)
  rows = zlib.compress(bytes(2501) * 100, 9)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', rows)
    + chunk(b'IEND', b'')
  )


def test_a_picture_too_large_for_pillow_is_named(tmp_path):
  _two_classes(
    tmp_path, save=lambda folder, image: image.save(folder / '0.png')
  )
  (tmp_path / 'a' / 'bomb.png').write_bytes(_bomb())
  says = r'a/bomb\.png \(.*400000000 pixels.* limit of \d+'
  with pytest.raises(ValueError, match=says):
    _load(tmp_path)


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'gif', 'bmp'])
def test_damaged_pictures_are_named_or_read(tmp_path, kind):
  buffer = io.BytesIO()
  _picture(3).save(buffer, kind)
  whole = buffer.getvalue()
  rng = np.random.default_rng(0)
  path = tmp_path / f'x.{kind}'
  named = 0
  for _ in range(150):
    data = bytearray(whole)
    for place in rng.integers(0, len(data), int(rng.integers(1, 4))):
      data[place] = int(rng.integers(256))
    path.write_bytes(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]))
    try:
      with undecoded.opened(path) as image:
        undecoded.as_shown(image).convert('RGB')
    except ValueError as error:
      assert str(path) in str(error)  # noqa: PT017
      named += 1
  assert named
