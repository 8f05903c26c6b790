r"""Distils a data set into a few images a class (Alg. 4).

1 Net is --num_networks=1, the paper's Baseline --num_networks=T with
--num_steps=T, and Pool(R) --num_networks=R --revisit.

  python experiments/distill.py --dataset=cifar10 --ipc=10 --num_networks=16 \
      --revisit --num_steps=300 --workdir=runs/pool16
"""

import pathlib

from absl import flags

from fsdd_jax import baselines, cli, one_network, processes, resolution
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
_THETA = flags.DEFINE_string(
  'theta',
  None,
  'Learned network to distil in, of experiments/bilevel.py (Bi-Level); random '
  'ones if not given.',
)

CONFIGS = (DataConfig, NetworkConfig, DistillationConfig)


def main(_: list[str]) -> None:
  """Parses flags, distils and writes the distilled set and its picture."""
  data = cli.from_flags(DataConfig)
  network_config = cli.from_flags(NetworkConfig)
  config = cli.from_flags(DistillationConfig)
  workdir = pathlib.Path(_WORKDIR.value)
  train = target = cli.load_dataset(data, 'train')
  transform = cli.fit_normalization(data, train)
  network = cli.make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  method = baselines.method_name(config)
  start, networks, further = None, None, {}
  if _START.value:
    start = cli.start_from_file(_START.value, transform)
    further['start'] = _START.value
  if _THETA.value:
    if config.num_networks > 1:
      raise ValueError(
        f'num_networks = {config.num_networks}, but --theta is one network.'
      )
    theta = cli.theta_from_file(_THETA.value, network_config, train.num_classes)
    # At the resolution that theta was learned at, as the supplement's times
    # of Bi-Level tell.
    target = resolution.reduce_resolution(train, theta.image_shape)
    network, method = theta.network, 'Bi-Level'
    networks = one_network.inputs_in_theta(
      theta, target, transform, label_coding=config.label_coding
    )
    further['theta'] = _THETA.value
  result = baselines.distill_over_networks(
    network,
    target,
    transform,
    config=config,
    options=LoopOptions(workdir, config.checkpoint_every, config.log_every),
    start=start,
    networks=networks,
  )
  if not processes.is_first_process():
    return
  distilled = cli.describe_result(
    resolution.upsample(result.synthetic, train.images.shape[1:]),
    transform,
    train,
    data,
    network_config,
    config,
    method=method,
    further=further or None,
  )
  path = workdir / 'distilled.safetensors'
  cli.report_seconds(workdir / 'seconds.jsonl', method, result.seconds)
  cli.write_result(path, distilled)
  print(f'Wrote {path} and {path.with_suffix(".png")}.')


if __name__ == '__main__':
  cli.define_flags(*CONFIGS)
  cli.run_in_processes(main)
