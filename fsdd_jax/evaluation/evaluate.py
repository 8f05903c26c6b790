"""How good a distilled set is: fresh networks, named protocols, mean and std.

The share of images whose largest score is their class is the accuracy. The
images it is measured on are read once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.data import passes
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.evaluation import kernels
from fsdd_jax.evaluation.protocols import FITS, ScoreFn, Settings
from fsdd_jax.networks import extractors, infinite
from fsdd_jax.options import whole
from fsdd_jax.runtime import finite, metrics, processes
from fsdd_jax.runtime.devices import map_devices
from fsdd_jax.types import LabeledSet


@dataclasses.dataclass(frozen=True)
class Score:
  """Accuracies of one distilled set under one protocol in one architecture.

  Attributes:
    protocol: a name in `PROTOCOLS`.
    network: the architecture, as text.
    split: what it was measured on: test or holdout.
    accuracies: in percent, one a fresh network.
    seconds: wall time of all repeats, compilation included.

  Example:
    >>> score = Score('krr', 'ConvNet', 'test', (90.0, 92.0), seconds=1.5)
    >>> print(score)
    91.00 ± 1.41 (n=2)
  """

  protocol: str
  network: str
  split: str
  accuracies: tuple[float, ...]
  seconds: float

  @property
  def n(self) -> int:
    """Number of networks."""
    return len(self.accuracies)

  @property
  def mean(self) -> float:
    """Mean accuracy, percent."""
    return float(np.mean(self.accuracies))

  @property
  def std(self) -> float | None:
    """Sample standard deviation (ddof = 1) over networks; None for one."""
    return float(np.std(self.accuracies, ddof=1)) if self.n > 1 else None

  def __str__(self) -> str:
    spread = '' if self.std is None else f' ± {self.std:.2f}'
    return f'{self.mean:.2f}{spread} (n={self.n})'

  def as_dict(self) -> dict[str, Any]:
    """JSON values, with the statistics written out."""
    return {
      **dataclasses.asdict(self),
      'accuracies': list(self.accuracies),
      'mean': self.mean,
      'std': self.std,
      'ddof': 1,
      'n': self.n,
    }


@functools.partial(jax.jit, static_argnames='score')
def _count_hits(
  total: jax.Array,
  score: ScoreFn,
  model: Any,
  images: jax.Array,
  classes: jax.Array,
  mask: jax.Array,
  normalization: Normalization,
) -> jax.Array:
  """Adds `[2]` hits, and images with a score that is not finite."""
  scores = score(model, normalize(images, normalization))
  hits = jnp.sum((jnp.argmax(scores, axis=1) == classes) * mask)
  bad = jnp.sum(~jnp.isfinite(scores).all(axis=1) * mask)
  return total + jnp.stack([hits, bad])


def accuracy(
  score: ScoreFn,
  model: Any,
  dataset: Dataset,
  normalization: Normalization,
  *,
  batch_size: int | None = None,
) -> float:
  """Share of a data set's images that a fitted model gets right, percent.

  Raises:
    FloatingPointError: if a score is not finite.
  """
  # Each batch waits for the one before it, so that only one is in flight.
  total = jnp.zeros(2)
  for batch in passes.batches(dataset.images, dataset.labels, batch_size):
    total = _count_hits(total, score, model, *batch, normalization)
  hits, bad = map(float, total)
  kernels.check_scores(bad, len(dataset.labels))
  return 100.0 * hits / len(dataset.labels)


_DEFAULTS = Settings()


class Protocol(NamedTuple):
  """How a set is scored.

  Attributes:
    accuracy_in: accuracy in one network, of a key, the network, the set, the
      images to measure on and their normalisation, and by name `settings`.
    is_random: whether that depends on the key.
    network_of: the network that it takes instead of a given one.
  """

  accuracy_in: Callable[..., float]
  is_random: bool = True
  network_of: Callable[[nn.Module], nn.Module] = lambda network: network


def _accuracy_of_fit(
  name: str,
  key: jax.Array,
  network: nn.Module,
  synthetic: LabeledSet,
  *images: Any,
  settings: Settings,
) -> float:
  fitted = FITS[name](settings)(key, network, synthetic)
  return accuracy(*fitted, *images)


def _accuracy_in_kernel(
  kind: str, key: jax.Array, *arguments: Any, settings: Settings
) -> float:
  del key
  return kernels.kernel_accuracy(
    *arguments, kind=kind, float64=settings.float64
  )


PROTOCOLS = {
  name: Protocol(functools.partial(_accuracy_of_fit, name)) for name in FITS
} | {
  kind: Protocol(
    functools.partial(_accuracy_in_kernel, kind),
    is_random=False,
    network_of=functools.partial(kernels.limit_for, kind),
  )
  for kind in infinite.KINDS
}


def network_for(protocol: str, network: nn.Module) -> nn.Module:
  """The network that a protocol scores in, before anything is scored.

  Args:
    protocol: a name in `PROTOCOLS`.
    network: the architecture asked for.

  Raises:
    ImportError: for a kernel where neural-tangents is not installed.
    ValueError: if the protocol is unknown, or the network has no kernel.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(
      f'Unknown protocol {protocol!r}; choose among {", ".join(PROTOCOLS)}.'
    )
  return PROTOCOLS[protocol].network_of(network)


