r"""Learns the network of the column Bi-Level on a large set.

Then 1 Net's procedure in it distils a target set:

  python experiments/bilevel.py --dataset=tiny_imagenet_32 --width=32 \
      --max_classes=20 --max_images=400 --max_synthetic=60 \
      --workdir=runs/bilevel
  python experiments/distill.py --dataset=cifar10 --width=32 --num_steps=30 \
      --theta=runs/bilevel/network.safetensors --workdir=runs/bilevel_cifar10
"""

import dataclasses

import numpy as np
from absl import flags

from fsdd_jax.algorithms import bilevel
from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import files
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.storage import learned_network
from workbench import config_flags, launching, problems

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the network, logs and checkpoints; a killed run resumes in it.',
  required=True,
)

CONFIGS = (DataConfig, NetworkConfig, BilevelConfig)
DEFAULTS = {'dataset': 'fractals'}


def main(_: list[str]) -> None:
  """Parses flags, learns and writes the network."""
  data, config = config_flags.read(DataConfig), config_flags.read(BilevelConfig)
  workdir = files.resolve(_WORKDIR.value)
  train = problems.load_dataset(data, 'train')
  transform = problems.fit_normalization(data, train)
  network = problems.make_network(
    config_flags.read(NetworkConfig), train.images.shape[1:], train.num_classes
  )
  options, clock = with_clock(
    LoopOptions(workdir, config.checkpoint_every, config.log_every)
  )
  with clock.part('bi-level'):
    result = bilevel.learn_network(
      network, TargetSet(train, transform), config=config, options=options
    )
  seconds = sum(clock.seconds().values())
  path = workdir / 'network.safetensors'
  record = {'config': dataclasses.asdict(config), 'dataset': data.dataset}
  learned_network.save_learned(path, result.theta, transform, record=record)
  print(f'{config.num_updates} updates in {seconds:.1f} s with compilation.')
  if losses := result.losses:
    tenth = max(1, len(losses) // 10)
    print(
      f'Loss in fresh networks: {np.mean(losses[:tenth]):.4f} over the first '
      f'{tenth} of the {len(losses)} updates since the last start, '
      f'{np.mean(losses[-tenth:]):.4f} over the last {tenth}.'
    )
  print(f'Wrote {path}.')


if __name__ == '__main__':
  config_flags.define(*CONFIGS, **DEFAULTS)
  launching.run(main)
