"""A translator together with the fixed network that it was trained for."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import extractors
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.layers import choose
from fsdd_jax.networks.translator import TRANSLATORS, MapsFn, init, translate
from fsdd_jax.options import SEEDS, whole
from fsdd_jax.storage import weight_files
from fsdd_jax.types import LabeledSet


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A translator, pre-trained or random.

  Attributes:
    translator: the module G.
    variables: its variables, `{'params': omega_0}`.
    theta: the fixed network that it translates from.
    metadata: what its file tells; None for a random one.

  Example:
    >>> import toy
    >>> start = toy.translator()
    >>> again = Pretrained(start.translator, start.variables, start.theta)
    >>> again.objective, again.is_adapted, again.theta.seed
    ('none', False, 0)
  """

  translator: nn.Module
  variables: Any
  theta: FixedNetwork
  metadata: Mapping[str, Any] | None = None

  @property
  def maps_of(self) -> MapsFn | None:
    """The feature maps of theta that it sees, if it does."""
    inputs = getattr(self.translator, 'inputs', ())
    return self.theta.maps_of if 'theta' in inputs else None

  @property
  def objective(self) -> str:
    """What it was pre-trained for: 'none' for random weights."""
    if self.metadata is None:
      return 'none'
    settings = {**self.record.get('config', {}), **self.record}
    return settings.get('objective', 'none')

  @property
  def record(self) -> Mapping[str, Any]:
    """How it was trained: settings, steps, losses; empty for a random one."""
    return {} if self.metadata is None else self.metadata['training']

  @property
  def is_adapted(self) -> bool:
    """Whether it comes from a file that adaptation wrote."""
    return 'adaptation' in self.record


def relative_cost(start: Pretrained) -> float:
  """Operations of translating an image, over those of its pass through theta.

  By the program before the compiler; theta's maps count where G sees them.

  Example:
    >>> import toy
    >>> relative_cost(toy.translator()) > 0
    True
  """
  theta, shape = start.theta, start.theta.image_shape
  image = jnp.zeros((1, *shape))
  labeled = LabeledSet(image, jnp.zeros((1, 1)), jnp.ones(1), start=image)
  variables = theta.sample(shape)

  def operations(function: Any, *arguments: Any) -> float:
    found: Any = jax.jit(function).lower(*arguments).cost_analysis()
    return found['flops']

  own = operations(
    lambda v, x: translate(start.translator, v, x, start.maps_of),
    init(jax.random.key(0), start.translator, shape, start.maps_of),
    labeled,
  )
  return own / operations(theta.network.apply, variables, image)


def load_pretrained(
  path: str | os.PathLike[str], *, num_classes: int = 10
) -> Pretrained:
  """Reads a translator's file and builds its modules.

  Args:
    path: what pre-training or adaptation wrote.
    num_classes: logits of the network; its features do not depend on it.

  Returns:
    The translator with the network that it was trained for.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of an architecture that is not registered
      here.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = f'{tempfile.mkdtemp()}/translator.safetensors'
    >>> start, transform = toy.translator(), toy.problem()[2]
    >>> save_adapted(path, start, start.variables, transform, record={})
    >>> load_pretrained(path).theta.image_shape
    (8, 8, 3)
  """
  variables, metadata = weight_files.load_translator(path)
  fields = {k: v for k, v in metadata['translator'].items() if k != 'name'}
  image_shape, network = weight_files.network_of(path, metadata, num_classes)
  theta = FixedNetwork(network, metadata['theta_seed'], image_shape)
  kinds = {kind.__name__: kind for kind in TRANSLATORS.values()}
  try:
    kind = choose(kinds, metadata['translator']['name'], 'translator')
    start = Pretrained(kind(**fields), variables, theta, metadata)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: this fsdd_jax has no such translator ({error}). Write the file '
      'anew with save_pretrained.'
    ) from error
  expected = jax.eval_shape(
    lambda key: init(key, start.translator, image_shape, start.maps_of),
    jax.random.key(0),
  )
  extractors.check_variables(variables, expected, path)
  return start


def save_pretrained(
  path: str | os.PathLike[str], pretrained: Pretrained
) -> None:
  """Writes the file of a pre-trained translator, for `load_pretrained`.

  Args:
    path: the file, usually `*.safetensors`.
    pretrained: what `pretraining.pretrain` returned.

  Raises:
    ValueError: if it is a random translator, of which there is nothing to
      tell.
    OSError: if the file cannot be written.

  Example:
    >>> import dataclasses
    >>> import tempfile
    >>> import toy
    >>> from fsdd_jax.algorithms import pretraining_state
    >>> path = f'{tempfile.mkdtemp()}/translator.safetensors'
    >>> start, cached = toy.translator(), toy.build_cache(tempfile.mkdtemp())
    >>> metadata = pretraining_state.translator_metadata(
    ...   start.translator, cached.manifest, {'num_steps': 1}
    ... )
    >>> save_pretrained(path, dataclasses.replace(start, metadata=metadata))
    >>> load_pretrained(path).record['num_steps']
    1
  """
  if pretrained.metadata is None:
    raise ValueError(
      f'{path}: this translator is random; pre-train it, or write it with '
      'save_adapted once it is adapted.'
    )
  weight_files.save_translator(path, pretrained.variables, pretrained.metadata)


