"""A first look, without any download: distils handwritten digits, IPC 1.

python experiments/quickstart.py
"""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import numpy as np
from absl import flags

from fsdd_jax import (
  artifacts,
  baselines,
  cli,
  datasets,
  evaluation,
  pictures,
  protocols,
  report,
)
from fsdd_jax.configs import DataConfig, DistillationConfig, NetworkConfig
from fsdd_jax.normalization import Normalization, denormalize
from fsdd_jax.stage_loop import LoopOptions
from fsdd_jax.types import LabeledSet

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder of the results.'
)
_STEPS = flags.DEFINE_integer('num_steps', 300, 'Optimiser steps a row.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Fresh networks a score.')

_DATA = DataConfig(dataset='digits', image_size=16)
_NETWORK = NetworkConfig(width=32)
_COLUMNS = (
  'set',
  'krr in seen networks',
  'krr in unseen networks',
  'trained (frepo)',
  'seconds',
)


def _configs() -> list[DistillationConfig]:
  """The rows 1 Net, Pool and Baseline."""
  plain = DistillationConfig(ipc=1, num_steps=_STEPS.value)
  pool, sequence = min(16, _STEPS.value), min(50, _STEPS.value)
  return [
    plain,
    dataclasses.replace(plain, num_networks=pool, revisit=True),
    dataclasses.replace(plain, num_networks=sequence),
  ]


def _scores(
  synthetic: LabeledSet,
  test: datasets.Dataset,
  transform: Normalization,
  network: nn.Module,
) -> list[evaluation.Score]:
  """Scores in fresh networks, by the closed form and by training."""
  return [
    evaluation.evaluate(
      jax.random.key(1000),
      synthetic,
      test,
      transform,
      network,
      protocol=protocol,
      repeats=_REPEATS.value,
      without=protocols.unsuitable_augmentation(_DATA.dataset),
    )
    for protocol in ('krr', 'frepo')
  ]


def main(_: list[str]) -> None:
  """Distils, scores and reports each row."""
  workdir = pathlib.Path(_WORKDIR.value)
  train, test = (cli.load_dataset(_DATA, split) for split in ('train', 'test'))
  transform = cli.fit_normalization(_DATA, train)
  network = cli.make_network(
    _NETWORK, train.images.shape[1:], train.num_classes
  )
  real = baselines.random_real(jax.random.key(0), train, transform, ipc=1)
  found = _scores(real, test, transform, network)
  rows = [['random real', '', *map(str, found), '']]
  sets = {'random real': real}
  for config in _configs():
    name = baselines.method_name(config)
    result = baselines.distill_over_networks(
      network,
      train,
      transform,
      config=config,
      options=LoopOptions(workdir / name),
    )
    sets[name] = result.synthetic
    found = _scores(result.synthetic, test, transform, network)
    seen = np.mean(
      [
        evaluation.accuracy(
          *protocols.fit_krr_in(variables, network, result.synthetic),
          test,
          transform,
        )
        for variables in result.seen
      ]
    )
    seconds = f'{sum(result.seconds.values()):.1f}'
    rows.append([name, f'{seen:.2f}', *map(str, found), seconds])
    distilled = cli.describe_result(
      result.synthetic,
      transform,
      train,
      _DATA,
      _NETWORK,
      config,
      [score.as_dict() for score in found],
    )
    path = workdir / name / 'distilled.safetensors'
    artifacts.save_distilled(path, distilled)
  _write_report(workdir, rows, sets, train, transform)


def _write_report(
  workdir: pathlib.Path,
  rows: list[list[str]],
  sets: dict[str, LabeledSet],
  train: datasets.Dataset,
  transform: Normalization,
) -> None:
  """Prints the table and writes the page with the pictures."""
  caption = (
    'Test accuracy in percent: mean ± std (ddof=1) over n fresh networks, last '
    'step. Seen networks are (at most five of) those it was distilled in. '
    'Seconds are those of the distillation, with compilation.'
  )
  table = report.Table(
    'Digits, one image a class', list(_COLUMNS), rows, caption
  )
  print(report.to_markdown(table))
  shown = []
  for name, synthetic in sets.items():
    pixels = np.asarray(denormalize(synthetic.images, transform))
    figure = pictures.class_grid(pixels, train.class_names, ipc=1)
    shown.append((name, pictures.figure_png(figure)))
  report.write_report(
    workdir / 'report.html',
    title='fsdd_jax: a first look',
    tables=[table],
    pictures=shown,
    settings={'data': str(_DATA), 'network': str(_NETWORK)},
  )
  print(f'Wrote {workdir}/report.html and a distilled set for each row.')


if __name__ == '__main__':
  cli.run(main)
