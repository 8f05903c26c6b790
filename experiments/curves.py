r"""Accuracy against wall time of Baseline, Pool and the adapted translator.

Scored on held-out training images, as it serves to choose a method. All methods
share the flags of the updates but for the number of steps: --num_steps is T in
the one network, --rival_steps that of Baseline and Pool.

  python experiments/curves.py --dataset=cifar10 --holdout=0.1 \
      --adapt_ipcs=10 --network_pool=16 --workdir=runs/curves \
      --translator=runs/pretrain/translator.safetensors
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from fsdd_jax import (
  adaptation,
  adaptation_samples,
  baselines,
  cli,
  curves,
  files,
  pictures,
  report,
  resolution,
)
from fsdd_jax.configs import DataConfig, NetworkConfig
from fsdd_jax.method_configs import AdaptationConfig, TranslatorConfig
from fsdd_jax.pretrained import method_name
from fsdd_jax.stage_loop import LoopOptions
from fsdd_jax.translator import translate
from fsdd_jax.types import LabeledSet

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the results.', required=True
)
_TRANSLATOR = flags.DEFINE_string(
  'translator', 'none', "A translator's file; none: a random one."
)
_POOLS = flags.DEFINE_list('pools', ['4', '16', '64'], 'Sizes of Pool.')
_RIVAL_STEPS = flags.DEFINE_integer(
  'rival_steps', 200, 'Steps T of Baseline and Pool.'
)
_RIVAL_BATCH = flags.DEFINE_integer(
  'rival_batch', 1000, 'Real images a step of Baseline; 0: all.'
)
_DIRECT_STEPS = flags.DEFINE_integer(
  'direct_steps', 50, 'Steps on the translated set itself, after adaptation.'
)
_EVERY = flags.DEFINE_integer('every', 20, 'Steps between two points.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Fresh networks a point.')

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig, AdaptationConfig)
DEFAULTS = {'adapt_ipcs': (10,), 'network_pool': 16, 'holdout': 0.1}

Method = Callable[[LoopOptions], Any]


def _methods(
  problem: tuple[Any, ...], start: Any, config: AdaptationConfig
) -> dict[str, Method]:
  """Every method by its name, as a function of how it is watched."""
  (ipc,) = config.adapt_ipcs
  pool = config.network_pool
  rival = dataclasses.replace(
    config.distillation(ipc), num_steps=_RIVAL_STEPS.value
  )
  network, train, transform = problem

  def over(num_networks: int, **changes: Any) -> Method:
    own = dataclasses.replace(rival, num_networks=num_networks, **changes)
    return lambda options: baselines.distill_over_networks(
      *problem, config=own, options=options
    )

  def adapted(own: AdaptationConfig) -> Method:
    return lambda options: adaptation.adapt(
      network, start, train, transform, config=own, options=options
    )

  def adapted_then_direct(options: LoopOptions) -> None:
    networks = adaptation_samples.pool_networks(
      network, train, transform, config
    )
    result = adaptation.adapt(
      network,
      start,
      train,
      transform,
      config=config,
      options=options,
      networks=networks,
    )
    translated = adaptation.distill_dataset(
      result.pretrained,
      train,
      transform,
      ipc=ipc,
      config=config,
      in_theta=result.distilled_in_theta[ipc],
    )
    steps = _DIRECT_STEPS.value
    direct = dataclasses.replace(
      rival, num_steps=steps, num_networks=min(pool, steps), revisit=True
    )
    baselines.distill_over_networks(
      *problem,
      config=direct,
      options=options,
      start=translated,
      networks=networks,
    )

  steps, name = rival.num_steps, method_name(start, config)
  sizes = [min(size, steps) for size in cli.integers('pools')]
  return {
    'Baseline': over(steps, real_batch=_RIVAL_BATCH.value),
    **{f'Pool({size})': over(size, revisit=True) for size in sizes},
    f'{name}, {pool} networks': adapted(config),
    f'{name}, fresh networks': adapted(
      dataclasses.replace(config, network_pool=0)
    ),
    f'{name}, then Pool({pool})': adapted_then_direct,
  }


def main(_: list[str]) -> None:
  """Runs, scores and draws each method."""
  data, config = cli.from_flags(DataConfig), cli.from_flags(AdaptationConfig)
  if len(config.adapt_ipcs) != 1 or not config.network_pool:
    raise ValueError(
      f'adapt_ipcs = {config.adapt_ipcs} and network_pool = '
      f'{config.network_pool}: a curve is of one IPC and needs a pool, as with '
      '--adapt_ipcs=10 --network_pool=16.'
    )
  found = cli.adaptation_problem(_TRANSLATOR.value, seed=config.seed)
  start, network, train = found.start, found.network, found.dataset
  transform = found.normalization
  held = resolution.repeat_channels(
    cli.load_dataset(data, 'holdout'), train.images.shape[-1]
  )

  @jax.jit
  def translated(params: Any, labeled: LabeledSet) -> LabeledSet:
    labeled = resolution.upsample(labeled, train.images.shape[1:])
    return translate(start.translator, {'params': params}, labeled)

  points = {
    name: curves.score(
      jax.random.key(1000),
      curves.record(method, every=_EVERY.value, translate_fn=translated),
      held,
      transform,
      network,
      repeats=_REPEATS.value,
      split='holdout',
    )
    for name, method in _methods(
      (network, train, transform), start, config
    ).items()
  }
  _write(pathlib.Path(_WORKDIR.value), points, data, config.adapt_ipcs[0])


def _write(
  workdir: pathlib.Path,
  found: dict[str, list[curves.Point]],
  data: DataConfig,
  ipc: int,
) -> None:
  """Writes points and picture, and prints when each reached Baseline's end."""
  title = f'{data.dataset}, {ipc} images a class'
  points = {name: list(map(dataclasses.asdict, p)) for name, p in found.items()}
  text = json.dumps({'title': title, 'curves': points}, indent=2)
  files.write_bytes_atomic(workdir / 'curves.json', text.encode() + b'\n')
  label = 'held-out accuracy by krr in unseen networks, %'
  picture = curves.draw(found, title=title, ylabel=label)
  files.write_bytes_atomic(workdir / 'curves.png', pictures.figure_png(picture))
  goal = found['Baseline'][-1]
  rows = []
  for name, curve in found.items():
    seconds = curves.seconds_to_reach(curve, goal.mean)
    times = '' if seconds is None else f'{goal.seconds / seconds:.1f}'
    reached = 'never' if seconds is None else f'{seconds:.1f}'
    end = curve[-1]
    spread = '' if end.std is None else f' ± {end.std:.2f}'
    rows.append(
      [name, f'{end.mean:.2f}{spread}', f'{end.seconds:.1f}', reached, times]
    )
  caption = (
    f'{label}: mean ± std (ddof=1) over n={goal.n} fresh networks, one set. '
    'Seconds without compilation.'
  )
  columns = ['method', 'accuracy', 'seconds', "to Baseline's", 'times sooner']
  table = report.Table(title, columns, rows, caption)
  files.write_bytes_atomic(
    workdir / 'curves.csv', report.to_csv(table).encode()
  )
  print(report.to_markdown(table))
  print(f'Wrote curves.json, curves.png and curves.csv to {workdir}.')


if __name__ == '__main__':
  cli.define_flags(*CONFIGS, **DEFAULTS)
  cli.run(main)
