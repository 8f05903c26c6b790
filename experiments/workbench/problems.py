"""What a stage works on, as the flags say: data, networks, translators."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from absl import flags

from fsdd_jax import zoo
from fsdd_jax.algorithms import translated_sets
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.configs import (
  DataConfig,
  NetworkConfig,
  TranslatorConfig,
)
from fsdd_jax.data import datasets, resolution, sources
from fsdd_jax.data import normalization as normalization_lib
from fsdd_jax.networks import extractors
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import TRANSLATORS
from fsdd_jax.runtime import hashes
from fsdd_jax.storage import learned_network, translators
from fsdd_jax.types import LabeledSet, labeled_set
from workbench import config_flags


def load_dataset(config: DataConfig, split: str) -> datasets.Dataset:
  """Loads one split; `limit` holds for the training images alone."""
  return datasets.load(
    config.dataset,
    split=split,
    image_size=config.image_size or None,
    data_dir=config.data_dir or None,
    classes=config.classes or None,
    limit=config.limit or None if split == 'train' else None,
    holdout=config.holdout,
  )


def warn_without_test(config: DataConfig) -> None:
  """Says before the work, not after it, that there is nothing to score on."""
  if not sources.has_test_split(config.dataset, config.data_dir or None):
    print(
      f'{config.dataset} has train but no test images: before '
      'experiments/evaluate.py, add test images; or keep some apart now, by '
      '--holdout=0.1, and score with --split=holdout.',
      file=sys.stderr,
    )


def fit_normalization(
  config: DataConfig, train: datasets.Dataset
) -> normalization_lib.Normalization:
  """Standardisation, with ZCA where the config asks for it."""
  if config.zca:
    return normalization_lib.zca_whitening_once(
      train.images, train.fingerprint()
    )
  return normalization_lib.standardization(train.images)


def make_network(
  config: NetworkConfig, image_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
  """The network of a config for images `[h, w, c]`."""
  fields: dict[str, Any] = {'initialization': config.initialization}
  if config.norm:
    fields['norm'] = config.norm
  if config.dtype != 'float32':
    fields['dtype'] = config.dtype
  sizes = {
    'convnet': ('width', 'width_multiplier', 'depth'),
    'mlp': ('width', 'depth'),
  }.get(config.network, ())
  # A depth of 0 is the network's own.
  fields |= {x: value for x in sizes if (value := getattr(config, x))}
  return extractors.make(
    config.network, image_shape=image_shape, num_classes=num_classes, **fields
  )


def make_translator(config: TranslatorConfig) -> nn.Module:
  """The translator of a config."""
  return TRANSLATORS[config.translator_body](
    width=config.translator_width,
    num_blocks=config.translator_blocks,
    head_scale=config.head_scale,
    inputs=config.translator_inputs,
  )


def translator_from_flags(
  path: str,
  image_shape: tuple[int, ...],
  num_classes: int,
  *,
  theta_seed: int | None,
  theta_size: int | None,
  seed: int,
) -> tuple[translators.ThetaTranslator, NetworkConfig]:
  """A translator with theta, and the config of networks for the target set.

  What the flags of `NetworkConfig` do not say, the translator's file does;
  `translators.check_translator` finds what contradicts it.

  Args:
    path: its file, or the name of a shipped one; 'none' makes a random one.
    image_shape: `(h, w, c)` of the target set.
    num_classes: of the target set.
    theta_seed: of the fixed network; None: the file's, or 0.
    theta_size: its resolution; None: the file's, or the target set's.
    seed: of a random translator.

  Returns:
    The translator with the theta to use, and the network's config.

  Raises:
    ValueError: for flags that cannot hold for a file.
  """
  if path == 'none':
    network = config_flags.read(NetworkConfig)
    shape = _resized(image_shape, theta_size)
    module = make_network(network, shape, num_classes)
    theta = FixedNetwork(module, theta_seed or 0, shape)
    translator = make_translator(config_flags.read(TranslatorConfig))
    return translators.random_translator(seed, translator, theta), network
  for field in dataclasses.fields(TranslatorConfig):
    if flags.FLAGS[field.name].present:
      raise ValueError(
        f'--{field.name} shapes a random translator alone (--translator=none); '
        f'leave it out with {path}.'
      )
  found = zoo.load_translator(path)
  shape = _resized(found.theta.image_shape, theta_size)
  described = extractors.describe_network(found.theta.network)
  network = used = _network_like(described)
  if resolution.is_above(image_shape, shape):  # Deeper than theta, that is.
    used = dataclasses.replace(network, depth=described.get('depth', 0))
    depth: Any = flags.FLAGS['depth'].value
    network = dataclasses.replace(network, depth=depth)
  theta = FixedNetwork(
    make_network(used, shape, num_classes),
    found.theta.seed if theta_seed is None else theta_seed,
    shape,
  )
  return dataclasses.replace(found, theta=theta), network


def _resized(image_shape: tuple[int, ...], size: int | None) -> tuple[int, ...]:
  return image_shape if size is None else (size, size, image_shape[2])


def _network_like(description: Mapping[str, Any]) -> NetworkConfig:
  """The network that the given flags and, for the rest, a description name."""
  known = {k: v for k, v in description.items() if v is not None}
  known['network'] = description['name']
  return config_flags.read(NetworkConfig, known=known)


def adaptation_config(start: translators.ThetaTranslator) -> AdaptationConfig:
  """The adaptation that the flags ask for.

  Sets are distilled in theta as the translator knows them: what the flags do
  not say of the steps on images and labels, its file does.

  Args:
    start: the translator.

  Returns:
    The config.
  """
  known = translated_sets.settings_of(start)
  return config_flags.read(AdaptationConfig, known=known)


class AdaptationProblem(NamedTuple):
  """What `adaptation.adapt` works on, as the flags say.

  Attributes:
    start: the translator with the theta to use.
    network: f, for images of the target set.
    network_config: what made it.
    dataset: the target set's training images, with the channels of theta.
    normalization: how they become network inputs.
    data: what names the images; whitened where those of the translator were.
  """

  start: translators.ThetaTranslator
  network: nn.Module
  network_config: NetworkConfig
  dataset: datasets.Dataset
  normalization: normalization_lib.Normalization
  data: DataConfig

  @property
  def facts(self) -> dict[str, str]:
    """What fixes a result beside the images, for a work directory."""
    return {
      'network': repr(self.network),
      'theta': repr(self.start.theta),
      'translator': repr(self.start.translator),
      'translator_sha256': hashes.hash_tree(self.start.variables),
    }


def adaptation_problem(
  path: str,
  *,
  theta_seed: int | None = None,
  theta_size: int | None = None,
  seed: int = 0,
) -> AdaptationProblem:
  """Loads the target set and a translator, and makes sure that they fit.

  Args:
    path: of the translator; 'none' makes a random one.
    theta_seed: as for `translator_from_flags`.
    theta_size: as for `translator_from_flags`.
    seed: of a random translator.

  Raises:
    ValueError: if the translator is for other images or networks.
  """
  data = config_flags.read(DataConfig)
  train = load_dataset(data, 'train')
  start, network_config = translator_from_flags(
    path,
    train.images.shape[1:],
    train.num_classes,
    theta_seed=theta_seed,
    theta_size=theta_size,
    seed=seed,
  )
  train = resolution.repeat_channels(train, start.theta.image_shape[-1])
  if not flags.FLAGS['zca'].present:
    data = dataclasses.replace(data, zca=start.is_whitened)
  transform = fit_normalization(data, train)
  translators.check_translator(start, transform)
  network = make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  return AdaptationProblem(
    start, network, network_config, train, transform, data
  )


def theta_from_file(
  path: str, config: NetworkConfig, num_classes: int
) -> learned_network.LearnedNetwork:
  """Reads a learned network, which serves as theta, from a file.

  Args:
    path: its file.
    config: what the flags say of the network.
    num_classes: of the target set.

  Raises:
    ValueError: if its network is another, or it is damaged.
  """
  theta = learned_network.load_learned(path, num_classes=num_classes)
  network = make_network(config, theta.image_shape, num_classes)
  theirs, ours = map(extractors.describe_network, (theta.network, network))
  if theirs != ours:
    raise ValueError(
      f'{path} holds a network {theirs}, the flags make {ours}; give the flags '
      'that it was learned with.'
    )
  return theta


def start_from_file(
  path: str, normalization: normalization_lib.Normalization
) -> LabeledSet:
  """A distilled set, to be distilled further.

  Args:
    path: its file, or the name of a shipped one.
    normalization: that of the target set.

  Returns:
    The set.

  Raises:
    ValueError: if its images were normalised otherwise, or it is damaged.
  """
  found = zoo.load_distilled(path)
  theirs, ours = (
    normalization_lib.describe_normalization(transform)
    for transform in (found.normalization, normalization)
  )
  if theirs != ours:
    raise ValueError(
      f'{path} was normalised by {theirs}, this data set by {ours}; give the '
      'dataset, limit, holdout, image_size and zca that it was distilled with.'
    )
  return labeled_set(jnp.asarray(found.images), jnp.asarray(found.labels))
