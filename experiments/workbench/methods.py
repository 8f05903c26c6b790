"""All ways to make a distilled set without a translator, by their names."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.peers import PEERS, frame, selection
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import computation
from fsdd_jax.options import Config
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claimed_workdir
from fsdd_jax.types import LabeledSet

# Of a key, a network, the target set and a config.
ChooseFn = Callable[..., LabeledSet]
# Raises the error of classes too small for a config.
CheckFn = Callable[[TargetSet, DistillationConfig], None]


class Method(NamedTuple):
  """A method.

  Attributes:
    title: the row of a table that a config makes.
    run: distils; takes network and target set, then by name `config`, `own`,
      `options` and `start`.
    config_class: of its own settings, `own`; None if it has none.
    learns: whether it changes images and labels.
    check: raises the error of a network that it cannot take, given this and
      `own`.
    passed_over: settings of `DistillationConfig` that it does not use.
    sees_networks: whether its result has networks that it distilled in.
  """

  title: Callable[[DistillationConfig], str]
  run: Callable[..., baseline.DistillationResult]
  config_class: type[Config] | None = None
  learns: bool = True
  check: Callable[[nn.Module, Any], Any] = lambda network, own: None
  passed_over: Collection[str] = ()
  sees_networks: bool = True

  def config(self, given: DistillationConfig) -> DistillationConfig:
    """The config that it runs by: labels that stay have no rate."""
    if self.learns:
      return given
    return dataclasses.replace(given, label_learning_rate=0.0)


def _over_networks(
  network: nn.Module,
  target: TargetSet,
  *,
  config: DistillationConfig,
  own: Config | None,
  options: LoopOptions,
  start: LabeledSet | None,
) -> baseline.DistillationResult:
  del own
  return baseline.distill_over_networks(
    network, target, config=config, options=options, start=start
  )


def _chosen(title: str, choose: ChooseFn, check: CheckFn) -> Callable[..., Any]:
  def run(
    network: nn.Module,
    target: TargetSet,
    *,
    config: DistillationConfig,
    own: Config | None,
    options: LoopOptions,
    start: LabeledSet | None,
  ) -> baseline.DistillationResult:
    del own
    if start is not None:
      raise ValueError('Real images are chosen, not improved: leave start out.')
    check(target, config)  # A folder is claimed for what can be chosen.
    target = target.coded(config.label_coding)
    named = computation.named(network, target.image_shape)
    facts = {'network_fields': named, **target.facts}
    options, clock = with_clock(options)
    with (
      claimed_workdir(options, config, method=title, **facts),
      clock.part('selection'),
    ):
      chosen = choose(jax.random.key(config.seed), network, target, config)
    return baseline.DistillationResult(chosen, [], clock.seconds())

  return run


def _random_real(
  key: jax.Array,
  network: nn.Module,
  target: TargetSet,
  config: DistillationConfig,
) -> LabeledSet:
  del network
  return target.random_real(
    key, ipc=config.ipc, short_classes=config.short_classes
  )


def _check_real(target: TargetSet, config: DistillationConfig) -> None:
  target.check_ipc(config.ipc, config.short_classes)


def _check_selected(target: TargetSet, config: DistillationConfig) -> None:
  selection.check_ipc(target, config.ipc)


def _selected(select_fn: selection.SelectFn) -> ChooseFn:
  def choose(
    key: jax.Array,
    network: nn.Module,
    target: TargetSet,
    config: DistillationConfig,
  ) -> LabeledSet:
    return selection.select(
      key, network, target, select_fn=select_fn, ipc=config.ipc
    )

  return choose


def _real(title: str, choose: ChooseFn, check: CheckFn, *uses: str) -> Method:
  names = {field.name for field in dataclasses.fields(DistillationConfig)}
  # Commands that differ in their method alone share how long they run.
  shared = {'num_steps', 'checkpoint_every', 'log_every'}
  used = {'ipc', 'seed', 'label_coding', *shared, *uses}
  return Method(
    lambda config: title,
    _chosen(title, choose, check),
    learns=False,
    passed_over=names - used,
    sees_networks=False,
  )


def _peer(peer: frame.Peer) -> Method:
  run = functools.partial(frame.distill_by, peer)
  return Method(
    lambda config: peer.title,
    run,
    peer.settings,
    check=peer.check,
    # A peer draws its networks by settings of its own.
    passed_over=('num_networks', 'revisit'),
    sees_networks=peer.sees_networks,
  )


METHODS = {
  'networks': Method(baseline.method_name, _over_networks),
  **{name: _peer(peer) for name, peer in PEERS.items()},
  'random_real': _real(
    'random real', _random_real, _check_real, 'short_classes'
  ),
  'herding': _real('herding', _selected(selection.herding), _check_selected),
  'k_centre': _real('k-centre', _selected(selection.k_centre), _check_selected),
}
