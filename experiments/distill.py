r"""Distils a data set into a few images a class, by Alg. 4 or a peer's method.

1 Net is --num_networks=1, the paper's Baseline --num_networks=T with
--num_steps=T, and Pool(R) --num_networks=R --revisit.

  python experiments/distill.py --dataset=cifar10 --ipc=10 --num_networks=16 \
      --revisit --num_steps=300 --workdir=runs/pool16

--method=frepo, rfad, rcig or kip are the peers', with their own settings in
experiments/recipes/peer_*.flags; random_real, herding and k_centre choose real
images. --label_networks=16 fits the labels of the set anew, in closed form.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
from absl import flags

from fsdd_jax.algorithms import baseline, finishing, in_theta
from fsdd_jax.algorithms.adaptation_config import LabelConfig
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from fsdd_jax.algorithms.peers.peer_configs import (
  FrepoConfig,
  KipConfig,
  RcigConfig,
  RfadConfig,
)
from fsdd_jax.data import resolution
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import files, processes
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claimed_workdir, options_within
from fsdd_jax.storage import distilled_set, learned_network
from fsdd_jax.types import LabeledSet
from workbench import config_flags, launching, problems, results
from workbench.methods import METHODS, Method

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of results, logs and checkpoints; a killed run resumes in it.',
  required=True,
)
_METHOD = flags.DEFINE_enum(
  'method', 'networks', list(METHODS), 'networks is Alg. 4.'
)
_START = flags.DEFINE_string(
  'start',
  None,
  'Distilled set to start from, e.g. a translated one: a file, or a shipped '
  'one by its name; random real images if not given.',
)
_THETA = flags.DEFINE_string(
  'theta',
  None,
  'Learned network to distil in, of experiments/bilevel.py (Bi-Level); random '
  'ones if not given.',
)
_SAVE_NETWORKS = flags.DEFINE_bool(
  'save_networks',
  False,
  'Write the networks it was distilled in last to networks/*.safetensors, for '
  '--theta; FRePo and RCIG have trained theirs.',
)

_PEER_CONFIGS = (FrepoConfig, RfadConfig, RcigConfig, KipConfig)
CONFIGS = (
  DataConfig,
  NetworkConfig,
  DistillationConfig,
  LabelConfig,
  *_PEER_CONFIGS,
)


class Plan(NamedTuple):
  """What the flags ask to run on the target set.

  Attributes:
    title: the row of a table that it is.
    run: distils; takes network and target set, then by name `config`,
      `options` and `start`.
    network: to distil in.
    target: the images, at the resolution of the network.
    further: what the file records beside the configs.
  """

  title: str
  run: Callable[..., baseline.DistillationResult]
  network: nn.Module
  target: TargetSet
  further: dict[str, Any]


def _check_flags(method: Method) -> None:
  """Raises a ValueError for a setting that the method would pass over."""
  if _SAVE_NETWORKS.value and not method.sees_networks:
    raise ValueError(
      '--save_networks writes the networks of a distillation, and '
      f'--method={_METHOD.value} distils in none. Leave it out, or choose '
      'another method.'
    )
  taken = {
    field.name
    for kind in (DistillationConfig, method.config_class)
    for field in (dataclasses.fields(kind) if kind else ())
  }.difference(method.passed_over)
  for kind in (DistillationConfig, *_PEER_CONFIGS):
    for field in dataclasses.fields(kind):
      if flags.FLAGS[field.name].present and field.name not in taken:
        raise ValueError(
          f'--{field.name} is no setting of --method={_METHOD.value}, which '
          'would pass it over. Leave it out, or choose its method.'
        )


def _by_method(
  config: DistillationConfig, network: nn.Module, target: TargetSet
) -> Plan:
  """A method of `METHODS` with its own settings."""
  method, own = METHODS[_METHOD.value], None
  _check_flags(method)
  further: dict[str, Any] = {}
  if method.config_class is not None:
    own = config_flags.read(method.config_class)
    further[_METHOD.value] = dataclasses.asdict(own)
  run = functools.partial(method.run, own=own)
  return Plan(method.title(config), run, network, target, further)


def _learned_network(
  config: DistillationConfig, network_config: NetworkConfig, num_classes: int
) -> learned_network.LearnedNetwork:
  """That of --theta."""
  if config.num_networks > 1 or _METHOD.value != 'networks':
    raise ValueError(
      f'num_networks = {config.num_networks}, method = {_METHOD.value}, but '
      '--theta is one network: leave both at their defaults.'
    )
  return problems.theta_from_file(
    _THETA.value or '', network_config, num_classes
  )


def _in_learned_network(
  plan: Plan, theta: learned_network.LearnedNetwork, config: DistillationConfig
) -> Plan:
  """Bi-Level: the same in a learned network."""
  # At the resolution that theta was learned at, as the supplement's times of
  # Bi-Level imply.
  in_theta.check_target(theta, plan.target)
  target = plan.target.at_most(theta.image_shape)
  networks = in_theta.theta_networks(theta, target, config)
  run = functools.partial(baseline.distill_over_networks, networks=networks)
  further = {**plan.further, 'theta': _THETA.value}
  return Plan('Bi-Level', run, theta.network, target, further)


def main(_: list[str]) -> None:
  """Distils, then writes sets and their pictures.

  `distilled` is the method's own; `fitted`, which --label_networks asks for,
  has new labels.
  """
  data = config_flags.read(DataConfig)
  network_config = config_flags.read(NetworkConfig)
  config = config_flags.read(DistillationConfig)
  labels = config_flags.read(LabelConfig)
  workdir = files.resolve(_WORKDIR.value)
  problems.warn_without_test(data)
  train, theta = problems.load_dataset(data, 'train'), None
  if _THETA.value:
    theta = _learned_network(config, network_config, train.num_classes)
    train = resolution.repeat_channels(train, theta.image_shape[-1])
  transform = problems.fit_normalization(data, train)
  network = problems.make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  target = TargetSet(train, transform, config.label_coding)
  config = METHODS[_METHOD.value].config(config)
  plan, start = _by_method(config, network, target), None
  if _START.value:
    start = problems.start_from_file(_START.value, transform)
    plan.further['start'] = _START.value
  if theta is not None:
    plan = _in_learned_network(plan, theta, config)
  options, clock = with_clock(
    LoopOptions(workdir, config.checkpoint_every, config.log_every)
  )
  result = plan.run(
    plan.network, plan.target, config=config, options=options, start=start
  )
  synthetic = resolution.upsample(result.synthetic, train.images.shape[1:])
  describe = functools.partial(
    results.describe_result,
    normalization=transform,
    dataset=train,
    data=data,
    network=network_config,
    config=config,
  )
  title = plan.title
  if processes.is_first_process():
    distilled = describe(synthetic, method=title, further=plan.further or None)
    _write(workdir / 'distilled.safetensors', distilled)
    if _SAVE_NETWORKS.value:
      record = distilled.metadata.recipe
      _save_networks(workdir, result.seen, plan, config.seed, record)
  if labels.label_networks:
    pool = labels.pool(config.label_coding, seed=config.seed)
    title = finishing.method_name(title, pool)
    plan.further['labels'] = dataclasses.asdict(labels)
    # Labels have settings of their own, and other ones would replace them.
    with claimed_workdir(options_within(options, 'labels'), labels):
      _fit_labels(
        workdir / 'fitted.safetensors',
        lambda: finishing.fit_labels(
          network, synthetic, target, config=pool, clock=clock
        ),
        functools.partial(describe, method=title, further=plan.further),
      )
  if processes.is_first_process():
    results.report_seconds(title, clock.seconds())


def _fit_labels(
  path: pathlib.Path,
  fit: Callable[[], LabeledSet],
  describe: Callable[[LabeledSet], distilled_set.DistilledSet],
) -> None:
  """Writes the set with new labels, if it is not there already."""
  if processes.any_process(path.exists()):
    print(f'{path} is there already.')
    return
  fitted = fit()
  if processes.is_first_process():
    _write(path, results.with_learned_labels(describe(fitted)))


def _write(path: pathlib.Path, distilled: distilled_set.DistilledSet) -> None:
  """Writes a set and its picture, and says so."""
  results.write_result(path, distilled)
  print(f'Wrote {path} and {path.with_suffix(".png")}.')


def _save_networks(
  workdir: pathlib.Path,
  seen: Sequence[Any],
  plan: Plan,
  seed: int,
  record: Mapping[str, Any],
) -> None:
  """Writes the networks that the set was distilled in last."""
  for number, variables in enumerate(seen):
    theta = learned_network.learned_network(
      plan.network, seed, plan.target.image_shape, variables
    )
    file = workdir / 'networks' / f'{number}.safetensors'
    file.parent.mkdir(exist_ok=True)
    learned_network.save_learned(
      file, theta, plan.target.normalization, record=record
    )


if __name__ == '__main__':
  config_flags.define(*CONFIGS)
  launching.run_in_processes(main)
