"""Kernels of infinitely wide networks, in closed form by neural-tangents.

A kernel takes the place of features in the closed form: the coefficients of
`krr.solve_kernel` for the images of a distilled set, and the rows of the kernel
of other images against them.

`nngp` is the limit of inner products of features, `ntk` that of gradients of
the whole network, in the NTK parametrisation. Average pooling needs the
covariance of each pair of pixels, h^2 w^2 numbers a pair of images, of which a
fully connected network needs one.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.networks import _neural_tangents
from fsdd_jax.networks.extractors import ConvNet, Mlp
from fsdd_jax.networks.layers import pad_to_multiple

# Maps images [n, h, w, c] and [m, h, w, c] to [n, m].
KernelFn = Callable[[jax.Array, jax.Array], jax.Array]

KINDS = ('nngp', 'ntk')
_COVARIANCES = 2**26  # At most so many numbers of covariance at once.


def _scales(network: Any, fan_in: int) -> dict[str, float]:
  """Deviations of weights, times the root of fan-in, and of biases."""
  if network.initialization == 'pytorch':
    # Uniform in +-1/sqrt(fan_in); biases vanish as the width grows.
    return {'W_std': 3**-0.5, 'b_std': (3 * fan_in) ** -0.5 if fan_in else 0.0}
  return {'W_std': 1.0, 'b_std': 0.0}


def _convnet(network: ConvNet, channels: int, stax: Any) -> list[Any]:
  layers: list[Any] = []
  for block in range(network.depth):
    scales = _scales(network, 0 if block else 9 * channels)
    layers += [
      stax.Conv(1, (3, 3), padding='SAME', **scales),
      stax.Relu(),
      stax.AvgPool((2, 2), strides=(2, 2)),
    ]
  return [*layers, stax.Flatten()]


def _mlp(network: Mlp, num_pixels: int, stax: Any) -> list[Any]:
  layers: list[Any] = [stax.Flatten()]
  for layer in range(network.depth):
    scales = _scales(network, 0 if layer else num_pixels)
    layers += [stax.Dense(1, **scales), stax.Relu()]
  return layers


def limit_of(network: nn.Module) -> ConvNet | Mlp:
  """The network without normalisation, which has a kernel.

  Raises:
    ValueError: if it has none either.
  """
  if not isinstance(network, ConvNet | Mlp):
    raise ValueError(
      f'{network!r} has no kernel here. Take a ConvNet or a fully connected '
      'network (--networks=convnet,mlp).'
    )
  return network.clone(norm='none')


@functools.cache
def kernel_fn(network: nn.Module, kind: str) -> KernelFn:
  """The kernel of a network as its width goes to infinity.

  Args:
    network: a `ConvNet` or `Mlp` without normalisation; of its width, only the
      limit counts.
    kind: `nngp` or `ntk`.

  Returns:
    A pure function of two sets of images, as large at once as memory allows
    (`gram` takes any). Equal modules give the same function.

  Raises:
    ImportError: where neural-tangents is not installed.
    ValueError: for another network, norm or kind.
  """
  if kind not in KINDS:
    raise ValueError(f'Unknown kernel {kind!r}; choose {" or ".join(KINDS)}.')
  limit = limit_of(network)
  if limit != network:
    raise ValueError(
      f'{network!r} has no kernel, as it normalises; take --norm=none.'
    )
  stax = _neural_tangents.import_stax()

  def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    if isinstance(limit, ConvNet):
      x, y = (pad_to_multiple(z, 2**limit.depth) for z in (x, y))
      layers = _convnet(limit, x.shape[-1], stax)
    else:
      layers = _mlp(limit, int(np.prod(x.shape[1:])), stax)
    if kind == 'ntk':  # The classifier's gradient is part of it.
      layers.append(stax.Dense(1, **_scales(limit, 0)))
    _, _, of_layers = stax.serial(*layers)
    return jnp.asarray(of_layers(x, y, kind)).astype(x.dtype)

  return kernel


def images_at_once(
  network: nn.Module, image_shape: tuple[int, ...], count: int
) -> int:
  """How many images fit memory against `count` others, at least one."""
  pixels = int(np.prod(image_shape[:2])) if isinstance(network, ConvNet) else 1
  return max(1, _COVARIANCES // (count * pixels**2))


@functools.cache
def _jitted(kernel: KernelFn) -> KernelFn:
  return jax.jit(kernel)


def gram(
  network: nn.Module,
  kind: str,
  x: np.ndarray,
  y: np.ndarray,
  *,
  float64: bool = False,
  on_pairs: Callable[[int], Any] | None = None,
) -> np.ndarray:
  """A kernel between sets of any size, tile by tile.

  Args:
    network: as for `kernel_fn`.
    kind: `nngp` or `ntk`.
    x: `[n, h, w, c]`.
    y: `[m, h, w, c]`.
    float64: compute in double precision.
    on_pairs: called with the number of pairs done, for a progress bar.

  Returns:
    `[n, m]` on the host, float32 or float64.

  Raises:
    FloatingPointError: if a value is not finite.
  """
  kernel = _jitted(kernel_fn(network, kind))
  dtype = np.float64 if float64 else np.float32
  columns = min(len(y), max(1, int(_COVARIANCES**0.5)))
  columns = min(columns, images_at_once(network, x.shape[1:], 1))
  rows = min(len(x), images_at_once(network, x.shape[1:], columns))
  found = np.empty((len(x), len(y)), dtype)
  with jax.enable_x64(float64):
    for i, j in np.ndindex(-(-len(x) // rows), -(-len(y) // columns)):
      # Tiles of one size, the last ones overlapping, so that one compiles.
      top, left = (
        min(i * rows, len(x) - rows),
        min(j * columns, len(y) - columns),
      )
      a, b = x[top : top + rows], y[left : left + columns]
      tile = np.asarray(kernel(jnp.asarray(a, dtype), jnp.asarray(b, dtype)))
      found[top : top + rows, left : left + columns] = tile
      if on_pairs is not None:
        on_pairs(
          min(rows, len(x) - i * rows) * min(columns, len(y) - j * columns)
        )
  if not np.isfinite(found).all():
    raise FloatingPointError(
      f'The {kind} kernel of {network!r} is not finite; the images have values '
      f'up to {max(abs(x).max(), abs(y).max()):g}. Normalise them.'
    )
  return found
