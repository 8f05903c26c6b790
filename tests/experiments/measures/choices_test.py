"""Ways that shall compute the same do, in the networks that they name."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import toy
from fsdd_jax.networks import extractors, layers
from measures import choices
from measures.programs import Problem

_PROBLEM = Problem(toy.problem()[0], (8, 8, 3), 3, num_real=24)


@pytest.mark.parametrize('name', ['convnet', 'alexnet'])
def test_patches_take_the_same_weights_to_the_same_features(name):
  network = extractors.make(name, image_shape=(8, 8, 3), num_classes=3)
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  key = jax.random.key(1)
  other = layers.by_patches(network)
  (_, expected), variables = network.init_with_output(key, images)
  (_, found), own = other.init_with_output(key, images)
  jax.tree.map(np.testing.assert_array_equal, own, variables)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
  text = str(jax.make_jaxpr(other.apply)(variables, images))
  assert 'conv_general_dilated' not in text


def test_a_network_that_hides_its_convolutions_is_refused():
  class Hidden(nn.Module):
    num_classes: int = 3

  with pytest.raises(TypeError, match='derive it from'):
    layers.by_patches(Hidden())


def test_precisions_differ_by_what_they_round():
  found = choices.precisions(_PROBLEM, num_synthetic=3, repeats=1)
  assert found['float32'].error == 0
  assert 1e-5 < found['bfloat16'].error < 0.3


def test_steps_together_end_where_steps_one_by_one_do():
  found = choices.steps_together(
    _PROBLEM, num_synthetic=3, num_steps=3, repeats=1
  )
  assert found['a call of 3 steps'].error < 1e-4
