"""Tiny inputs, made in a moment: for the examples of docstrings, first tries.

Everything is the same at every call.
"""

import functools
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms import caching
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data import datasets, normalization
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import extractors
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import Translator
from fsdd_jax.storage import distilled_set
from fsdd_jax.storage.cache import shards
from fsdd_jax.storage.translators import ThetaTranslator

CACHING = CachingConfig(
  num_subsets=4,
  min_classes=2,
  max_classes=3,
  max_images=12,
  max_synthetic=6,
  num_steps=1,
  augmentation='none',
  subsets_per_batch=2,
)


@functools.cache
def problem() -> tuple[nn.Module, Dataset, Normalization]:
  """A ConvNet, 24 noisy images of 8 x 8 of three colors, and their scale.

  Example:
    >>> network, dataset, transform = problem()
    >>> dataset.images.shape, dataset.class_names
    ((24, 8, 8, 3), ('red', 'green', 'blue'))
  """
  labels = np.repeat(np.arange(3), 8)
  noise = np.random.default_rng(0).integers(0, 100, (24, 8, 8, 3))
  images = (noise + 150 * np.eye(3, dtype=int)[labels][:, None, None]).astype(
    np.uint8
  )
  dataset = datasets.from_arrays(images, labels, ('red', 'green', 'blue'))
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='none'
  )
  return network, dataset, normalization.standardization(images)


@functools.cache
def target() -> TargetSet:
  """The images of `problem` as a target set.

  Example:
    >>> target().labels.shape
    (24, 3)
  """
  return TargetSet(*problem()[1:])


@functools.cache
def translator() -> ThetaTranslator:
  """A small translator with a theta for `problem`; its weights are constant.

  Example:
    >>> type(translator().translator).__name__
    'Translator'
  """
  theta = FixedNetwork(problem()[0], seed=0, image_shape=(8, 8, 3))
  module = Translator(width=4, num_blocks=0)
  # Not drawn, as each draw of `init` would be compiled.
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )
  weights = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes)
  return ThetaTranslator(module, weights, theta)


def theta(seed: int) -> Any:
  """Variables of the network of `problem`, drawn by a seed.

  Example:
    >>> theta(0)['params']['Conv_0']['kernel'].shape
    (3, 3, 3, 4)
  """
  return FixedNetwork(problem()[0], seed, (8, 8, 3)).sample((8, 8, 3))


def build_cache(folder: str | os.PathLike[str]) -> shards.CacheSource:
  """A cache of four subsets of `problem` in a folder, opened.

  Example:
    >>> import tempfile
    >>> source = build_cache(tempfile.mkdtemp())
    >>> len(source), source[0].synthetic.images.shape
    (4, (6, 8, 8, 3))
  """
  caching.build_cache(
    problem()[0],
    target(),
    config=CACHING,
    folder=folder,
    dataset_name='toy',
  )
  return shards.open_cache(folder)


def distilled() -> distilled_set.DistilledSet:
  """A set as a file holds it; its images are the first of each class.

  Example:
    >>> distilled().images.shape
    (3, 8, 8, 3)
  """
  _, dataset, transform = problem()
  images = normalization.normalize(dataset.images[::8], transform)
  metadata = distilled_set.Metadata(
    dataset='toy',
    class_names=dataset.class_names,
    label_coding='onehot',
    ipc=1,
    network={'name': 'convnet', 'width': 4},
    recipe={'method': 'first image'},
    seeds={},
  )
  labels = np.eye(3, dtype=np.float32)
  return distilled_set.DistilledSet(
    np.asarray(images), labels, transform, metadata
  )
