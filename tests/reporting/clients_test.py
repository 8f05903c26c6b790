"""Programs beside an export compute in PyTorch what this package does."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from fsdd_jax.core import image_ops
from fsdd_jax.evaluation import trainings
from fsdd_jax.networks import convnet
from fsdd_jax.reporting import export_clients, exports
from fsdd_jax.storage.containers import read_container

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed'
)
_CLIENTS = pathlib.Path(export_clients.__file__).parent / 'clients'


def _in_network(distilled, **network):
  metadata = dataclasses.replace(distilled.metadata, network=network)
  return dataclasses.replace(distilled, metadata=metadata)


def _whitened(distilled):
  d = distilled.images[0].size
  transform = dataclasses.replace(
    distilled.normalization,
    zca_mean=jnp.zeros(d),
    zca=2 * jnp.eye(d),
    zca_inverse=jnp.eye(d) / 2,
  )
  return dataclasses.replace(distilled, normalization=transform)


def _exported(distilled, folder):
  exports.export(distilled, folder, ['torch'])
  _, about = read_container(
    folder / 'distilled_torch.safetensors', 'distilled_torch'
  )
  return {path.name for path in folder.glob('*.py')}, about


def test_programs_are_copied_beside_sets_that_they_can_read(tmp_path):
  conv = _in_network(toy.distilled(), network='convnet', width=8, norm='none')
  names, about = _exported(conv, tmp_path / 'conv')
  assert names == {'train_torch.py', 'dd_ranking.py'}
  for name in names:
    copied = (tmp_path / 'conv' / name).read_bytes()
    assert copied == (_CLIENTS / name).read_bytes()
  assert about['convnet'] == {
    **{'width': 8, 'width_multiplier': 1, 'norm': 'none', 'depth': 1}
  }
  assert about['flip']
  text = (tmp_path / 'conv' / 'README.md').read_text()
  assert 'python train_torch.py' in text
  assert 'dd_ranking.load()' in text
  other = _in_network(toy.distilled(), network='resnet18', width=128)
  assert _exported(other, tmp_path / 'other')[0] == {'dd_ranking.py'}
  lecun = _in_network(
    toy.distilled(), name='convnet', initialization='lecun', width=8
  )
  assert _exported(lecun, tmp_path / 'lecun')[0] == {'dd_ranking.py'}
  names, _ = _exported(_whitened(conv), tmp_path / 'whitened')
  assert names == {'train_torch.py'}
  exports.export(conv, tmp_path / 'npz', ['npz'])
  assert not list((tmp_path / 'npz').glob('*.py'))


def test_digits_are_not_mirrored(tmp_path):
  digits = toy.distilled()
  metadata = dataclasses.replace(digits.metadata, dataset='digits')
  digits = dataclasses.replace(digits, metadata=metadata)
  assert not _exported(digits, tmp_path)[1]['flip']


def test_a_readme_has_the_measured_scores(tmp_path):
  score = {
    **{'protocol': 'krr', 'network': 'ConvNet', 'split': 'test'},
    **{'accuracies': [50.0, 52.0], 'mean': 51.0, 'std': 1.414, 'n': 2},
  }
  distilled = toy.distilled()
  metadata = dataclasses.replace(distilled.metadata, scores=(score,))
  distilled = dataclasses.replace(distilled, metadata=metadata)
  exports.export(distilled, tmp_path, ['npz'])
  row = '| krr | ConvNet | test | 51.00 ± 1.41 (n=2) |'
  assert row in (tmp_path / 'README.md').read_text()


def _images(h=8, w=6):
  values = np.random.default_rng(0).normal(size=(5, h, w, 3))
  return values.astype(np.float32)


def _draws(count):
  """Numbers in [0, 1), `count` for each of five images."""
  return np.random.default_rng(1).random((count, 5)).astype(np.float32)


def _between(drawn, low, high):
  return jnp.asarray(low + (high - low) * drawn)


def _color(x, u):
  delta, saturation, contrast = (_between(v, -0.25, 0.25) for v in u)
  shift = image_ops.ColorShift(delta, jnp.exp(saturation), jnp.exp(contrast))
  return image_ops.color(x, shift)


def _zoom(x, u):
  limit = math.log(1.25)
  factor = jnp.exp(_between(u[0], -limit, limit))
  offset = _between(u[1:].T, -1, 1)
  return image_ops.zoom(x, image_ops.Zoom(factor, offset))


def _rotate(x, u):
  limit = math.radians(15)
  return image_ops.rotate(
    x, _between(u[0], -limit, limit), fill=image_ops.edge_fill
  )


def _translate(x, u):
  size = np.array(x.shape[1:3]) / 8
  shift = _between(u.T, -size, size)
  return image_ops.crop(x, shift, fill=image_ops.edge_fill)


def _flip(x, u):
  return image_ops.flip(x, jnp.asarray(u[0] < 0.5))


@needs_torch
@pytest.mark.parametrize(
  ('name', 'ours', 'count'),
  [
    ('color', _color, 3),
    ('zoom', _zoom, 3),
    ('rotate', _rotate, 1),
    ('translate', _translate, 2),
    ('flip', _flip, 1),
  ],
)
def test_operations_are_those_of_the_protocol(monkeypatch, name, ours, count):
  import torch

  from fsdd_jax.reporting.clients import train_torch

  images, drawn = _images(), _draws(count)
  numbers = iter(drawn)

  def uniform(x, low, high):
    u = torch.from_numpy(next(numbers))[:, None, None]
    return low + (high - low) * u

  monkeypatch.setattr(train_torch, '_uniform', uniform)
  batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  found = getattr(train_torch, name)(batch).numpy().transpose(0, 2, 3, 1)
  assert not np.allclose(found, images, atol=1e-2)
  np.testing.assert_allclose(found, ours(images, drawn), atol=1e-4)


@needs_torch
def test_cutout_zeroes_a_quarter_of_each_side():
  import torch

  from fsdd_jax.reporting.clients import train_torch

  torch.manual_seed(0)
  found = train_torch.cutout(torch.ones(1000, 3, 8, 12)) == 0
  assert (found.sum((2, 3)) == 2 * 3).all()
  assert found.any(0).all()  # Anywhere, the edges as well.


@needs_torch
def test_length_and_rate_are_those_of_the_protocol():
  import optax

  from fsdd_jax.reporting.clients import train_torch

  for size in (1, 10, 11, 100, 200, 500, 1000, 5000):
    assert train_torch.steps_for(size) == trainings.frepo_steps(size, size)
  for num_steps in (20, 2000):
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, 1.0, min(500, num_steps // 2), num_steps, 0.01
    )
    for step in (0, 1, num_steps // 3, num_steps - 1):
      assert train_torch.rate_at(step, num_steps) == pytest.approx(
        float(schedule(step)), abs=1e-6
      )


@needs_torch
@pytest.mark.parametrize('norm', ['none', 'instance', 'group'])
@pytest.mark.parametrize('size', [8, 7])
def test_networks_of_the_same_weights_have_the_same_logits(norm, size):
  import torch

  from fsdd_jax.reporting.clients import train_torch

  fields = {'width': 4, 'depth': 2, 'width_multiplier': 2, 'norm': norm}
  ours = convnet.ConvNet(num_classes=3, **fields)
  images = _images(size, size)
  variables = ours.init(jax.random.key(0), images)
  theirs = train_torch.ConvNet((3, size, size), 3, **fields)
  layers = [x for x in theirs.layers if isinstance(x, torch.nn.Conv2d)]
  with torch.no_grad():
    for index, layer in enumerate(layers):
      weights = variables['params'][f'Conv_{index}']
      kernel = np.array(weights['kernel']).transpose(3, 2, 0, 1)
      layer.weight.copy_(torch.from_numpy(kernel.copy()))
      layer.bias.copy_(torch.from_numpy(np.array(weights['bias'])))
    dense = variables['params']['classifier']
    # Ours counts features in the order h, w, c; theirs c, h, w.
    kernel = np.array(dense['kernel']).reshape(2, 2, 8, 3)
    kernel = kernel.transpose(3, 2, 0, 1).reshape(3, -1)
    theirs.layers[-1].weight.copy_(torch.from_numpy(kernel.copy()))
    theirs.layers[-1].bias.copy_(torch.from_numpy(np.array(dense['bias'])))
    found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  expected, _ = ours.apply(variables, images)
  np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def _program(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@needs_torch
def test_dd_ranking_gets_images_by_its_own_normalisation(tmp_path):
  distilled = toy.distilled()
  exports.export(distilled, tmp_path, ['torch'])
  program = _program(tmp_path / 'dd_ranking.py')
  images, labels = program.load()
  mean, std = (np.array(x)[:, None, None] for x in (program.MEAN, program.STD))
  pixels = (images.numpy() * std + mean).transpose(0, 2, 3, 1)
  shown, _ = exports.to_pixels(distilled)
  np.testing.assert_allclose(255 * pixels, shown, atol=0.6)
  np.testing.assert_array_equal(labels.numpy(), distilled.labels)
  exports.export(_whitened(distilled), tmp_path, ['torch'])
  with pytest.raises(ValueError, match='without ZCA'):
    program.load()


@needs_torch
def test_training_learns_a_set_and_prints_its_score(
  tmp_path, monkeypatch, capsys
):
  conv = _in_network(toy.distilled(), network='convnet', width=8, norm='none')
  _, dataset, _ = toy.problem()
  exports.export(conv, tmp_path, ['torch'])
  np.savez(tmp_path / 'test.npz', images=dataset.images, labels=dataset.labels)
  arguments = f'train_torch.py --test {tmp_path}/test.npz --repeats 2'
  monkeypatch.setattr('sys.argv', [*arguments.split(), '--steps', '200'])
  _program(tmp_path / 'train_torch.py').main()
  line = capsys.readouterr().out.splitlines()[-1]
  assert line.endswith('(n=2), percent, after 200 steps')
  assert float(line.split()[2]) > 60  # Chance is 33.
