r"""Accuracy against wall time of many methods, under one protocol.

A method is the name of a flagfile <scale>_<name>.flags, and may change its
flags: --methods="baseline,pool,pool --num_networks=64,frepo,adapt". A name of
distill.py --method is that method, any other is Alg. 4, but for `translate`
(w/o Ada) and `adapt` (w Ada), which share a flagfile. In --network_pool
networks, --fit_labels fits their labels, and --finishing_steps goes on by
direct steps. Any other method ends with labels by --label_networks=16.

By default it scores held-out training images, as it serves to choose. What is
done stays done: the same command goes on after a kill, and one with other
--methods, --ipcs, --end_protocols or --end_networks runs and scores what is
missing; tables and pictures are of its methods alone. Distilled sets lie in
W/methods/ipcI, for evaluate.py.

--preset=peers is the protocol of all methods at equal time: it runs random real
(also with labels in closed form), herding, k-centre, 1 Net, Pool, Baseline, w/o
Ada and w Ada (of --translator), FRePo, RFAD, RCIG and KIP at IPC 1, 10 and 50,
a minute each, and scores their ends by krr, frepo and dc, and by training
AlexNet, VGG11 and ResNet18; flags that are given go before it.

  python experiments/compare.py --dataset=cifar10 --holdout=0.04 --ipcs=1,10 \
      --seconds=60 --translator=runs/omega/translator.safetensors \
      --workdir=runs/compare
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from fsdd_jax.algorithms.configs import (
  DataConfig,
  NetworkConfig,
  TranslatorConfig,
)
from fsdd_jax.data import resolution
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate
from fsdd_jax.networks import extractors
from fsdd_jax.reporting import console, tables
from fsdd_jax.runtime import files
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.runtime.workdir import claimed_workdir
from workbench import (
  comparison,
  comparison_records,
  comparison_runs,
  config_flags,
  launching,
  problems,
  runners,
)

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the results.', required=True
)
_METHODS = flags.DEFINE_list(
  'methods',
  'random_real,one_net,pool,rfad,frepo,baseline,adapt'.split(','),
  'Flagfiles of methods, without scale and ending.',
)
_RECIPES = flags.DEFINE_string(
  'recipes', str(pathlib.Path(__file__).parent / 'recipes'), 'Their folder.'
)
_SCALE = flags.DEFINE_string('scale', 'cpu', 'What their names begin with.')
_SECONDS = flags.DEFINE_float(
  'seconds',
  0.0,
  'Time of each method, without compilation; 0: the steps of its flagfile, '
  'which 1 Net, Pool(R), Baseline(R) and w/o Ada keep in any case.',
  lower_bound=0,
)
_TRANSLATOR = flags.DEFINE_string(
  'translator', 'none', "A translator's file; none: a random one."
)
_POINTS = flags.DEFINE_integer(
  'points', 8, 'Points of each part of a curve.', lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  'repeats', 3, 'Fresh networks a point.', lower_bound=1
)
_PROTOCOL = flags.DEFINE_enum(
  'protocol', 'krr', list(evaluate.PROTOCOLS), 'How each point is scored.'
)
_SPLIT = flags.DEFINE_enum(
  'split', 'holdout', ['holdout', 'test'], 'Images to score on.'
)

_END_PROTOCOLS = flags.DEFINE_list(
  'end_protocols', [], 'Protocols that score the end of each method as well.'
)
_END_WIDTH = flags.DEFINE_integer(
  'end_width',
  0,
  'Width of the networks of --end_protocols; 0: as sets are distilled.',
  lower_bound=0,
)
_END_NETWORKS = flags.DEFINE_list(
  'end_networks', [], 'Architectures to train on the end of each method.'
)
_TRAINING = flags.DEFINE_enum(
  'training', 'frepo', ['frepo', 'dc'], 'How these are trained.'
)
_PRESET = flags.DEFINE_enum(
  'preset', '', ['', 'peers'], 'Defaults of other flags, see above.'
)
_IPCS = flags.DEFINE_list('ipcs', ['1', '10'], 'Images per class.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of every method.')

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig)
DEFAULTS = {'holdout': 0.1}
PEERS = {
  'methods': (
    'random_real,random_real --label_networks=16 --label_images=1000,herding,'
    'k_centre,one_net,pool,baseline,translate,adapt,frepo,rfad,rcig,kip'
  ).split(','),
  'ipcs': ['1', '10', '50'],
  'seconds': 60.0,
  'end_protocols': ['krr', 'frepo', 'dc'],
  'end_networks': ['alexnet', 'vgg11', 'resnet18'],
}


def _columns(
  problem: runners.Problem, network_config: NetworkConfig
) -> dict[str, tuple[str, Any]]:
  """Protocol and network of each column of the table of ends.

  Raises the errors of protocols that cannot score in the network.
  """
  network, train, _ = problem
  for name in (_PROTOCOL.value, *_END_PROTOCOLS.value):
    evaluate.network_for(name, network)
  scored_in = extractors.of_width(network, _END_WIDTH.value)
  columns = {name: (name, scored_in) for name in _END_PROTOCOLS.value}
  for name in _END_NETWORKS.value:
    config = NetworkConfig(network=name, width=network_config.width)
    other = problems.make_network(
      config, train.images.shape[1:], train.num_classes
    )
    columns[f'{name}, {_TRAINING.value}'] = _TRAINING.value, other
  return columns


def _compare(
  ipc: int, methods: Mapping[str, runners.Runner], plan: comparison_runs.Plan
) -> list[tables.Table]:
  """Runs all methods at one IPC, then scores their ends; draws both."""
  workdir = files.resolve(_WORKDIR.value)
  page = comparison.Page(workdir, ipc, plan.scoring)
  records: dict[str, comparison_records.Record] = {}
  paths: dict[str, pathlib.Path] = {}
  made: dict[str, tables.Table] = {}
  titles = [runner.title for runner in methods.values()]
  for text, runner in methods.items():
    # A variant of a method may have its title, as may another flagfile.
    is_variant = ' ' in text and titles.count(runner.title) > 1
    is_taken = runner.title in records
    name = text if is_variant or is_taken else runner.title
    paths[name] = comparison_records.path_of(workdir, ipc, text)
    records[name] = comparison_runs.run_once(paths[name], runner, plan)
    made['curves'] = page.write_curves(records)
  ends: dict[str, comparison_records.Record] = {}
  for name, path in paths.items() if plan.scoring.columns else ():
    ends[name] = comparison_runs.score_once(path, records[name], plan.scoring)
    made['ends'] = page.write_ends(ends)
  return list(made.values())


def main(_: list[str]) -> None:
  """Runs, scores and draws each method at each IPC."""
  for name, value in PEERS.items() if _PRESET.value else ():
    if not flags.FLAGS[name].present:
      flags.FLAGS[name].value = value
  found = problems.adaptation_problem(_TRANSLATOR.value, seed=_SEED.value)
  start, train, data = found.start, found.dataset, found.data
  problem = found.network, train, found.normalization
  settings = runners.Settings(
    *(str(files.resolve(_RECIPES.value)), _SCALE.value, found.network_config),
    seed=_SEED.value,
  )
  # All of them before the first runs, so that a mistake ends it at once.
  columns = _columns(problem, found.network_config)
  methods = {
    ipc: {
      text: runners.make_runner(
        text, problem, start, ipc=ipc, settings=settings
      )
      for text in _METHODS.value
    }
    for ipc in config_flags.counts('ipcs')
  }
  if not _METHODS.value:
    raise ValueError('--methods names none; give some, parted by commas.')
  files.check_writable(files.resolve(_WORKDIR.value) / 'compare.json')
  held = resolution.repeat_channels(
    problems.load_dataset(data, _SPLIT.value), train.images.shape[-1]
  )
  scoring = comparison.Scoring(
    *(problem, held, data.dataset, columns),
    repeats=_REPEATS.value,
    split=_SPLIT.value,
    protocol=_PROTOCOL.value,
  )

  plan = comparison_runs.Plan(
    *(found, scoring, _SECONDS.value, _POINTS.value),
    comparison_runs.translating(found),
  )
  made = []
  shared = (_SECONDS, _POINTS, _REPEATS, _PROTOCOL, _SPLIT, _END_WIDTH, _SEED)
  facts = found.facts | {flag.name: flag.value for flag in shared}
  facts |= TargetSet(train, found.normalization).facts
  facts['scored_fingerprint'] = held.fingerprint()
  with claimed_workdir(LoopOptions(_WORKDIR.value), data, **facts):
    for ipc, own in methods.items():
      made += _compare(ipc, own, plan)
  for table in made:
    console.show(table)
  print(f'Wrote .json, .png and .csv of each IPC to {_WORKDIR.value}.')


if __name__ == '__main__':
  config_flags.define(*CONFIGS, **DEFAULTS)
  launching.run(main)
