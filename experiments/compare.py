r"""Accuracy against wall time of many methods, under one protocol.

A method is the name of a flagfile <scale>_<name>.flags, and may change its
flags: --methods="baseline,pool,pool --num_networks=64,frepo,adapt". A name of
distill.py --method is that method, any other is Alg. 4, but for `adapt`, the
translator, and `adapt_then_pool`, which goes on with direct steps on the
translated set.

By default it scores held-out training images, as it serves to choose.

  python experiments/compare.py --dataset=cifar10 --holdout=0.04 --ipcs=1,10 \
      --seconds=60 --translator=runs/omega/translator.safetensors \
      --workdir=runs/compare
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from fsdd_jax.configs import (
  Config,
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from fsdd_jax.evaluation import PROTOCOLS
from fsdd_jax.method_configs import AdaptationConfig, TranslatorConfig
from fsdd_jax.methods import METHODS
from fsdd_jax.pretrained import method_name
from fsdd_jax.stage_loop import LoopOptions
from fsdd_jax.translator import translate
from fsdd_jax.types import LabeledSet

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
  'Time of each method, without compilation; 0: the steps of its flagfile.',
)
_TRANSLATOR = flags.DEFINE_string(
  'translator', 'none', "A translator's file; none: a random one."
)
_DIRECT_STEPS = flags.DEFINE_integer(
  'direct_steps', 50, 'Steps on the translated set (adapt_then_pool).'
)
_POINTS = flags.DEFINE_integer('points', 8, 'Points of each part of a curve.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Fresh networks a point.')
_PROTOCOL = flags.DEFINE_enum(
  'protocol', 'krr', list(PROTOCOLS), 'How each point is scored.'
)
_SPLIT = flags.DEFINE_enum(
  'split', 'holdout', ['holdout', 'test'], 'Images to score on.'
)

_IPCS = flags.DEFINE_list('ipcs', ['1', '10'], 'Images per class.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of every method.')

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig)
DEFAULTS = {'holdout': 0.1}


class Runner(NamedTuple):
  """A method of which the number of steps is still open.

  Attributes:
    title: its name in the table.
    run: of a number of steps and options; returns what holds the set.
    num_steps: of its flagfile; 0 where it has none.
    unlike_later: how many steps differ from all later ones; None for a method
      that more steps do not serve: 1 Net and Pool over-fit their networks.
  """

  title: str
  run: Callable[[int, LoopOptions], Any]
  num_steps: int
  unlike_later: int | None


def _distilling(
  name: str, arguments: Sequence[str], problem: tuple[Any, ...], ipc: int
) -> Runner:
  """A method of `METHODS`, or Alg. 4."""
  method = METHODS.get(name, METHODS['networks'])
  (config,) = cli.parse(arguments, DistillationConfig)
  config = dataclasses.replace(config, ipc=ipc, seed=_SEED.value)
  own: Config | None = None
  if method.config_class is not None:
    (own,) = cli.parse(arguments, method.config_class)
  fresh = config.num_networks == config.num_steps

  def run(num_steps: int, options: LoopOptions) -> Any:
    changed = config
    if num_steps:
      networks = num_steps if fresh else config.num_networks
      changed = dataclasses.replace(
        config, num_steps=num_steps, num_networks=networks
      )
    return method.run(
      *problem, config=changed, own=own, options=options, start=None
    )

  few = config.revisit or config.num_networks == 1
  over_fits = method is METHODS['networks'] and few
  steps = config.num_steps if method.learns else 0
  return Runner(method.title(config), run, steps, None if over_fits else 1)


def _adapting(
  name: str,
  arguments: Sequence[str],
  problem: tuple[Any, ...],
  ipc: int,
  start: Any,
) -> Runner:
  """The translator, and direct steps on the translated set after it."""
  network, train, transform = problem
  (config,) = cli.parse(arguments, AdaptationConfig)
  config = dataclasses.replace(config, adapt_ipcs=(ipc,), seed=_SEED.value)
  pool, title = config.network_pool, method_name(start, config)
  title += f', {pool} networks' if pool else ', fresh networks'
  direct = name == 'adapt_then_pool'

  def run(num_steps: int, options: LoopOptions) -> None:
    own = dataclasses.replace(config, num_adaptation_steps=num_steps)
    networks = None
    if direct:
      networks = adaptation_samples.pool_networks(
        network, train, transform, own
      )
    result = adaptation.adapt(
      network,
      start,
      train,
      transform,
      config=own,
      options=options,
      networks=networks,
    )
    if direct:
      _direct_steps(result, problem, own, ipc, options, networks)

  if direct:
    title += f', then {_DIRECT_STEPS.value} steps of Pool({pool})'
  return Runner(title, run, config.num_adaptation_steps, max(1, pool))


def _direct_steps(
  result: adaptation.AdaptationResult,
  problem: tuple[Any, ...],
  config: AdaptationConfig,
  ipc: int,
  options: LoopOptions,
  networks: Any,
) -> None:
  translated = adaptation.distill_dataset(
    result.pretrained,
    *problem[1:],
    ipc=ipc,
    config=config,
    in_theta=result.distilled_in_theta[ipc],
  )
  steps = _DIRECT_STEPS.value
  direct = dataclasses.replace(
    config.distillation(ipc),
    num_steps=steps,
    num_networks=min(config.network_pool, steps),
    revisit=True,
  )
  baselines.distill_over_networks(
    *problem,
    config=direct,
    options=options,
    start=translated,
    networks=networks,
  )


def _runner(
  text: str, problem: tuple[Any, ...], ipc: int, start: Any
) -> Runner:
  """The method that an entry of --methods asks for."""
  name, *changes = text.split()
  file = 'adapt' if name == 'adapt_then_pool' else name
  path = files.resolve(_RECIPES.value) / f'{_SCALE.value}_{file}.flags'
  arguments = [*changes]
  if path.exists():
    arguments.insert(0, f'--flagfile={path}')
  elif METHODS.get(name) is None or METHODS[name].learns:
    raise ValueError(f'No flagfile {path} of the method {name!r}.')
  if file == 'adapt':
    return _adapting(name, arguments, problem, ipc, start)
  return _distilling(name, arguments, problem, ipc)


def _curve(
  runner: Runner, translated: Any
) -> tuple[list[curves.Snapshot], int]:
  """Runs a method, as long as --seconds says; its snapshots and steps."""
  steps = runner.num_steps
  if _SECONDS.value and steps and runner.unlike_later is not None:
    steps = curves.steps_within(
      runner.run,
      _SECONDS.value,
      least=runner.unlike_later + 8,
      translate_fn=translated,
    )
  snapshots = curves.record(
    functools.partial(runner.run, steps),
    every=max(1, steps // _POINTS.value),
    translate_fn=translated,
  )
  return snapshots, steps


def main(_: list[str]) -> None:
  """Runs, scores and draws each method at each IPC."""
  data = cli.from_flags(DataConfig)
  found = cli.adaptation_problem(_TRANSLATOR.value, seed=_SEED.value)
  start, network, train = found.start, found.network, found.dataset
  problem = network, train, found.normalization
  held = resolution.repeat_channels(
    cli.load_dataset(data, _SPLIT.value), train.images.shape[-1]
  )

  @jax.jit
  def translated(params: Any, labeled: LabeledSet) -> LabeledSet:
    labeled = resolution.upsample(labeled, train.images.shape[1:])
    return translate(
      start.translator, {'params': params}, labeled, start.maps_of
    )

  workdir = files.resolve(_WORKDIR.value)
  tables = []
  for ipc in cli.integers('ipcs'):
    points, steps = {}, {}
    for text in _METHODS.value:
      runner = _runner(text, problem, ipc, start)
      # A variant of a method may have its name.
      title = text if runner.title in points else runner.title
      snapshots, steps[title] = _curve(runner, translated)
      points[title] = curves.score(
        jax.random.key(1000),
        snapshots,
        held,
        found.normalization,
        network,
        repeats=_REPEATS.value,
        split=_SPLIT.value,
        protocol=_PROTOCOL.value,
      )
      _write(workdir, points, steps, f'{data.dataset}, IPC {ipc}', ipc)
    tables.append(_table(points, steps, f'{data.dataset}, IPC {ipc}'))
  for table in tables:
    print(report.to_markdown(table))
  print(f'Wrote compare_ipc*.json, .png and .csv to {workdir}.')


def _write(
  workdir: pathlib.Path,
  points: Mapping[str, Sequence[curves.Point]],
  steps: Mapping[str, int],
  title: str,
  ipc: int,
) -> None:
  """Writes points, picture and table of the methods that are done."""
  found = {name: list(map(dataclasses.asdict, p)) for name, p in points.items()}
  text = json.dumps({'title': title, 'steps': steps, 'curves': found}, indent=2)
  path = workdir / f'compare_ipc{ipc}.json'
  files.write_bytes_atomic(path, text.encode() + b'\n')
  picture = curves.draw(points, title=title, ylabel=_label())
  files.write_bytes_atomic(
    path.with_suffix('.png'), pictures.figure_png(picture)
  )
  table = report.to_csv(_table(points, steps, title))
  files.write_bytes_atomic(path.with_suffix('.csv'), table.encode())


def _label() -> str:
  return f'{_SPLIT.value} accuracy by {_PROTOCOL.value} in unseen networks, %'


def _table(
  points: Mapping[str, Sequence[curves.Point]],
  steps: Mapping[str, int],
  title: str,
) -> report.Table:
  """The end of each curve, and when it reached that of Baseline."""
  goal = points['Baseline'][-1].mean if 'Baseline' in points else None
  rows = []
  for name, curve in points.items():
    end = curve[-1]
    spread = '' if end.std is None else f' ± {end.std:.2f}'
    numbers = f'{end.mean:.2f}{spread}', str(steps[name]), f'{end.seconds:.1f}'
    seconds = None if goal is None else curves.seconds_to_reach(curve, goal)
    reached = '' if seconds is None else f'{seconds:.1f}'
    rows.append([name, *numbers, reached])
  caption = (
    f'{_label()}: mean ± std (ddof=1) over n={end.n} fresh networks, one set. '
    "Seconds without compilation, and those until Baseline's accuracy."
  )
  columns = ['method', 'accuracy', 'steps', 'seconds', "to Baseline's"]
  return report.Table(title, columns, rows, caption)


if __name__ == '__main__':
  cli.define_flags(*CONFIGS, **DEFAULTS)
  cli.run(main)
