r"""Distils a data set into a few images a class, by Alg. 4 or a peer's method.

1 Net is --num_networks=1, the paper's Baseline --num_networks=T with
--num_steps=T, and Pool(R) --num_networks=R --revisit.

  python experiments/distill.py --dataset=cifar10 --ipc=10 --num_networks=16 \
      --revisit --num_steps=300 --workdir=runs/pool16

--method=frepo, rfad, rcig or kip are the peers', with their own settings in
experiments/recipes/peer_*.flags; random_real, herding and k_centre choose real
images.
"""

import dataclasses
import functools
from typing import Any

from absl import flags

from fsdd_jax.algorithms import baselines, bilevel, one_network
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
from fsdd_jax.runtime import files, processes
from fsdd_jax.runtime.stage_loop import LoopOptions
from workbench import config_flags, launching, problems, results
from workbench.methods import METHODS

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
  'Distilled set to start from, e.g. a translated one; random real images if '
  'not given.',
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

CONFIGS = (
  *(DataConfig, NetworkConfig, DistillationConfig),
  *(FrepoConfig, RfadConfig, RcigConfig, KipConfig),
)


def main(_: list[str]) -> None:
  """Parses flags, distils and writes the distilled set and its picture."""
  data = config_flags.read(DataConfig)
  network_config = config_flags.read(NetworkConfig)
  config = config_flags.read(DistillationConfig)
  workdir = files.resolve(_WORKDIR.value)
  problems.warn_without_test(data)
  train = target = problems.load_dataset(data, 'train')
  transform = problems.fit_normalization(data, train)
  network = problems.make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  method = METHODS[_METHOD.value]
  if not method.learns:  # Its labels stay as they are coded.
    config = dataclasses.replace(config, label_learning_rate=0.0)
  title, start = method.title(config), None
  own = None
  further: dict[str, Any] = {}
  if method.config_class is not None:
    own = config_flags.read(method.config_class)
    further[_METHOD.value] = dataclasses.asdict(own)
  run = functools.partial(method.run, own=own)
  if _START.value:
    start = problems.start_from_file(_START.value, transform)
    further['start'] = _START.value
  if _THETA.value:
    if config.num_networks > 1 or _METHOD.value != 'networks':
      raise ValueError(
        f'num_networks = {config.num_networks}, method = {_METHOD.value}, but '
        '--theta is one network: leave both at their defaults.'
      )
    theta = problems.theta_from_file(
      _THETA.value, network_config, train.num_classes
    )
    # At the resolution that theta was learned at, as the supplement's times
    # of Bi-Level tell.
    target = resolution.reduce_resolution(train, theta.image_shape)
    network, title = theta.network, 'Bi-Level'
    run = functools.partial(
      baselines.distill_over_networks,
      networks=one_network.inputs_in_theta(
        theta, target, transform, label_coding=config.label_coding
      ),
    )
    further['theta'] = _THETA.value
  result = run(
    network,
    target,
    transform,
    config=config,
    options=LoopOptions(workdir, config.checkpoint_every, config.log_every),
    start=start,
  )
  if not processes.is_first_process():
    return
  distilled = results.describe_result(
    resolution.upsample(result.synthetic, train.images.shape[1:]),
    transform,
    train,
    data,
    network_config,
    config,
    method=title,
    further=further or None,
  )
  path = workdir / 'distilled.safetensors'
  results.write_result(path, distilled)
  saved = result.seen if _SAVE_NETWORKS.value else []
  for number, variables in enumerate(saved):
    theta = bilevel.learned_network(
      network, config.seed, target.images.shape[1:], variables
    )
    file = workdir / 'networks' / f'{number}.safetensors'
    file.parent.mkdir(exist_ok=True)
    record = distilled.metadata.recipe
    bilevel.save_learned(file, theta, transform, record=record)
  results.report_seconds(title, result.seconds)
  print(f'Wrote {path} and {path.with_suffix(".png")}.')


if __name__ == '__main__':
  config_flags.define(*CONFIGS)
  launching.run_in_processes(main)
