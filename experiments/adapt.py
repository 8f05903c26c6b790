r"""Adapts a translator to a data set and distils it for any IPC (Alg. 3).

--translator=none is the column w/o Pre-Train, --num_adaptation_steps=0 w/o Ada.

  python experiments/adapt.py --translator=runs/pre/translator.safetensors \
      --dataset=cifar10 --adapt_ipcs=1,50 --ipcs=1,10,50 --network_pool=16 \
      --workdir=runs/adapt
"""

import dataclasses
from typing import Any

from absl import flags

from fsdd_jax import (
  adaptation,
  cli,
  files,
  pretrained,
  processes,
  stage_loop,
)
from fsdd_jax.configs import DataConfig, NetworkConfig
from fsdd_jax.method_configs import AdaptationConfig, TranslatorConfig
from fsdd_jax.stage_loop import LoopOptions

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of results, logs and checkpoints; a killed run resumes in it.',
  required=True,
)
_TRANSLATOR = flags.DEFINE_string(
  'translator',
  None,
  "A translator's file, or none for a random one (w/o Pre-Train).",
  required=True,
)
_IPCS = flags.DEFINE_list(
  'ipcs', None, 'Images per class to distil; those adapted on if not given.'
)
_THETA_SEED = flags.DEFINE_integer(
  'theta_seed', None, "Seed of theta; the file's, or 0, if not given."
)
_THETA_SIZE = flags.DEFINE_integer(
  'theta_size', None, "Resolution of theta; the file's, or the data set's."
)

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig, AdaptationConfig)


def main(_: list[str]) -> None:
  """Adapts, then writes a distilled set and its picture for each IPC."""
  data, config = cli.from_flags(DataConfig), cli.from_flags(AdaptationConfig)
  ipcs = cli.integers('ipcs') or config.adapt_ipcs
  workdir = files.resolve(_WORKDIR.value)
  cli.warn_without_test(data)
  problem = cli.adaptation_problem(
    _TRANSLATOR.value,
    theta_seed=_THETA_SEED.value,
    theta_size=_THETA_SIZE.value,
    seed=config.seed,
  )
  start = problem.start
  options, clock = stage_loop.with_clock(
    LoopOptions(workdir, config.checkpoint_every, config.log_every)
  )
  common: dict[str, Any] = {
    'dataset': problem.dataset,
    'normalization': problem.normalization,
    'config': config,
    'options': options,
    'clock': clock,
  }
  # All IPCs at once, so that they share the statistics.
  wanted = tuple(dict.fromkeys((*config.adapt_ipcs, *ipcs)))
  in_theta = adaptation.distill_in_theta(start.theta, ipcs=wanted, **common)
  adapted = adaptation.adapt(
    problem.network, start, in_theta=in_theta, **common
  ).pretrained
  if not processes.is_first_process():
    return
  record = {
    'adaptation': dataclasses.asdict(config),
    'translator': _TRANSLATOR.value,
  }
  if config.num_adaptation_steps:
    path = workdir / 'translator.safetensors'
    pretrained.save_adapted(
      path, start, adapted.variables, problem.normalization, record=record
    )
    print(f'Wrote {path}.')
  method = pretrained.method_name(start, config)
  for ipc in ipcs:
    synthetic = adaptation.distill_dataset(
      adapted, ipc=ipc, in_theta=in_theta[ipc], **common
    )
    distilled = cli.describe_result(
      synthetic,
      problem.normalization,
      problem.dataset,
      data,
      problem.network_config,
      config.distillation(ipc),
      method=method,
      further=record,
      theta_seed=start.theta.seed,
    )
    cli.write_result(workdir / f'distilled_ipc{ipc}.safetensors', distilled)
  cli.report_seconds(method, clock.seconds())


if __name__ == '__main__':
  cli.define_flags(*CONFIGS)
  cli.run_in_processes(main)
