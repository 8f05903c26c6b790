"""A first look, without any download: the shipped translator, on digits.

Adapts the translator once, to handwritten digits in four networks. What comes
out at several numbers of images a class (IPC) stands beside what each set is
like without it.

  python experiments/quickstart.py
"""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

import fsdd_jax as fsdd
from fsdd_jax.reporting import console, pictures, tables
from fsdd_jax.runtime import files
from workbench import first_look, launching
from workbench.first_look import BOTH, POOL, W_ADA

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder of the results.'
)
_STEPS = flags.DEFINE_integer(
  'num_steps', 100, 'Most updates of a stage.', lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Fresh networks a score.', lower_bound=1
)

_TRANSLATOR = 'tiny_imagenet_32'
_IPCS = (1, 2, 5)
_SEEN_IPCS = (1, 5)
_NETWORKS = 4


class Sets(NamedTuple):
  """The sets of a row by IPC.

  Attributes:
    by_ipc: the sets.
    seconds: that all of them took together.
    each: seconds of one of them, once what they share is there.
  """

  by_ipc: dict[int, fsdd.LabeledSet]
  seconds: float = 0.0
  each: float = 0.0


class Problem(NamedTuple):
  """Digits as the translator knows images, and its network."""

  omega: fsdd.ThetaTranslator
  target: fsdd.TargetSet
  test: fsdd.Dataset


def _pool() -> int:
  """The number of networks, each of which takes a step at least."""
  return min(_NETWORKS, _STEPS.value)


def _title(row: str) -> str:
  return first_look.title(row, _pool())


def _problem() -> Problem:
  omega = fsdd.load_translator(_TRANSLATOR)
  size, _, channels = omega.theta.image_shape
  train, test = (
    fsdd.repeat_channels(
      fsdd.load_dataset('digits', split=split, image_size=size), channels
    )
    for split in ('train', 'test')
  )
  target = fsdd.TargetSet(train, fsdd.standardization(train.images))
  return Problem(omega, target, test)


def _translated_rows(problem: Problem) -> dict[str, Sets]:
  """1 Net, and what the translator makes of it, before and after adaptation."""
  omega, target, _ = problem
  network, steps = omega.theta.network, _STEPS.value
  settings = fsdd.settings_of(omega)
  settings['num_steps'] = min(settings['num_steps'], steps)
  config = fsdd.AdaptationConfig(
    **settings, adapt_ipcs=_IPCS, num_adaptation_steps=0
  )
  begin = time.perf_counter()
  in_theta = fsdd.adapt(
    network, omega, target, config=config
  ).distilled_in_theta
  one_net = time.perf_counter() - begin
  rows = {'1 Net': Sets(in_theta, one_net, one_net / len(_IPCS))}
  adaptation = dataclasses.replace(
    config,
    adapt_ipcs=_SEEN_IPCS,
    num_adaptation_steps=steps,
    batch_size=1,
    adaptation_learning_rate=1e-3,
    thinned=0.5,  # For the IPC that is not seen.
    network_pool=_pool(),
  )
  for name, own in (('w/o Ada', config), (W_ADA, adaptation)):
    begin = time.perf_counter()
    seen = {ipc: in_theta[ipc] for ipc in own.adapt_ipcs}
    adapted = fsdd.adapt(network, omega, target, config=own, in_theta=seen)
    once = time.perf_counter() - begin
    found = {
      ipc: fsdd.distill_dataset(
        adapted.translator, target, ipc=ipc, config=own, in_theta=labeled
      )
      for ipc, labeled in in_theta.items()
    }
    each = one_net + time.perf_counter() - begin - once
    rows[name] = Sets(found, once + each, each / len(_IPCS))
  return rows


def _pool_row(problem: Problem, start: Sets | None = None) -> Sets:
  """Alg. 4 in the same number of networks, from real images or given ones."""
  network, steps = problem.omega.theta.network, _STEPS.value
  begin, found = time.perf_counter(), {}
  for ipc in _IPCS:
    config = fsdd.DistillationConfig(
      ipc=ipc, num_steps=steps, num_networks=_pool(), revisit=True
    )
    found[ipc] = fsdd.distill_over_networks(
      network,
      problem.target,
      config=config,
      start=start and start.by_ipc[ipc],
    ).synthetic
  seconds = time.perf_counter() - begin
  earlier = start or Sets({})
  each = seconds / len(_IPCS) + earlier.each
  return Sets(found, seconds + earlier.seconds, each)


def _scores(problem: Problem, row: Sets) -> dict[int, fsdd.Score]:
  return {
    ipc: fsdd.evaluate(
      jax.random.key(1000),
      labeled,
      problem.test,
      problem.target.normalization,
      problem.omega.theta.network,
      repeats=_REPEATS.value,
    )
    for ipc, labeled in row.by_ipc.items()
  }


