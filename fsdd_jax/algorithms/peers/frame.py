"""The frame of the peers' methods: FRePo, RFAD, KIP and RCIG.

A method is a function that plans its steps (`Peer`); what all of them share,
from the check of settings to the result, is here. Unlike Algs. 3 and 4 these
take a batch of real images a step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.core import distill_step
from fsdd_jax.data.target import TargetSet, devices_for_batch
from fsdd_jax.networks import computation, random_networks
from fsdd_jax.options import Config, out_of_range
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_clock,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.types import LabeledSet


class Setup(NamedTuple):
  """What a method starts from, when its settings have been checked.

  Attributes:
    network: f.
    target: the target set (X_T, Y_T).
    config: what all methods share.
    own: the method's own settings.
    start: the set before the first step.
    is_given: whether the caller gave that set.
    network_key: for the networks.
    order_key: for the order in which they are used.
    batch_key: for the real images.
  """

  network: nn.Module
  target: TargetSet
  config: DistillationConfig
  own: Any
  start: LabeledSet
  is_given: bool
  network_key: jax.Array
  order_key: jax.Array
  batch_key: jax.Array

  @property
  def image_shape(self) -> tuple[int, ...]:
    """`(h, w, c)` of the target set."""
    return self.target.image_shape

  def draw(self, *numbers: int) -> Any:
    """The variables of the network that some numbers name."""
    key = self.network_key
    for number in numbers:
      key = jax.random.fold_in(key, number)
    return random_networks.sample(key, self.network, self.image_shape)

  def batch(self, step: int) -> LabeledSet:
    """The real images of a step, which all devices share."""
    size = self.config.real_batch
    key = jax.random.fold_in(self.batch_key, step)
    return devices_for_batch(size).shard(self.target.batch(key, size))


class Plan(NamedTuple):
  """The steps that a method takes from its setup.

  Attributes:
    step: maps state and inputs to the next state and metrics; of a state that
      has `step` and `synthetic`.
    state: before the first step.
    inputs_at: the inputs of step i, a pure function of i.
    diagnose: says what a state looks like whose step was not finite.
    seen: the networks that a state's set was distilled in.
  """

  step: Callable[..., tuple[Any, distill_step.Metrics]]
  state: Any
  inputs_at: Callable[[int], tuple[Any, ...]]
  diagnose: Callable[[int, Any], str]
  seen: Callable[[Any], list[Any]] = lambda state: []


def _takes_all(network: nn.Module, own: Any) -> None:
  del network, own


class Peer(NamedTuple):
  """A method.

  Attributes:
    title: its name.
    plan: what plans its steps.
    settings: the class of its own settings.
    check: raises the error of a network that it cannot take, given this and
      the method's own settings, before anything is written.
    sees_networks: whether its plans name the networks of a state.
  """

  title: str
  plan: Callable[[Setup], Plan]
  settings: type[Config]
  check: Callable[[nn.Module, Any], Any] = _takes_all
  sees_networks: bool = True


def distill_by(
  peer: Peer,
  network: nn.Module,
  target: TargetSet,
  *,
  config: DistillationConfig,
  own: Config | None = None,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: LabeledSet | None = None,
) -> baseline.DistillationResult:
  """Distils a target set by a peer's method.

  Args:
    peer: the method, one of `PEERS`.
    network: f, without normalisation for the peers' own results; KIP takes the
      limit of a `ConvNet` or `Mlp` without it.
    target: the target set (X_T, Y_T).
    config: steps, optimiser, ridge, real images a step; its numbers of networks
      play no part.
    own: the method's own settings; its paper's by default.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: replaces that of the options.
    start: the set before the first step; random real images by default.

  Returns:
    The distilled set, the networks that it was distilled in last, and seconds.

  Raises:
    ImportError: for KIP where neural-tangents is not installed.
    ValueError: without a number of real images, for a network or a set that
      does not fit, or a work directory of another run.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import toy
    >>> from fsdd_jax.algorithms import configs
    >>> from fsdd_jax.algorithms.peers import peer_configs, rfad
    >>> result = distill_by(
    ...   rfad.RFAD,
    ...   toy.problem()[0],
    ...   toy.target(),
    ...   config=configs.DistillationConfig(ipc=1, num_steps=2, real_batch=6),
    ...   own=peer_configs.RfadConfig(networks_per_step=2),
    ... )
    >>> result.synthetic.images.shape, len(result.seen)
    ((3, 8, 8, 3), 2)
  """
  options, clock = with_clock(with_progress(options, progress_fn))
  own = own or peer.settings()
  peer.check(network, own)
  setup = prepare(
    peer.title,
    network,
    target,
    config=config,
    own=own,
    options=options,
    start=start,
  )
  plan = peer.plan(setup)
  loop = Loop(
    peer.title,
    plan.state,
    num_steps=config.num_steps,
    options=options,
    diagnose=plan.diagnose,
  )
  with clock.part('distillation'), loop:
    for step in loop:
      loop.state, loop.metrics = plan.step(loop.state, *plan.inputs_at(step))
    state = loop.on_first_device()
  return baseline.DistillationResult(
    state.synthetic, plan.seen(state), clock.seconds()
  )


def prepare(
  title: str,
  network: nn.Module,
  target: TargetSet,
  *,
  config: DistillationConfig,
  own: Any,
  options: LoopOptions,
  start: LabeledSet | None,
) -> Setup:
  """Checks the settings, claims the work directory, and draws the start.

  Args:
    title: of the method; the rest is as for `distill_by`.
    network: f.
    target: the target set (X_T, Y_T).
    config: what all methods share.
    own: the method's own settings.
    options: names the work directory.
    start: the set to start from; random real images by default.

  Raises:
    ValueError: without a number of real images a step, for a start that does
      not fit the target set, or a work directory of another run.
  """
  if not config.real_batch:
    raise out_of_range(
      'real_batch',
      0,
      f'1 or more, as {title} takes a batch of real images a step',
    )
  if config.jitter:
    raise out_of_range('jitter', config.jitter, f'none: {title} has its own')
  target = target.coded(config.label_coding)
  start_key, *keys = jax.random.split(jax.random.key(config.seed), 4)
  first, facts = baseline.first_set(start_key, start, target, config)
  claim_workdir(
    options,
    config,
    method=title,
    network_fields=computation.named(network, target.image_shape),
    **dataclasses.asdict(own),
    **target.facts,
    **facts,
  )
  given = start is not None
  return Setup(network, target, config, own, first, given, *keys)
