"""The picture of several sets: its rows, and what is refused."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

import binaries
import toy
from fsdd_jax.storage import distilled_set
from workbench import strips


def _write(path, **changes):
  distilled = toy.distilled()
  metadata = dataclasses.replace(distilled.metadata, **changes)
  distilled_set.save_distilled(
    path, dataclasses.replace(distilled, metadata=metadata)
  )
  return path


def test_each_set_is_a_row(tmp_path):
  one = _write(tmp_path / 'one.safetensors', recipe={'method': '1 Net'})
  two = _write(tmp_path / 'two.safetensors', recipe={'method': 'w Ada'})
  heights = []
  for number, sets in enumerate(([one], [one, two])):
    path = tmp_path / f'{number}.png'
    result = binaries.run('strip.py', *sets, f'--output={path}')
    assert result.returncode == 0, result.stderr
    pixels = np.asarray(PIL.Image.open(path))
    heights.append(len(pixels))
    assert pixels.std() > 1
  assert heights[1] > heights[0]


def test_sets_of_other_classes_are_refused(tmp_path):
  one = _write(tmp_path / 'one.safetensors')
  names = tuple(reversed(toy.distilled().metadata.class_names))
  two = _write(tmp_path / 'two.safetensors', class_names=names)
  path = tmp_path / 'strip.png'
  result = binaries.run('strip.py', one, two, f'--output={path}')
  assert result.returncode != 0
  assert 'different classes' in result.stderr
  assert not path.exists()


def test_names_stand_over_the_images_of_the_first_row():
  small, k = toy.distilled(), 3
  large = dataclasses.replace(
    small, images=np.repeat(np.repeat(small.images, 16, 1), 16, 2)
  )
  for sets in ([small, large], [large, small]):
    axes = strips.draw(sets, 10).axes[0]
    width = axes.images[0].get_array().shape[1]
    assert axes.get_xticks() == pytest.approx(
      [(place + 0.5) * width / k for place in range(k)]
    )
