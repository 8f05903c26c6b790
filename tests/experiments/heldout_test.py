"""The picture of what pre-training lowered: its curves, and what is refused."""

import numpy as np
import PIL.Image
import pytest

import binaries
import heldout
import toy
from fsdd_jax import zoo
from fsdd_jax.storage import translators


def test_a_curve_is_relative_to_the_loss_without_translation():
  omega = zoo.load_translator('tiny_imagenet_32_moving')
  steps, changes = heldout.curve(omega)
  # 1,700 updates, evaluated each 200 and at the end; see its card.
  assert steps == [*range(200, 1700, 200), 1700]
  np.testing.assert_allclose(
    min(changes), 100 * (0.6949 / 0.6992 - 1), atol=0.02
  )


def test_each_translator_is_a_curve(tmp_path):
  path = tmp_path / 'heldout.png'
  names = ('tiny_imagenet_32', 'tiny_imagenet_32_wide')
  colors = []
  for some in (names[:1], names):
    result = binaries.run('heldout.py', *some, f'--output={path}')
    assert result.returncode == 0, result.stderr
    assert f'Wrote {path}.' in result.stdout
    pixels = np.asarray(PIL.Image.open(path).convert('RGB')).reshape(-1, 3)
    colors.append(len(np.unique(pixels, axis=0)))
  assert colors[1] > colors[0]  # The second curve has a color of its own.


@pytest.mark.parametrize(
  ('labels', 'message'),
  [('--labels=a,b', 'names 2 curves of 1'), ('', 'was not pre-trained')],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, labels, message):
  path = 'tiny_imagenet_32'
  if not labels:  # A random translator that was adapted, w/o Pre-Train.
    path = tmp_path / 'adapted.safetensors'
    start, transform = toy.translator(), toy.problem()[2]
    adapted = start.adapted(start.variables['params'], transform, record={})
    translators.save_translator(path, adapted)
  output = tmp_path / 'heldout.png'
  given = [f'--output={output}', *filter(None, [labels])]
  result = binaries.run('heldout.py', path, *given)
  assert result.returncode == 1
  assert message in result.stderr
  assert not output.exists()
