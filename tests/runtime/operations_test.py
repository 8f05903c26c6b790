"""Operations are counted where JAX counts none for its default device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.runtime import operations


def test_shapes_are_enough():
  shapes = jax.ShapeDtypeStruct((5, 6), 'float32'), jnp.ones((6, 7))
  assert operations.count(lambda a, b: a @ b, *shapes) == 2 * 5 * 6 * 7


def test_without_the_cpu_they_are_not_known(monkeypatch):
  def devices(backend):
    raise RuntimeError(f'Unknown backend {backend}.')

  monkeypatch.setattr(jax, 'local_devices', devices)
  assert np.isnan(operations.count(jnp.dot, jnp.ones(3), jnp.ones(3)))


def test_keys_may_be_arguments():
  def draw(key, scale):
    return scale * jax.random.normal(key, (4,))

  flops = operations.count(draw, jax.random.key(0), jnp.ones(()))
  assert flops > 4


def test_an_error_of_the_function_is_not_hidden():
  with pytest.raises(TypeError, match='dot_general'):
    operations.count(jnp.dot, jnp.ones((2, 3)), jnp.ones((4, 5)))