def save_adapted(
  path: str | os.PathLike[str],
  pretrained: Pretrained,
  variables: Mapping[str, Any],
  normalization: Normalization,
  *,
  record: Mapping[str, Any],
) -> None:
  """Writes an adapted translator's file, which `load_pretrained` reads.

  Args:
    path: the file, usually `*.safetensors`.
    pretrained: the translator before.
    variables: its variables after.
    normalization: of the target set.
    record: how it was adapted, JSON values.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = f'{tempfile.mkdtemp()}/translator.safetensors'
    >>> start, transform = toy.translator(), toy.problem()[2]
    >>> save_adapted(path, start, start.variables, transform, record={})
    >>> load_pretrained(path).is_adapted
    True
  """
  own = adapted(pretrained, variables, normalization, record=record)
  save_pretrained(path, own)


def adapted(
  pretrained: Pretrained,
  variables: Mapping[str, Any],
  normalization: Normalization,
  *,
  record: Mapping[str, Any],
) -> Pretrained:
  """A translator after adaptation, with metadata that say so.

  Args:
    pretrained: the translator before.
    variables: its variables after.
    normalization: of the target set.
    record: how it was adapted, JSON values.

  Example:
    >>> import toy
    >>> start, transform = toy.translator(), toy.problem()[2]
    >>> adapted(start, start.variables, transform, record={}).is_adapted
    True
  """
  theta = pretrained.theta
  before = pretrained.metadata or {'training': {'objective': 'none'}}
  metadata = {
    **before,
    'theta_seed': theta.seed,
    'network': extractors.describe_network(theta.network),
    'image_shape': list(theta.image_shape),
    'translator': extractors.describe_network(pretrained.translator),
    'normalization': describe_normalization(normalization),
    'training': {**before['training'], 'adaptation': dict(record)},
  }
  return dataclasses.replace(pretrained, variables=variables, metadata=metadata)


def stage_keys(seed: int) -> jax.Array:
  """Keys `[3]` of the sets in theta, of adaptation, and of a random omega.

  Raises:
    ValueError: for a seed that JAX would wrap.

  Example:
    >>> stage_keys(0).shape
    (3,)
  """
  seed = whole('seed', seed, below=SEEDS)
  return jax.random.split(jax.random.key(seed), 3)


def random_translator(
  seed: int, translator: nn.Module, theta: FixedNetwork
) -> Pretrained:
  """A translator of random weights, for the column `w/o Pre-Train`.

  Args:
    seed: of its weights.
    translator: the module G; its head must not be zero to learn from the
      first update on.
    theta: the network that sets will be distilled in.

  Example:
    >>> import toy
    >>> from fsdd_jax.networks.translator import Translator
    >>> theta = toy.translator().theta
    >>> start = random_translator(0, Translator(width=1, num_blocks=0), theta)
    >>> start.objective, start.variables['params']['head']['kernel'].shape
    ('none', (3, 3, 1, 3))
  """
  key = stage_keys(seed)[2]
  start = Pretrained(translator, {}, theta)
  variables = init(key, translator, theta.image_shape, start.maps_of)
  return dataclasses.replace(start, variables=variables)


def check_pretrained(
  pretrained: Pretrained, normalization: Normalization
) -> None:
  """Makes sure that a translator is used as its file says it was trained.

  Args:
    pretrained: the translator, with the theta that will be used.
    normalization: that of the target set.

  Raises:
    ValueError: naming each value that differs, and the remedy.

  Example:
    >>> import toy
    >>> check_pretrained(toy.translator(), toy.problem()[2])
  """
  if pretrained.metadata is None:
    return
  trained, theta = pretrained.metadata, pretrained.theta
  transform = describe_normalization(normalization)
  there = {
    **{f'{k} of theta': v for k, v in trained['network'].items()},
    'image_shape of theta': tuple(trained['image_shape']),
    'theta_seed': trained['theta_seed'],
    'zca_sha256': trained['normalization'].get('zca_sha256'),
  }
  network = extractors.describe_network(theta.network)
  here = {
    **{f'{k} of theta': v for k, v in network.items()},
    'image_shape of theta': theta.image_shape,
    'theta_seed': theta.seed,
    'zca_sha256': transform['zca_sha256'],
  }
  different = [
    f'{name} is {there.get(name)!r} in its file, {here.get(name)!r} here'
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]
  if different:
    raise ValueError(
      f'The translator was pre-trained otherwise: {"; ".join(different)}. '
      "Leave these options out to take the file's, or pre-train a translator "
      'with them. Where zca_sha256 is None images must be standardised, else '
      'whitened by the very matrix of the pre-training.'
    )
