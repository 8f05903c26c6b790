"""A network whose weights were learned (Bi-Level), and its file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.runtime import hashes
from fsdd_jax.storage import weight_files


@dataclasses.dataclass(frozen=True)
class LearnedNetwork(FixedNetwork):
  """A network with learned weights, instead of an arbitrary theta.

  Attributes:
    digest: SHA-256 of the weights, by which work directories know it.
    variables: as `network.init` returns them.
    is_whitened: whether it learned from whitened images (ZCA), None if that
      is not known.
  """

  digest: str
  # Of another identity in each copy; the digest tells weights apart.
  variables: Any = dataclasses.field(repr=False, compare=False)
  is_whitened: bool | None = dataclasses.field(
    default=None, repr=False, compare=False
  )

  def sample(self, image_shape: tuple[int, ...]) -> Any:
    """Its variables; of another resolution, the head alone is drawn anew.

    Raises:
      ValueError: if another part has another shape.
    """
    drawn = super().sample(image_shape)
    extractors.check_variables(
      self.variables, drawn, 'The learned network', besides=extractors.HEAD
    )
    return jax.tree.map(
      lambda drawn, own: own if own.shape == drawn.shape else drawn,
      drawn,
      self.variables,
    )


def learned_network(
  network: nn.Module,
  seed: int,
  image_shape: tuple[int, ...],
  variables: Any,
  is_whitened: bool | None = None,
) -> LearnedNetwork:
  """Makes a fixed network of learned weights.

  Args:
    network: its module.
    seed: of the weights that learning started from.
    image_shape: `(h, w, c)` that it was learned at.
    variables: the learned ones.
    is_whitened: whether it learned from whitened images, if that is known.
  """
  digest = hashes.hash_tree(variables)
  return LearnedNetwork(
    network, seed, image_shape, digest, variables, is_whitened
  )


def save_learned(
  path: str | os.PathLike[str],
  theta: LearnedNetwork,
  normalization: Normalization,
  *,
  record: Mapping[str, Any],
) -> None:
  """Writes a learned network's file, which `load_learned` reads.

  Args:
    path: the file, usually `*.safetensors`.
    theta: the network.
    normalization: of the images that it was learned on.
    record: how it was learned, JSON values.
  """
  metadata = {
    'theta_seed': theta.seed,
    'network': extractors.describe_network(theta.network),
    'image_shape': list(theta.image_shape),
    'normalization': describe_normalization(normalization),
    'training': dict(record),
  }
  weight_files.save_network(path, theta.variables, metadata)


def load_learned(
  path: str | os.PathLike[str], *, num_classes: int = 10
) -> LearnedNetwork:
  """Reads a learned network's file and builds its module.

  Args:
    path: what `save_learned` wrote.
    num_classes: logits of the module; features do not depend on it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of an architecture that is not registered
      here.
  """
  variables, metadata = weight_files.load_network(path)
  image_shape, network = weight_files.network_of(path, metadata, num_classes)
  expected = jax.eval_shape(
    lambda key: random_networks.sample(key, network, image_shape),
    jax.random.key(0),
  )
  extractors.check_variables(variables, expected, path, besides=extractors.HEAD)
  return learned_network(
    network,
    metadata['theta_seed'],
    image_shape,
    variables,
    metadata['normalization'].get('zca_sha256') is not None,
  )
