"""A first look, without any download: the whole method, fractals to digits.

Caches and pre-trains on procedural fractals, adapts to handwritten digits, and
sets what comes out beside distillation without a translator.

  python experiments/quickstart.py
"""

import dataclasses
import pathlib
import time

import flax.linen as nn
import jax
import numpy as np
from absl import flags

import fsdd_jax as fsdd
from fsdd_jax.algorithms import adaptation, baseline
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from fsdd_jax.algorithms.in_theta import distill_in_theta
from fsdd_jax.algorithms.method_configs import (
  AdaptationConfig,
  CachingConfig,
  PretrainingConfig,
)
from fsdd_jax.data import datasets, resolution
from fsdd_jax.data.normalization import Normalization, denormalize
from fsdd_jax.evaluation import protocols
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.reporting import pictures, tables
from fsdd_jax.runtime import files
from fsdd_jax.types import LabeledSet
from workbench import launching, problems

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder of the results.'
)
_STEPS = flags.DEFINE_integer(
  'num_steps', 100, 'Updates a row or a stage.', lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Fresh networks a score.', lower_bound=1
)

_LARGE = DataConfig(dataset='fractals:20', image_size=16)
_TARGET = DataConfig(dataset='digits', image_size=16)
_NETWORK = NetworkConfig(width=32)
_SHAPE = (16, 16, 3)
_TRANSLATOR = fsdd.Translator(width=8, num_blocks=2)
_COLUMNS = ('set', 'krr in unseen networks', 'trained (frepo)', 'seconds')

Problem = tuple[nn.Module, fsdd.TargetSet]
Rows = dict[str, tuple[LabeledSet, float]]


def _pretrain(workdir: pathlib.Path) -> fsdd.ThetaTranslator:
  """Algs. 1 and 2 on fractals."""
  images = problems.load_dataset(_LARGE, 'train')
  large = fsdd.TargetSet(images, problems.fit_normalization(_LARGE, images))
  network = problems.make_network(_NETWORK, _SHAPE, large.num_classes)
  steps = _STEPS.value
  caching = CachingConfig(
    num_subsets=24,
    min_classes=5,
    max_classes=10,
    max_images=200,
    max_synthetic=20,
    num_steps=min(30, steps),
    augmentation='none',
  )
  config = PretrainingConfig(
    num_steps=steps, batch_size=2, learning_rate=2e-3, eval_every=steps
  )
  folder = workdir / 'cache'
  fsdd.build_cache(network, large, config=caching, folder=folder)
  return fsdd.pretrain(
    network,
    _TRANSLATOR,
    fsdd.open_cache(folder),
    large,
    config=config,
  )


def _adaptation_rows(workdir: pathlib.Path, problem: Problem) -> Rows:
  """The columns of the paper's Table 1 that have a translator, with seconds."""
  steps = _STEPS.value
  network, target = problem
  config = AdaptationConfig(
    adapt_ipcs=(1,),
    num_steps=min(30, steps),
    num_adaptation_steps=steps,
    batch_size=1,
    adaptation_learning_rate=3e-3,
    network_pool=min(16, steps),
  )
  theta = FixedNetwork(network, seed=0, image_shape=_SHAPE)
  trained = _pretrain(workdir)
  untrained = fsdd.random_translator(0, _TRANSLATOR, theta)
  begin = time.perf_counter()
  in_theta = distill_in_theta(theta, target, ipcs=(1,), config=config)
  in_one_network = time.perf_counter() - begin
  found = {'1 Net': (in_theta[1], in_one_network)}
  for start, num_steps in ((trained, 0), (untrained, steps), (trained, steps)):
    own = dataclasses.replace(config, num_adaptation_steps=num_steps)
    begin = time.perf_counter()
    adapted = fsdd.adapt(
      network, start, target, config=own, in_theta=in_theta
    ).translator
    synthetic = fsdd.distill_dataset(
      adapted, target, ipc=1, config=own, in_theta=in_theta[1]
    )
    seconds = in_one_network + time.perf_counter() - begin
    found[adaptation.method_name(start, own)] = synthetic, seconds
  return found


def _rival_rows(problem: Problem) -> Rows:
  """Pool and Baseline (Alg. 4), with seconds."""
  steps = _STEPS.value
  pool = DistillationConfig(
    ipc=1, num_steps=steps, num_networks=min(16, steps), revisit=True
  )
  fresh = dataclasses.replace(pool, num_networks=steps, revisit=False)
  found = {}
  for config in (pool, fresh):
    begin = time.perf_counter()
    synthetic = fsdd.distill_over_networks(*problem, config=config).synthetic
    seconds = time.perf_counter() - begin
    found[baseline.method_name(config)] = synthetic, seconds
  return found


def main(_: list[str]) -> None:
  """Makes, scores and reports each row."""
  workdir = files.resolve(_WORKDIR.value)
  train, test = (
    resolution.repeat_channels(problems.load_dataset(_TARGET, split), _SHAPE[2])
    for split in ('train', 'test')
  )
  transform = problems.fit_normalization(_TARGET, train)
  network = problems.make_network(_NETWORK, _SHAPE, train.num_classes)
  target = fsdd.TargetSet(train, transform)
  problem = network, target
  real = target.random_real(jax.random.key(0), ipc=1)
  sets = {
    'random real': (real, 0.0),
    **_adaptation_rows(workdir, problem),
    **_rival_rows(problem),
  }
  rows = []
  for name, (synthetic, seconds) in sets.items():
    scores = [
      fsdd.evaluate(
        jax.random.key(1000),
        synthetic,
        test,
        transform,
        network,
        protocol=protocol,
        repeats=_REPEATS.value,
        settings=protocols.Settings(
          protocols.unsuitable_augmentation(_TARGET.dataset)
        ),
      )
      for protocol in ('krr', 'frepo')
    ]
    rows.append([name, *map(str, scores), f'{seconds:.1f}'])
  _write_report(workdir, rows, sets, train, transform)


def _write_report(
  workdir: pathlib.Path,
  rows: list[list[str]],
  sets: Rows,
  train: datasets.Dataset,
  transform: Normalization,
) -> None:
  """Prints the table and writes the page with the pictures."""
  caption = (
    'Test accuracy in percent: mean ± std (ddof=1) over n fresh networks, last '
    'step. Seconds are those of distillation and adaptation, with compilation '
    'and without the pre-training, which serves every target set.'
  )
  table = tables.Table(
    'Digits, one image a class', list(_COLUMNS), rows, caption
  )
  shown = []
  for name, (synthetic, _) in sets.items():
    pixels = np.asarray(denormalize(synthetic.images, transform))
    figure = pictures.class_grid(pixels, train.class_names, ipc=1)
    shown.append((name, pictures.figure_png(figure)))
  tables.write_report(
    workdir / 'report.html',
    title='fsdd_jax: a first look',
    tables=[table],
    pictures=shown,
    settings={
      'target set': str(_TARGET),
      'pre-training set': str(_LARGE),
      'network': str(_NETWORK),
      'translator': str(_TRANSLATOR),
    },
  )
  print(tables.to_markdown(table))
  print(f'Wrote {workdir}/report.html with a picture of each set.')


if __name__ == '__main__':
  launching.run(main)
