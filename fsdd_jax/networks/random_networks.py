"""Random networks theta ~ Theta, and losses and gradients over many of them.

How networks run side by side is one keyword, `networks_per_call`. On the CPU
1 is fastest: `vmap` over different convolution kernels is a grouped convolution
(forward and backward of 4 networks: 3.8 s against 0.8 s one after another), and
XLA runs convolutions within `lax.map` slowly too (1.8 s). So chunks are
unrolled by a Python loop at tracing. For GPU and TPU no number but 1 has been
measured yet; time a few there before relying on another one.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.types import LabeledSet, LossFn


@functools.partial(jax.jit, static_argnames=('network', 'image_shape'))
def _sample(
  key: jax.Array, network: nn.Module, image_shape: tuple[int, ...]
) -> Any:
  return network.init(key, jnp.zeros((1, *image_shape), jnp.float32))


@functools.partial(jax.jit, static_argnames=('network', 'image_shape'))
def _sample_many(
  keys: jax.Array, network: nn.Module, image_shape: tuple[int, ...]
) -> Any:
  return jax.vmap(lambda key: _sample(key, network, image_shape))(keys)


def sample(
  key: jax.Array, network: nn.Module, image_shape: Sequence[int]
) -> Any:
  """Draws a network, theta ~ Theta (Alg. 2, line 7; Alg. 4, line 8).

  Args:
    key: random key, consumed.
    network: a module; its initialisers are the distribution Theta. Compiled
      once for each module (modules are compared by their fields) and shape.
    image_shape: `(h, w, c)` of the images it will see.

  Returns:
    Its variables: parameters, and statistics where it has batch normalisation.

  Example:
    >>> import jax
    >>> import toy
    >>> network, _, _ = toy.problem()
    >>> theta = sample(jax.random.key(0), network, (8, 8, 3))
    >>> theta['params']['Conv_0']['kernel'].shape
    (3, 3, 3, 4)
  """
  return _sample(key, network, tuple(image_shape))


def sample_many(
  keys: jax.Array, network: nn.Module, image_shape: Sequence[int]
) -> Any:
  """Draws a network for each key.

  Args:
    keys: `[b]` random keys, consumed.
    network: as for `sample`.
    image_shape: `(h, w, c)` of the images they will see.

  Returns:
    Variables with a new leading axis `[b]`; entry i is `sample(keys[i], ...)`
    (up to rounding; for JAX's default, threefry keys).
  """
  return _sample_many(keys, network, tuple(image_shape))


def check_per_call(networks_per_call: int, size: int) -> None:
  """Raises a ValueError unless so many networks divide a batch of a size.

  Args:
    networks_per_call: as for `losses_and_gradients`.
    size: b, the networks of a batch; of several devices, those of each.
  """
  if networks_per_call < 1 or size % networks_per_call:
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    raise ValueError(
      f'networks_per_call={networks_per_call} does not divide the {size} '
      f'networks of a batch on a device; choose one of {divisors}.'
    )


def losses_and_gradients(
  loss_fn: LossFn,
  variables_stack: Any,
  sets: LabeledSet,
  targets: Any,
  *,
  networks_per_call: int = 1,
) -> tuple[jax.Array, jax.Array]:
  """Losses of b sets in b networks, and the gradient of each by its images.

  Alg. 2, lines 8-9, and Alg. 3, lines 23-24, up to the translator: only the
  gradient with respect to X_S is taken, not that of the networks or labels.
  Call it within `jax.jit`.

  Args:
    loss_fn: maps `(variables, set, target)` to a scalar.
    variables_stack: variables of b networks, leading axis `[b]`.
    sets: b distilled sets: images `[b, n, h, w, c]`, labels `[b, n, k]`, mask
      `[b, n]`.
    targets: what the loss is computed against, any pytree with leading axis
      `[b]`.
    networks_per_call: how many networks `jax.vmap` runs at once; must divide
      b. See the top of this file for which to choose.

  Returns:
    Losses `[b]` and gradients `[b, n, h, w, c]`.

  Raises:
    ValueError: if leading axes differ, or `networks_per_call` does not divide
      b.
  """
  stacked = (variables_stack, sets.images, sets, targets)
  size = _leading_size(stacked)
  check_per_call(networks_per_call, size)

  def loss(
    variables: Any, images: jax.Array, labeled: LabeledSet, target: Any
  ) -> jax.Array:
    return loss_fn(
      variables, dataclasses.replace(labeled, images=images), target
    )

  one_network = jax.value_and_grad(loss, argnums=1)
  if networks_per_call == 1:  # Without vmap: no grouped convolution of 1 group.
    parts = [one_network(*_take(stacked, i)) for i in range(size)]
    return jnp.stack([p[0] for p in parts]), jnp.stack([p[1] for p in parts])
  starts = range(0, size, networks_per_call)
  chunks = [slice(start, start + networks_per_call) for start in starts]
  parts = [jax.vmap(one_network)(*_take(stacked, chunk)) for chunk in chunks]
  losses, gradients = zip(*parts, strict=True)
  return jnp.concatenate(losses), jnp.concatenate(gradients)


def _take(tree: Any, index: int | slice) -> Any:
  return jax.tree.map(lambda x: x[index], tree)


def _leading_size(tree: Any) -> int:
  """The size of the first axis that all leaves share."""
  sizes = {(np.shape(x) or (None,))[0] for x in jax.tree.leaves(tree)}
  if len(sizes) != 1 or None in sizes or 0 in sizes:
    raise ValueError(
      'Networks, sets and targets must share one leading axis [b] with b >= 1, '
      f'but have sizes {sorted(sizes, key=str)} (None: a scalar). Stack them, '
      'e.g. with sample_many.'
    )
  return sizes.pop()
