"""All ways to make a distilled set without a translator, by their names."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from fsdd_jax.algorithms import baselines
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import frame, frepo, kip, rcig, rfad, selection
from fsdd_jax.algorithms.peers.peer_configs import (
  FrepoConfig,
  KipConfig,
  RcigConfig,
  RfadConfig,
)
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.options import Config
from fsdd_jax.runtime.stage_loop import LoopOptions, with_clock
from fsdd_jax.types import LabeledSet


class Method(NamedTuple):
  """A method.

  Attributes:
    title: the row of a table that a config makes.
    run: distils; takes network, data set and normalisation, then by name
      `config`, `own`, `options` and `start`.
    config_class: of its own settings, `own`; None if it has none.
    learns: whether it changes images and labels.
    check: raises the error of a network that it cannot take, given this and
      `own`.
  """

  title: Callable[[DistillationConfig], str]
  run: Callable[..., baselines.DistillationResult]
  config_class: type[Config] | None = None
  learns: bool = True
  check: Callable[[nn.Module, Any], Any] = lambda network, own: None


def _over_networks(
  *problem: Any,
  config: DistillationConfig,
  own: Config | None,
  options: LoopOptions,
  start: LabeledSet | None,
) -> baselines.DistillationResult:
  del own
  return baselines.distill_over_networks(
    *problem, config=config, options=options, start=start
  )


def _chosen(choose: Callable[..., LabeledSet]) -> Callable[..., Any]:
  def run(
    network: nn.Module,
    dataset: Dataset,
    normalization: Normalization,
    *,
    config: DistillationConfig,
    own: Config | None,
    options: LoopOptions,
    start: LabeledSet | None,
  ) -> baselines.DistillationResult:
    del own
    if start is not None:
      raise ValueError('Real images are chosen, not improved: leave start out.')
    _, clock = with_clock(options)
    with clock.part('selection'):
      chosen = choose(
        jax.random.key(config.seed),
        network,
        dataset,
        normalization,
        ipc=config.ipc,
        label_coding=config.label_coding,
      )
    return baselines.DistillationResult(chosen, [], clock.seconds())

  return run


def _random_real(
  key: jax.Array, network: nn.Module, *arguments: Any, **fields: Any
) -> LabeledSet:
  del network
  return baselines.random_real(key, *arguments, **fields)


def _real(title: str, choose: Callable[..., LabeledSet]) -> Method:
  return Method(lambda config: title, _chosen(choose), learns=False)


def _peer(peer: frame.Peer, config_class: type[Config]) -> Method:
  run = functools.partial(frame.distill_by, peer)
  return Method(lambda config: peer.title, run, config_class, check=peer.check)


METHODS = {
  'networks': Method(baselines.method_name, _over_networks),
  'frepo': _peer(frepo.FREPO, FrepoConfig),
  'rfad': _peer(rfad.RFAD, RfadConfig),
  'rcig': _peer(rcig.RCIG, RcigConfig),
  'kip': _peer(kip.KIP, KipConfig),
  'random_real': _real('random real', _random_real),
  'herding': _real(
    'herding', functools.partial(selection.select, select_fn=selection.herding)
  ),
  'k_centre': _real(
    'k-centre',
    functools.partial(selection.select, select_fn=selection.k_centre),
  ),
}
