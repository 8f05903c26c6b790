"""A translator together with the fixed network that it translates from."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import extractors, translator
from fsdd_jax.networks.fixed import FixedNetwork, maps_for
from fsdd_jax.networks.layers import choose
from fsdd_jax.networks.translator import TRANSLATORS, MapsFn
from fsdd_jax.options import SEEDS, whole
from fsdd_jax.runtime import operations
from fsdd_jax.runtime.workdir import differences
from fsdd_jax.storage import weight_files
from fsdd_jax.storage.learned_network import LearnedNetwork
from fsdd_jax.types import LabeledSet, pad

_PIXELS_A_BATCH = 2**17


@dataclasses.dataclass(frozen=True)
class ThetaTranslator:
  """A translator, its variables, and the theta that its sets are distilled in.

  Attributes:
    translator: the module G.
    variables: its variables, `{'params': omega}`.
    theta: the fixed network that it translates from.
    metadata: what its file says of these variables; None for random ones.

  Example:
    >>> import toy
    >>> start = toy.translator()
    >>> again = ThetaTranslator(start.translator, start.variables, start.theta)
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
    return maps_for(self.translator, self.theta)

  @property
  def objective(self) -> str:
    """What it was pre-trained for: 'none' for random weights."""
    settings = {**self.record.get('config', {}), **self.record}
    return settings.get('objective', 'none')

  @property
  def record(self) -> Mapping[str, Any]:
    """How it was trained: settings, steps, losses; empty for a random one."""
    return {} if self.metadata is None else self.metadata['training']

  @property
  def is_whitened(self) -> bool:
    """Whether it learned from whitened images (ZCA)."""
    if self.metadata is None:
      return False
    return self.metadata['normalization'].get('zca_sha256') is not None

  @property
  def is_adapted(self) -> bool:
    """Whether adaptation made it."""
    return 'adaptation' in self.record

  def adapted(
    self,
    params: Mapping[str, Any],
    normalization: Normalization,
    *,
    record: Mapping[str, Any],
  ) -> 'ThetaTranslator':
    """The translator after adaptation, with metadata that say so.

    Args:
      params: omega after adaptation.
      normalization: of the target set.
      record: how it was adapted, JSON values.
    """
    before = self.metadata or {'training': {'objective': 'none'}}
    metadata = {
      **before,
      'theta_seed': self.theta.seed,
      'network': extractors.describe_network(self.theta.network),
      'image_shape': list(self.theta.image_shape),
      'translator': extractors.describe_network(self.translator),
      'normalization': describe_normalization(normalization),
      'training': {**before['training'], 'adaptation': dict(record)},
    }
    return dataclasses.replace(
      self, variables={'params': params}, metadata=metadata
    )

  def translate(self, labeled: LabeledSet) -> LabeledSet:
    """Translates a set some images at a time, to bound the memory of maps.

    Args:
      labeled: with its start, if the translator sees that.

    Returns:
      The set with translated images, and without its start.
    """
    total, height, width, _ = labeled.images.shape
    size = min(total, max(1, _PIXELS_A_BATCH // (height * width)))
    filled = pad(labeled, -(-total // size) * size)
    parts = [
      _translate(
        self.translator,
        self.variables,
        jax.tree.map(lambda x, i=start: x[i : i + size], filled),
        self.maps_of,
      )
      for start in range(0, total, size)
    ]
    joined = jax.tree.map(lambda *x: jnp.concatenate(x)[:total], *parts)
    return dataclasses.replace(labeled, images=joined.images, start=None)


_translate = jax.jit(translator.translate, static_argnums=(0, 3))


def relative_cost(start: ThetaTranslator) -> float:
  """Operations of translating an image, over those of its pass through theta.

  `operations.count` counts them; theta's maps count where G sees them.
  """
  theta, shape = start.theta, start.theta.image_shape
  image = jnp.zeros((1, *shape))
  labeled = LabeledSet(image, jnp.zeros((1, 1)), jnp.ones(1), start=image)
  variables = theta.sample(shape)
  own = operations.count(
    lambda v, x: translator.translate(start.translator, v, x, start.maps_of),
    translator.init(jax.random.key(0), start.translator, shape, start.maps_of),
    labeled,
  )
  return own / operations.count(theta.network.apply, variables, image)


def read_translator(
  path: str | os.PathLike[str], *, num_classes: int = 10
) -> ThetaTranslator:
  """Reads a translator's file and builds its modules.

  Args:
    path: what `save_translator` wrote.
    num_classes: logits of the network; its features do not depend on it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of an architecture that is not registered
      here.
  """
  variables, metadata = weight_files.load_translator(path)
  fields = {k: v for k, v in metadata['translator'].items() if k != 'name'}
  image_shape, network = weight_files.network_of(path, metadata, num_classes)
  theta = FixedNetwork(network, metadata['theta_seed'], image_shape)
  kinds = {kind.__name__: kind for kind in TRANSLATORS.values()}
  try:
    kind = choose(kinds, metadata['translator']['name'], 'translator')
    start = ThetaTranslator(kind(**fields), variables, theta, metadata)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: this fsdd_jax has no such translator ({error}). Write the file '
      'anew with save_translator.'
    ) from error
  expected = jax.eval_shape(
    lambda key: translator.init(
      key, start.translator, image_shape, start.maps_of
    ),
    jax.random.key(0),
  )
  extractors.check_variables(variables, expected, path)
  return start


def save_translator(
  path: str | os.PathLike[str], start: ThetaTranslator
) -> None:
  """Writes the file of a translator, for `load_translator`.

  Args:
    path: the file, usually `*.safetensors`.
    start: a translator that `pretrain` or `adapt` returned.

  Raises:
    ValueError: if it is random, as its seed makes it again, or theta was
      learned, as no seed does.
    OSError: if the file cannot be written.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = f'{tempfile.mkdtemp()}/translator.safetensors'
    >>> start, transform = toy.translator(), toy.problem()[2]
    >>> params = start.variables['params']
    >>> save_translator(path, start.adapted(params, transform, record={}))
    >>> read_translator(path).is_adapted
    True
  """
  if start.metadata is None:
    raise ValueError(
      f'{path}: this translator is random; pre-train or adapt it before it is '
      'saved, or make it again by its seed.'
    )
  if isinstance(start.theta, LearnedNetwork):
    raise ValueError(
      f'{path}: theta was learned, and a file keeps its seed alone; distil and '
      'translate in this process.'
    )
  weight_files.save_translator(path, start.variables, start.metadata)


def stage_keys(seed: int) -> jax.Array:
  """Keys `[3]` of the sets in theta, of adaptation, and of a random omega.

  Raises:
    ValueError: for a seed that JAX would wrap.
  """
  seed = whole('seed', seed, below=SEEDS)
  return jax.random.split(jax.random.key(seed), 3)


def random_translator(
  seed: int, module: nn.Module, theta: FixedNetwork
) -> ThetaTranslator:
  """A translator of random weights, for the column `w/o Pre-Train`.

  Args:
    seed: of its weights.
    module: the module G; its head must not be zero to learn from the first
      update on.
    theta: the network that sets will be distilled in.

  Example:
    >>> import toy
    >>> from fsdd_jax.networks.translator import Translator
    >>> theta = toy.translator().theta
    >>> start = random_translator(0, Translator(width=1, num_blocks=0), theta)
    >>> start.objective, start.variables['params']['head']['kernel'].shape
    ('none', (3, 3, 1, 3))
  """
  maps_of = maps_for(module, theta)
  key = stage_keys(seed)[2]
  variables = translator.init(key, module, theta.image_shape, maps_of)
  return ThetaTranslator(module, variables, theta)


def check_translator(
  start: ThetaTranslator, normalization: Normalization
) -> None:
  """Makes sure that a translator is used as its file says it was trained.

  Images of the target set are whitened where those of the pre-training were,
  but by a matrix of their own.

  Args:
    start: the translator, with the theta that will be used.
    normalization: that of the target set.

  Raises:
    ValueError: naming each value that differs, and the remedy.
  """
  if start.metadata is None:
    return
  trained, theta = start.metadata, start.theta
  network = extractors.describe_network(theta.network)
  different = differences(
    {
      **{f'{k} of theta': v for k, v in trained['network'].items()},
      'image_shape of theta': trained['image_shape'],
      'theta_seed': trained['theta_seed'],
      'whitening (ZCA)': start.is_whitened,
    },
    {
      **{f'{k} of theta': v for k, v in network.items()},
      'image_shape of theta': theta.image_shape,
      'theta_seed': theta.seed,
      'whitening (ZCA)': normalization.zca is not None,
    },
    line='{name} is {there!r} in its file, {here!r} here',
  )
  if different:
    raise ValueError(
      f'The translator was pre-trained otherwise: {"; ".join(different)}. '
      "Leave these options out to take the file's, or pre-train a translator "
      'with them. Whitened images are those of `zca_whitening`, others those '
      'of `standardization`.'
    )
