import dataclasses
import importlib.util
import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

import binaries
from fsdd_jax.data import normalization
from fsdd_jax.networks import extractors
from fsdd_jax.reporting import export_card, export_clients, exports
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import centered_one_hot

NAMES = ('circle', '../a b', 'Straße')
HAS_TORCH = importlib.util.find_spec('torch') is not None
needs_torch = pytest.mark.skipif(
  not HAS_TORCH, reason='PyTorch is not installed'
)
without_torch = pytest.mark.skipif(
  HAS_TORCH, reason='what is tested happens without PyTorch only'
)


def make_distilled(*, zca=False, channels=3):
  """Six images of 4 x 5 in three classes, and their pixels."""
  generator = np.random.default_rng(0)
  pixels = generator.integers(0, 256, (30, 4, 5, channels), dtype=np.uint8)
  fit = normalization.zca_whitening if zca else normalization.standardization
  transform = fit(pixels)
  distilled = distilled_set.DistilledSet(
    images=np.asarray(normalization.normalize(pixels[:6], transform)),
    labels=np.asarray(centered_one_hot(jnp.arange(6) // 2, 3)),
    normalization=transform,
    metadata=distilled_set.Metadata(
      dataset='shapes',
      class_names=NAMES,
      label_coding='centered',
      ipc=2,
      network={'name': 'ConvNet'},
      recipe={},
      seeds={'theta': 0},
    ),
  )
  return distilled, pixels[:6]


@pytest.mark.parametrize('zca', [False, True])
def test_pixels_of_real_images_come_back_unclipped(zca):
  distilled, pixels = make_distilled(zca=zca)
  shown, clipped = exports.to_pixels(distilled)
  np.testing.assert_array_equal(shown, pixels)
  assert clipped == 0.0


def test_share_of_clipped_pixels_is_counted():
  distilled, _ = make_distilled()
  images = np.zeros_like(distilled.images)
  images[0] = 100.0
  images[1, 0] = -100.0
  shown, clipped = exports.to_pixels(
    dataclasses.replace(distilled, images=images)
  )
  assert clipped == pytest.approx((60 + 15) / 360)
  assert (shown[0] == 255).all()
  assert (shown[1, 0] == 0).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_png_folder_holds_the_pixels_by_class(tmp_path, channels):
  distilled, pixels = make_distilled(channels=channels)
  exports.export(distilled, tmp_path / 'out', ['png'])
  found = sorted((tmp_path / 'out').rglob('*.png'))
  folder = tmp_path / 'out' / 'png'
  assert [str(path.relative_to(folder)) for path in found] == [
    '0_circle/0.png',
    '0_circle/1.png',
    '1_a_b/2.png',
    '1_a_b/3.png',
    '2_Straße/4.png',
    '2_Straße/5.png',
  ]
  for path, image in zip(found, pixels, strict=True):
    decoded = np.asarray(PIL.Image.open(path))
    np.testing.assert_array_equal(decoded.reshape(image.shape), image)
  assert sorted(os.listdir(tmp_path / 'out')) == ['README.md', 'png']


def test_png_is_not_mixed_with_an_earlier_set(tmp_path):
  distilled, _ = make_distilled()
  exports.export(distilled, tmp_path, ['png'])
  other = dataclasses.replace(distilled, images=-distilled.images)
  with pytest.raises(FileExistsError, match='png: already holds other files'):
    exports.export(other, tmp_path, ['npz', 'png'])
  assert not (tmp_path / 'distilled.npz').exists()


def test_an_export_that_was_killed_goes_on(tmp_path):
  distilled, _ = make_distilled()
  exports.export_png(distilled, tmp_path)  # Then came the kill.
  before = {p: p.read_bytes() for p in tmp_path.rglob('*.png')}
  exports.export(distilled, tmp_path, ['npz', 'png'])
  assert {p: p.read_bytes() for p in tmp_path.rglob('*.png')} == before
  assert sorted(os.listdir(tmp_path)) == ['README.md', 'distilled.npz', 'png']


def test_png_names_channels_it_cannot_hold(tmp_path):
  distilled, _ = make_distilled(channels=2)
  with pytest.raises(ValueError, match=r'got \(4, 5, 2\)'):
    exports.export(distilled, tmp_path, ['png'])
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('zca', [False, True])
def test_npz_loads_without_pickle(tmp_path, zca):
  distilled, pixels = make_distilled(zca=zca)
  exports.export(distilled, tmp_path, ['npz'])
  with np.load(tmp_path / 'distilled.npz', allow_pickle=False) as file:
    arrays = dict(file)
  np.testing.assert_array_equal(arrays['images'], distilled.images)
  np.testing.assert_array_equal(arrays['labels'], distilled.labels)
  np.testing.assert_array_equal(arrays['pixels'], pixels)
  np.testing.assert_array_equal(arrays['classes'], [0, 0, 1, 1, 2, 2])
  assert arrays['pixels'].dtype == np.uint8
  assert arrays['classes'].dtype == np.int64
  assert tuple(arrays['class_names']) == NAMES
  assert ('zca' in arrays) == zca
  before = (tmp_path / 'distilled.npz').read_bytes()
  exports.export(distilled, tmp_path, ['npz'])
  assert (tmp_path / 'distilled.npz').read_bytes() == before


def test_torch_layout_is_channels_first(tmp_path):
  distilled, _ = make_distilled()
  exports.export(distilled, tmp_path, ['torch'])
  tensors = safetensors.numpy.load_file(
    tmp_path / 'distilled_torch.safetensors'
  )
  assert tensors['images'].shape == (6, 3, 4, 5)
  np.testing.assert_array_equal(
    tensors['images'][1, 2], distilled.images[1, :, :, 2]
  )
  assert tensors['classes'].dtype == np.int64
  np.testing.assert_array_equal(tensors['mean'], distilled.normalization.mean)


@without_torch
def test_pt_without_torch_is_one_clear_error(tmp_path):
  with pytest.raises(ModuleNotFoundError, match='use format torch'):
    exports.export(make_distilled()[0], tmp_path, ['npz', 'pt'])
  assert not os.listdir(tmp_path)
  assert exports.default_formats() == ('png', 'npz', 'torch')


@pytest.mark.parametrize('formats', [[], ['pgn']])
def test_unknown_formats_are_named(tmp_path, formats):
  with pytest.raises(ValueError, match='use some of'):
    exports.export(make_distilled()[0], tmp_path, formats)


def test_readme_names_what_is_there(tmp_path):
  distilled, _ = make_distilled()
  exports.export(distilled, tmp_path, ['npz', 'torch'])
  text = (tmp_path / 'README.md').read_text()
  assert '`distilled.npz`' in text
  assert 'distilled.pt' not in text
  assert 'one-hot minus 1/k' in text
  assert '2. Straße\n' in text
  assert 'ZCA' not in text
  whitened = export_card.readme(
    make_distilled(zca=True)[0], ['pt'], tensors=['images', 'labels']
  )
  assert "data['zca']" in whitened
  assert "torch.load('distilled.pt', weights_only=True)" in whitened
  assert 'distilled_torch.safetensors' in whitened


def _code_blocks(folder: pathlib.Path) -> list[str]:
  text = (folder / 'README.md').read_text()
  return re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL)


@needs_torch
@pytest.mark.parametrize('zca', [False, True])
def test_code_of_the_readme_runs_in_torch(tmp_path, monkeypatch, zca):
  import torch

  distilled, pixels = make_distilled(zca=zca)
  exports.export(distilled, tmp_path, ['pt'])
  monkeypatch.chdir(tmp_path)
  safetensors_block, pt_block, *normalize_blocks = _code_blocks(tmp_path)
  for block in (safetensors_block, pt_block):
    assert block.count('\n') <= 5
    scope = {'pixels': torch.tensor(pixels.transpose(0, 3, 1, 2))}
    exec(block, scope)
    batch, labels = next(iter(scope['loader']))
    assert batch.shape == (6, 3, 4, 5)
    assert labels.shape == (6, 3)
    for step in normalize_blocks:
      exec(step, scope)
    np.testing.assert_allclose(scope['x'], scope['data']['images'], atol=1e-4)


def test_binary_exports_and_reports_clipping(tmp_path):
  distilled_set.save_distilled(
    tmp_path / 'set.safetensors', make_distilled()[0]
  )

  good = binaries.run(
    *('export.py', tmp_path / 'set.safetensors', f'--output={tmp_path}'),
    '--formats=npz,png',
  )
  assert good.returncode == 0, good.stderr
  assert '6 images of shapes exported as npz, png' in good.stdout
  assert '0.00% of the pixel values' in good.stdout
  assert (tmp_path / 'distilled.npz').exists()
  bad = binaries.run(
    'export.py', tmp_path / 'none.safetensors', f'--output={tmp_path}'
  )
  assert bad.returncode == 1
  assert 'is no file and no shipped distilled set' in bad.stderr


def test_a_second_export_leaves_nothing_of_the_first(tmp_path):
  exports.export(make_distilled()[0], tmp_path, ['npz', 'torch'])
  exports.export(make_distilled(zca=True)[0], tmp_path, ['npz'])
  assert sorted(os.listdir(tmp_path)) == ['README.md', 'distilled.npz']
  (tmp_path / 'notes.txt').write_text('mine')
  exports.export(make_distilled()[0], tmp_path, ['torch'])
  found = os.listdir(tmp_path)
  assert 'distilled.npz' not in found
  assert 'notes.txt' in found


@pytest.mark.parametrize('shape', [(64, 32), (32, 64)])
def test_the_exported_network_is_as_deep_as_ours(shape):
  distilled, _ = make_distilled()
  images = np.zeros((6, *shape, 3), np.float32)
  metadata = dataclasses.replace(
    distilled.metadata, network={'network': 'convnet', 'width': 8, 'depth': 0}
  )
  found = export_clients.convnet_of(
    dataclasses.replace(distilled, images=images, metadata=metadata)
  )
  own = extractors.make('convnet', image_shape=(*shape, 3), num_classes=3)
  assert found['depth'] == own.depth == 3