def _reading(
  rows: dict[str, Sets], scores: dict[str, dict[int, fsdd.Score]]
) -> str:
  """The table in words: who wins, what the translator adds, what it is for."""
  lines = []
  for ipc in _IPCS:
    best = max(scores, key=lambda name: scores[name][ipc].mean)
    gain = scores[W_ADA][ipc].mean - scores['1 Net'][ipc].mean
    seen = 'seen' if ipc in _SEEN_IPCS else 'not seen'
    lines.append(
      f'IPC {ipc} ({seen} by the adaptation): {_title(best)} has the highest '
      f'mean, {scores[best][ipc]}; the adapted translator changes 1 Net by '
      f'{gain:+.1f} points.'
    )
  lines.append(
    'What the translator is for: it is adapted once, and then serves any IPC. '
    f'One more\nIPC takes {rows[W_ADA].each:.0f} s, and '
    f'{rows[POOL].each:.0f} s in a pool of as many networks. For one set '
    'take a\npool of many networks, or fresh ones (distill.py).'
  )
  return '\n'.join(lines) + '\n'


def _save(workdir: pathlib.Path, problem: Problem, row: Sets) -> None:
  """Writes the sets of the adapted translator as evaluate.py reads them."""
  network: Any = problem.omega.theta.network  # A ConvNet.
  size = problem.target.image_shape[0]
  for ipc, labeled in row.by_ipc.items():
    metadata = fsdd.Metadata(
      dataset='digits',
      class_names=problem.test.class_names,
      label_coding='learned',
      ipc=ipc,
      network={
        'network': 'convnet',
        'width': network.width,
        'width_multiplier': network.width_multiplier,
        'norm': network.norm,
      },
      recipe={
        'method': _title(W_ADA),
        'translator': _TRANSLATOR,
        'data': {'dataset': 'digits', 'image_size': size},
      },
      seeds={'theta': problem.omega.theta.seed, 'distillation': 0},
    )
    fsdd.save_distilled(
      workdir / f'distilled_ipc{ipc}.safetensors',
      fsdd.DistilledSet(
        np.asarray(labeled.images),
        np.asarray(labeled.labels),
        problem.target.normalization,
        metadata,
      ),
    )


def main(_: list[str]) -> None:
  """Makes, scores, saves and reports each row."""
  workdir = files.resolve(_WORKDIR.value)
  files.check_writable(workdir / 'report.html')
  print(first_look.plan(_pool()))
  problem = _problem()
  target = problem.target
  key = jax.random.key(0)
  real = {ipc: target.random_real(key, ipc=ipc) for ipc in _IPCS}
  rows = {
    'random real': Sets(real),
    **_translated_rows(problem),
    POOL: _pool_row(problem),
  }
  rows[BOTH] = _pool_row(problem, rows[W_ADA])
  scores = {name: _scores(problem, row) for name, row in rows.items()}
  _save(workdir, problem, rows[W_ADA])
  _report(workdir, problem, rows, scores)


def _report(
  workdir: pathlib.Path,
  problem: Problem,
  rows: dict[str, Sets],
  scores: dict[str, dict[int, fsdd.Score]],
) -> None:
  """Prints the table and its reading, and writes the page with pictures."""
  caption = (
    'Test accuracy in percent by krr: mean ± std (ddof=1) over '
    f'n={_REPEATS.value} fresh networks. Seconds, with compilation, make the '
    'sets of all three IPCs, and each further one. The translator was '
    'pre-trained before (its card: 93 minutes on one core).'
  )
  cells = [
    [
      _title(name),
      *(str(found[ipc]).partition(' (')[0] for ipc in _IPCS),
      f'{rows[name].seconds:.0f}',
      f'{rows[name].each:.0f}',
    ]
    for name, found in scores.items()
  ]
  columns = ['set', *(f'IPC {ipc}' for ipc in _IPCS), 'seconds', 'each']
  table = tables.Table('Digits', columns, cells, caption)
  reading = _reading(rows, scores)
  meanings = first_look.meanings(_pool(), _SEEN_IPCS)
  explained = tables.Table(
    'The rows', ['set', 'what it is'], list(meanings.items()), reading
  )
  normalization = problem.target.normalization
  shown = []
  for name, row in rows.items():
    pixels = fsdd.denormalize(row.by_ipc[1].images, normalization)
    figure = pictures.class_grid(
      np.asarray(pixels), problem.test.class_names, ipc=1
    )
    shown.append((f'{_title(name)}, IPC 1', pictures.figure_png(figure)))
  tables.write_report(
    workdir / 'report.html',
    title='fsdd_jax: a first look',
    tables=[table, explained],
    pictures=shown,
    settings={
      'translator': _TRANSLATOR,
      'network': scores['1 Net'][_IPCS[0]].network,
    },
  )
  console.show(table)
  for name, meaning in meanings.items():
    print(f'{name}: {meaning}')
  print(f'\n{reading}')
  print(f'Wrote {workdir}/report.html with a picture of each set.')
  saved = workdir / f'distilled_ipc{_IPCS[0]}.safetensors'
  print(f'Score a set: python experiments/evaluate.py {saved}')


if __name__ == '__main__':
  launching.run(main)
