r"""Adapts a translator to a data set and distils it for any IPC (Alg. 3).

--translator=none is the column w/o Pre-Train, --num_adaptation_steps=0 w/o Ada.

  python experiments/adapt.py --translator=runs/pre/translator.safetensors \
      --dataset=cifar10 --adapt_ipcs=1,50 --ipcs=1,10,50 --network_pool=16 \
      --workdir=runs/adapt
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from fsdd_jax.algorithms import adaptation, finishing, in_theta, translated_sets
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.adaptation_samples import pool_networks
from fsdd_jax.algorithms.configs import (
  DataConfig,
  NetworkConfig,
  TranslatorConfig,
)
from fsdd_jax.data import resolution
from fsdd_jax.data.target import NetworksFn, TargetSet
from fsdd_jax.runtime import files, processes
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.runtime.workdir import claimed_workdir, options_within
from fsdd_jax.storage import translators
from fsdd_jax.types import LabeledSet
from workbench import config_flags, launching, problems, results

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of results, logs and checkpoints; a killed run resumes in it.',
  required=True,
)
_TRANSLATOR = flags.DEFINE_string(
  'translator',
  None,
  "A translator's file, the name of a shipped one (tiny_imagenet_32), or none "
  'for a random one (w/o Pre-Train).',
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

_START = flags.DEFINE_list(
  'start',
  [],
  'Files of sets that those in theta begin with, one an IPC, such as those of '
  'distill.py --method=herding; other IPCs begin with random real images.',
)

# By the name of its file, a set and the method that made it.
Sets = dict[str, tuple[str, LabeledSet]]

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig, AdaptationConfig)


def main(_: list[str]) -> None:
  """Adapts, then writes sets and their pictures for each IPC.

  `in_theta_ipcI` is before translation, `distilled_ipcI` after it. If they were
  asked for, `fitted_ipcI` has labels fitted in the pool, and `finished_ipcI`
  comes after direct steps beyond.
  """
  workdir = files.resolve(_WORKDIR.value)
  problems.warn_without_test(config_flags.read(DataConfig))
  problem = problems.adaptation_problem(
    _TRANSLATOR.value,
    theta_seed=_THETA_SEED.value,
    theta_size=_THETA_SIZE.value,
    seed=config_flags.read(AdaptationConfig).seed,
  )
  config = problems.adaptation_config(problem.start)
  ipcs = config_flags.integers('ipcs') or config.adapt_ipcs
  options, clock = with_clock(
    LoopOptions(workdir, config.checkpoint_every, config.log_every)
  )
  target = TargetSet(
    problem.dataset, problem.normalization, config.label_coding
  )
  wanted = tuple(dict.fromkeys((*config.adapt_ipcs, *ipcs)))
  adaptation.check(problem.start, target, config=config, ipcs=wanted)
  common: dict[str, Any] = {
    'target': target,
    'config': config,
    'options': options,
    'clock': clock,
  }
  starts = _starts(problem, wanted)
  # All of the run, as its parts share seconds and files.
  with claimed_workdir(options, config, **problem.facts, **target.facts):
    _run(problem, ipcs, wanted, starts, common, workdir)


def _run(
  problem: problems.AdaptationProblem,
  ipcs: Sequence[int],
  wanted: Sequence[int],
  starts: Mapping[int, LabeledSet],
  common: dict[str, Any],
  workdir: pathlib.Path,
) -> None:
  """Adapts, and writes the sets of each IPC; `wanted` are those in theta."""
  start, target = problem.start, common['target']
  config, clock = common['config'], common['clock']
  theta_networks = in_theta.theta_networks(start.theta, target, config, clock)
  before = in_theta.distill_in_theta(
    start.theta,
    ipcs=wanted,
    networks=theta_networks,
    starts=starts,
    **common,
  )
  # Nothing is summed before a network is asked for.
  pool = pool_networks(problem.network, target, config, clock)
  adapted = adaptation.adapt(
    problem.network,
    start,
    in_theta=before,
    theta_networks=theta_networks,
    networks=pool if config.network_pool else None,
    **common,
  ).translator
  made = {
    ipc: _sets(problem, adapted, before[ipc], ipc, pool, common) for ipc in ipcs
  }
  if processes.is_first_process():
    _write(workdir, problem, adapted, made, config)
    results.report_seconds(
      adaptation.method_name(start, config), clock.seconds()
    )


def _starts(
  problem: problems.AdaptationProblem, ipcs: Collection[int]
) -> dict[int, LabeledSet]:
  """The sets of --start, by their IPCs."""
  found = {}
  for path in _START.value:
    labeled = problems.start_from_file(path, problem.normalization)
    ipc = len(labeled.labels) // problem.dataset.num_classes
    if ipc not in ipcs or ipc in found:
      raise ValueError(
        f'--start: {path} has {ipc} images a class; give one file for an IPC '
        f'of {", ".join(map(str, sorted(ipcs)))}.'
      )
    found[ipc] = labeled
  return found


def _write(
  workdir: pathlib.Path,
  problem: problems.AdaptationProblem,
  adapted: translators.ThetaTranslator,
  made: Mapping[int, Sets],
  config: AdaptationConfig,
) -> None:
  """Writes the translator, if it was adapted, and the sets of each IPC."""
  record = {
    'adaptation': dataclasses.asdict(config),
    'translator': _TRANSLATOR.value,
  }
  if _START.value:
    record['start'] = list(_START.value)
  if config.num_adaptation_steps:
    path = workdir / 'translator.safetensors'
    # The file says of which translator it was made, too.
    adapted = problem.start.adapted(
      adapted.variables['params'], problem.normalization, record=record
    )
    translators.save_translator(path, adapted)
    print(f'Wrote {path}.')
  for ipc, sets in made.items():
    for name, (method, synthetic) in sets.items():
      distilled = results.describe_result(
        synthetic,
        problem.normalization,
        problem.dataset,
        problem.data,
        problem.network_config,
        config.distillation(ipc),
        method=method,
        further={**record, 'adapted_on': adaptation.adapted_on(ipc, config)},
        theta_seed=problem.start.theta.seed,
      )
      if config.fit_labels and name in ('fitted', 'finished'):
        distilled = results.with_learned_labels(distilled)
      results.write_result(workdir / f'{name}_ipc{ipc}.safetensors', distilled)


def _sets(
  problem: problems.AdaptationProblem,
  adapted: translators.ThetaTranslator,
  before: LabeledSet,
  ipc: int,
  pool: NetworksFn,
  common: dict[str, Any],
) -> Sets:
  """The sets of an IPC by the names of their files, each with its method."""
  config = common['config']
  method = adaptation.method_name(problem.start, config)
  translated = translated_sets.distill_dataset(
    adapted, ipc=ipc, in_theta=before, **common
  )
  shape = problem.dataset.images.shape[1:]
  found: Sets = {
    'in_theta': ('1 Net', resolution.upsample(before, shape)),
    'distilled': (method, translated),
  }
  if config.fit_labels:
    translated = finishing.fit_labels(
      *(problem.network, translated, common['target']),
      config=config,
      networks=pool,
      clock=common['clock'],
    )
    fitted = dataclasses.replace(config, finishing_steps=0)
    found['fitted'] = finishing.method_name(method, fitted), translated
  if config.finishing_steps:
    result = finishing.finish(
      problem.network,
      translated,
      common['target'],
      ipc=ipc,
      config=config,
      networks=pool,
      options=options_within(common['options'], 'finished', f'ipc_{ipc}'),
    )
    found['finished'] = finishing.method_name(method, config), result.synthetic
  return found


if __name__ == '__main__':
  config_flags.define(*CONFIGS)
  launching.run_in_processes(main)
