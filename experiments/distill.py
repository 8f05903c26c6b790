r"""Distils a data set into a few images a class (Alg. 4).

1 Net is --num_networks=1, the paper's Baseline --num_networks=T with
--num_steps=T, and Pool(R) --num_networks=R --revisit.

  python experiments/distill.py --dataset=cifar10 --ipc=10 --num_networks=16 \
      --revisit --num_steps=300 --workdir=runs/pool16
"""

import pathlib

from absl import flags

from fsdd_jax import baselines, cli
from fsdd_jax.configs import DataConfig, DistillationConfig, NetworkConfig
from fsdd_jax.stage_loop import LoopOptions

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of results, logs and checkpoints; a killed run resumes in it.',
  required=True,
)
_START = flags.DEFINE_string(
  'start',
  None,
  'Distilled set to start from, e.g. a translated one; random real images if '
  'not given.',
)

CONFIGS = (DataConfig, NetworkConfig, DistillationConfig)


def main(_: list[str]) -> None:
  """Parses flags, distils and writes the distilled set and its picture."""
  data = cli.from_flags(DataConfig)
  network_config = cli.from_flags(NetworkConfig)
  config = cli.from_flags(DistillationConfig)
  workdir = pathlib.Path(_WORKDIR.value)
  train = cli.load_dataset(data, 'train')
  transform = cli.fit_normalization(data, train)
  network = cli.make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  start = None
  if _START.value:
    start = cli.start_from_file(_START.value, transform)
  result = baselines.distill_over_networks(
    network,
    train,
    transform,
    config=config,
    options=LoopOptions(workdir, config.checkpoint_every, config.log_every),
    start=start,
  )
  distilled = cli.describe_result(
    result.synthetic,
    transform,
    train,
    data,
    network_config,
    config,
    further={'start': _START.value} if _START.value else None,
  )
  path = workdir / 'distilled.safetensors'
  parts = ', '.join(f'{k} {v:.1f} s' for k, v in result.seconds.items())
  print(f'{baselines.method_name(config)}: {parts}')
  cli.write_result(path, distilled)
  print(f'Wrote {path} and {path.with_suffix(".png")}.')


if __name__ == '__main__':
  cli.define_flags(*CONFIGS)
  cli.run(main)
