"""Networks theta' of pre-training whose features of Z are kept in banks.

An update draws its network from a window of K, and the window moves on by one
network every so many updates. So no image of Z passes a network during an
update: the target of a sample is rows of the bank, of the classes of its
subset.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.core import krr_errors
from fsdd_jax.data import feature_bank, near_features, random_subsets
from fsdd_jax.data.feature_bank import BankSource
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import random_networks
from fsdd_jax.runtime import array_store, processes
from fsdd_jax.types import LABEL_CODINGS

Network = tuple[Any, Any]  # Variables and features `[k, q, d]`.

_UPDATES_A_DRAW = 256


class Problem(NamedTuple):
  """What an objective is made for.

  Attributes:
    network: f; its initialisers are Theta.
    large: the large set Z.
    network_key: networks of updates are drawn from it.
    config: of pre-training.
  """

  network: nn.Module
  large: TargetSet
  network_key: jax.Array
  config: PretrainingConfig


def network_numbers(
  key: jax.Array, batch_size: int, *, pool: int, renew_every: int
) -> Callable[[int, int], int]:
  """Which network a sample of an update is scored in.

  They are drawn for many updates at once, as each draw waits for the device.

  Args:
    key: of the choices.
    batch_size: samples an update.
    pool: K, networks to choose from.
    renew_every: updates after which the oldest is replaced; 0: never.

  Returns:
    A function of an update and of the sample's place in its batch. Its result
    is in [w, w + pool), w being the number of renewals until then.
  """

  @functools.lru_cache(maxsize=2)
  def drawn(block: int) -> np.ndarray:
    steps = block * _UPDATES_A_DRAW + np.arange(_UPDATES_A_DRAW)
    places = np.arange(batch_size, dtype=np.int32)
    return np.asarray(_draw(key, steps.astype(np.int32), places, pool))

  def number(step: int, place: int) -> int:
    block, row = divmod(step, _UPDATES_A_DRAW)
    first = step // renew_every if renew_every else 0
    return first + int(drawn(block)[row, place])

  return number


@functools.partial(jax.jit, static_argnums=3)
def _draw(
  key: jax.Array, steps: jax.Array, places: jax.Array, pool: int
) -> jax.Array:
  def one(step: jax.Array, place: jax.Array) -> jax.Array:
    own = jax.random.fold_in(jax.random.fold_in(key, step), place)
    return jax.random.randint(own, (), 0, pool, jnp.int32)

  of_step = jax.vmap(one, (None, 0))
  return jax.vmap(of_step, (0, None))(steps, places)


class NetworkBanks:
  """Random networks by number, each with its features of Z, class by class.

  Networks that have left the window are forgotten, and their files deleted,
  where they have some: see `near_features`.
  """

  def __init__(
    self, problem: Problem, root: pathlib.Path | None = None
  ) -> None:
    """Chooses the images of the banks.

    Args:
      problem: network, data set and config; a bank has `bank_images` of each
        class, or as many as the smallest class has.
      root: folder of the banks; None: `array_store.default_root`.
    """
    config, dataset = problem.config, problem.large.dataset
    self._problem, self._root = problem, root
    least = int(np.bincount(dataset.labels).min())
    per_class = min(config.bank_images or least, least)
    self._rows = feature_bank.class_major_rows(dataset, per_class)
    self._open: dict[int, Network] = {}
    self._forgotten = 0

  def of_key(self, key: jax.Array) -> Network:
    """The network of a key."""
    source = self._source(key)
    config = self._problem.config
    bank = near_features.features(
      source,
      self._rows.reshape(-1),
      banks=config.bank_networks + config.heldout_networks,
    )
    return source.variables, bank.reshape(*self._rows.shape, -1)

  def of_number(self, number: int) -> Network:
    """A network of the window."""
    if number not in self._open:
      self._open[number] = self.of_key(self._key(number))
    return self._open[number]

  def forget_before(self, number: int) -> None:
    """Deletes the banks of networks below a number."""
    for old in range(self._forgotten, number):
      self._open.pop(old, None)
      if processes.is_first_process():
        rows = self._rows.reshape(-1)
        source = self._source(self._key(old))
        array_store.remove(feature_bank.folder_of(source, 'rows', rows))
    self._forgotten = max(self._forgotten, number)

  def _key(self, number: int) -> jax.Array:
    return jax.random.fold_in(self._problem.network_key, number)

  def _source(self, key: jax.Array) -> BankSource:
    network, large, _, _ = self._problem
    return BankSource(
      network,
      random_networks.sample(key, network, large.image_shape),
      large,
      {'key': np.asarray(jax.random.key_data(key)).tolist()},
      root=self._root,
    )


def target_of(
  bank: Any, classes: Any, num_classes: Any, problem: Problem
) -> krr_errors.FeatureSet:
  """All images of some classes by their rows of a bank.

  Features are where the bank is, on the device or in NumPy; the rest is in
  NumPy.

  Args:
    bank: features `[k, q, d]` of a network.
    classes: `[l]` numbers of the classes; -1 where unused.
    num_classes: how many there are.
    problem: its config codes the labels.
  """
  classes = np.asarray(classes)
  used = classes >= 0
  per_class = bank.shape[1]
  labels = _labels(int(num_classes), len(classes), problem.config.label_coding)
  fields: dict[str, Any] = {
    'features': near_features.class_rows(bank, classes),
    'labels': np.repeat(labels, per_class, axis=0),
    'mask': np.repeat(used, per_class).astype(np.float32),
  }
  return krr_errors.FeatureSet(**fields)


@functools.cache
def _labels(num_classes: int, num_labels: int, coding: str) -> np.ndarray:
  return np.asarray(
    random_subsets.class_labels(num_classes, num_labels, LABEL_CODINGS[coding])
  )
