"""A first look, without any download: distils handwritten digits, IPC 1.

python experiments/quickstart.py
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from fsdd_jax import artifacts, baselines, cli, evaluation, pictures, report
from fsdd_jax.configs import DataConfig, DistillationConfig, NetworkConfig
from fsdd_jax.normalization import denormalize
from fsdd_jax.stage_loop import LoopOptions

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder of the results.'
)
_STEPS = flags.DEFINE_integer('num_steps', 300, 'Optimiser steps a row.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Fresh networks a score.')
_DATA = DataConfig(dataset='digits', image_size=16)
_NETWORK = NetworkConfig(width=32)


def _configs() -> Iterator[tuple[str, DistillationConfig]]:
  """The rows: name and config."""
  plain = DistillationConfig(ipc=1, num_steps=_STEPS.value)
  networks = min(50, _STEPS.value)
  yield '1 Net', plain
  yield (
    'Pool(16)',
    dataclasses.replace(
      plain, num_networks=min(16, _STEPS.value), revisit=True
    ),
  )
  yield (
    f'Baseline(R={networks})',
    dataclasses.replace(plain, num_networks=networks),
  )


def main(_: list[str]) -> None:
  """Distils, scores and reports each row."""
  workdir = pathlib.Path(_WORKDIR.value)
  train, test = (cli.load_dataset(_DATA, split) for split in ('train', 'test'))
  transform = cli.fit_normalization(_DATA, train)
  network = cli.make_network(
    _NETWORK, train.images.shape[1:], train.num_classes
  )
  without = evaluation.unsuitable_augmentation(_DATA.dataset)
  rows, shown = [], []

  def score(synthetic, protocol):
    return evaluation.evaluate(
      jax.random.key(1000),
      synthetic,
      test,
      transform,
      network,
      protocol=protocol,
      repeats=_REPEATS.value,
      without=without,
    )

  def add_row(name, synthetic, seen, seconds):
    scores = [score(synthetic, protocol) for protocol in ('krr', 'frepo')]
    rows.append([name, seen, *map(str, scores), seconds])
    pixels = np.asarray(denormalize(synthetic.images, transform))
    figure = pictures.class_grid(pixels, train.class_names, ipc=1)
    shown.append((name, pictures.figure_png(figure)))
    return [s.as_dict() for s in scores]

  real = baselines.random_real(jax.random.key(0), train, transform, ipc=1)
  add_row('random real', real, '', '')
  for name, config in _configs():
    folder = workdir / name
    result = baselines.distill_over_networks(
      network, train, transform, config=config, options=LoopOptions(folder)
    )
    seen = [
      evaluation.accuracy(
        *evaluation.fit_krr_in(variables, network, result.synthetic),
        test,
        transform,
      )
      for variables in result.seen
    ]
    seconds = sum(result.seconds.values())
    scores = add_row(
      name, result.synthetic, f'{np.mean(seen):.2f}', f'{seconds:.1f}'
    )
    distilled = cli.describe_result(
      result.synthetic, transform, train, _DATA, _NETWORK, config, scores
    )
    artifacts.save_distilled(folder / 'distilled.safetensors', distilled)
  table = report.Table(
    'Digits, one image a class',
    [
      'set',
      'krr in seen networks',
      'krr in unseen networks',
      'trained (frepo)',
      'seconds',
    ],
    rows,
    f'Test accuracy in percent on {len(test.labels)} images: mean ± std '
    f'(ddof=1) over {_REPEATS.value} fresh networks, last step. Seconds are '
    'those of the distillation, with compilation.',
  )
  print(report.to_markdown(table))
  path = workdir / 'report.html'
  report.write_report(
    path,
    title='fsdd_jax: a first look',
    tables=[table],
    pictures=shown,
    settings={'data': str(_DATA), 'network': str(_NETWORK)},
  )
  print(f'Wrote {path} and a distilled set for each row in {workdir}.')


if __name__ == '__main__':
  cli.run(main)
