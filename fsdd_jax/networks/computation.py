"""What a network from elsewhere computes, which its name does not tell."""

import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp


def digest(network: nn.Module, image_shape: tuple[int, ...]) -> str:
  """Names the features that a module computes.

  A class that a user registers may be edited under the same name, as when the
  cell of a notebook runs again. What was computed by its former code must not
  pass for its own.

  Args:
    network: a module.
    image_shape: `(h, w, c)` of the images that it sees.

  Returns:
    The beginning of the SHA-256 of its program, which depends on JAX's version;
    empty for a module of this package, whose version files name.

  Example:
    >>> import toy
    >>> digest(toy.problem()[0], (8, 8, 3))
    ''
  """
  if type(network).__module__.partition('.')[0] == __name__.partition('.')[0]:
    return ''
  if hasattr(network, 'num_classes'):  # Features do not depend on it.
    network = network.clone(num_classes=1)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  program = jax.jit(network.apply).lower(variables, images).as_text()
  return hashlib.sha256(program.encode()).hexdigest()[:16]


def named(network: nn.Module, image_shape: tuple[int, ...]) -> str:
  """A module's class and fields, and what it computes, for work directories.

  Example:
    >>> import toy
    >>> named(toy.problem()[0], (8, 8, 3)).splitlines()[0]
    'ConvNet('
  """
  own = digest(network, image_shape)
  return f'{network!r}, computing {own}' if own else repr(network)