def evaluate(
  key: jax.Array,
  synthetic: LabeledSet,
  dataset: Dataset,
  normalization: Normalization,
  network: nn.Module,
  *,
  protocol: str = 'krr',
  repeats: int = 5,
  split: str = 'test',
  settings: Settings = _DEFAULTS,
) -> Score:
  """Scores a distilled set in fresh networks, which all devices share.

  Args:
    key: consumed; network i uses `fold_in(key, i)`. Of the seed that the set
      was distilled by, one of these networks may be among those it has seen.
    synthetic: the distilled set, without padding.
    dataset: the images to measure on.
    normalization: that of the distilled set.
    network: the architecture.
    protocol: a name in `PROTOCOLS`.
    repeats: number of fresh networks; a kernel is one.
    split: what `dataset` is, for the record.
    settings: what the protocol leaves open, such as operations that do not
      suit the images: `Settings(without=unsuitable_augmentation('digits'))`.

  Returns:
    One accuracy a network, with mean and standard deviation.

  Raises:
    ValueError: if the protocol is unknown, `repeats` is no whole number above
      0, or images or classes do not fit each other.
    FloatingPointError: if the set or a score is not finite.

  Example:
    >>> import jax
    >>> import toy
    >>> network, dataset, transform = toy.problem()
    >>> real = toy.target().random_real(jax.random.key(0), ipc=1)
    >>> key = jax.random.key(1)
    >>> score = evaluate(key, real, dataset, transform, network, repeats=2)
    >>> print(score)
    100.00 ± 0.00 (n=2)
  """
  network = network_for(protocol, network)
  if synthetic.images.shape[1:] != dataset.images.shape[1:]:
    raise ValueError(
      f'The distilled images have shape {synthetic.images.shape[1:]}, those '
      f'of the {split} set {dataset.images.shape[1:]}; load the data set with '
      'the image_size of the distilled set.'
    )
  if synthetic.labels.shape[1] != dataset.num_classes:
    raise ValueError(
      f'The distilled set has {synthetic.labels.shape[1]} classes, the {split} '
      f'set {dataset.num_classes}; load the data set with the classes of the '
      'distilled set.'
    )
  whole('repeats', repeats, least=1)
  finite.check(synthetic, 'The distilled set', 'Distil it anew.')
  chosen = PROTOCOLS[protocol]
  repeats = repeats if chosen.is_random else 1
  clock = metrics.StageClock()
  on_host = jax.device_get(synthetic)

  def score_in(index: int) -> float:
    own = jax.tree.map(jnp.asarray, on_host)  # On the device that does it.
    return chosen.accuracy_in(
      jax.random.fold_in(key, index),
      *(network, own, dataset, normalization),
      settings=settings,
    )

  with clock.part('evaluation'):
    own = map_devices(score_in, processes.own_places(repeats))
    accuracies = processes.join_places(list(own), repeats)
  seconds = sum(clock.seconds().values())
  name = extractors.describe(network)
  return Score(protocol, name, split, tuple(accuracies), seconds)
