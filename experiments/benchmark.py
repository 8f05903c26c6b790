r"""Speed as ratios to a yardstick in the same process.

  python experiments/benchmark.py step --num_real=1000,50000 --ipc=10
  python experiments/benchmark.py adapt --width=32 --ipc=10 --batch_size=2
  python experiments/benchmark.py cache \
      --flagfile=experiments/recipes/cpu_cache.flags
  python experiments/benchmark.py pretrain \
      --flagfile=experiments/recipes/cpu_cache.flags
  python experiments/benchmark.py bilevel --width=32 --ipc=1 --num_real=400
  XLA_FLAGS=--xla_force_host_platform_device_count=8 \
      python experiments/benchmark.py scaling --width=32

`step`: one distillation step in a fixed network by statistics, over the forward
and backward pass of the distilled images alone. `adapt`: one adaptation step in
a pool of networks, over these passes through translator and networks. `cache`:
four subsets by a feature bank, over X_T passing theta. `pretrain`: an update by
banks, over X_T passing fresh networks. `side_by_side`: subsets a second,
distilled side by side, over one after another. `bilevel`:
memory of the gradient through unrolled steps, kept or computed again.
`frepo`: a step of FRePo over forward and backward of X_S and forward of a real
batch. `kernel`: pairs of images a second in infinitely wide networks.
`torch`: a step of 1 Net, a statistics pass and a training step over those of
plain PyTorch (`pip install torch`) on the same CPU.
`scaling`: operations and communication of a device, by the compiled programs.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import against_torch as torch_benchmark
from benchmarks import banks as bank_benchmark
from benchmarks import caching as caching_benchmark
from benchmarks import scaling as scaling_lib
from benchmarks import timing, yardsticks
from benchmarks.programs import Problem
from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import (
  BilevelConfig,
  CachingConfig,
  PretrainingConfig,
  TranslatorConfig,
)
from fsdd_jax.networks import extractors, infinite
from fsdd_jax.reporting import tables
from fsdd_jax.runtime import parallel
from fsdd_jax.runtime.devices import Devices
from workbench import config_flags, launching, problems

_IPC = flags.DEFINE_integer('ipc', 10, 'Images per class, of 10 classes.')
_IPCS = flags.DEFINE_list('ipcs', ['1', '10', '50'], 'The same (torch).')
_NUM_REAL = flags.DEFINE_list(
  'num_real',
  ['1000', '50000'],
  'Sizes of the target set (step, bilevel; scaling takes the last) or of the '
  'batch (frepo).',
)
_CLASSES = flags.DEFINE_integer(
  'num_classes', 10, 'Classes of the target set (scaling).'
)
_UNROLLED = flags.DEFINE_list(
  'unrolled', ['5', '20', '50'], 'Numbers of unrolled steps (bilevel).'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 2, "Sets a step, B (adapt), or a device's (scaling)."
)
_REPEATS = flags.DEFINE_integer(
  'repeats', None, 'Timed pairs; by default 15, 5 of banks, 1 of side_by_side.'
)

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig, CachingConfig)
DEFAULTS = {
  'dataset': 'fractals:20',
  'image_size': 32,
  'num_subsets': 16,
  'min_classes': 5,
  'max_classes': 20,
  'max_images': 500,
  'max_synthetic': 100,
  'num_steps': 20,
}


def _row(name: str, pairs: yardsticks.Pairs) -> list[str]:
  values = pairs.measured, pairs.yardstick, pairs.ratios
  return [name, *map(timing.quartiles, values)]


def _size() -> tuple[int, int]:
  return flags.FLAGS.image_size, _REPEATS.value or 15


def step() -> tables.Table:
  """A step by statistics against the forward and backward of X_S alone."""
  size, repeats = _size()
  network = problems.make_network(
    config_flags.read(NetworkConfig), (size, size, 3), 10
  )
  rows = []
  for num_real in config_flags.integers('num_real'):
    pairs = yardsticks.distillation_step(
      network,
      num_real=num_real,
      ipc=_IPC.value,
      image_size=size,
      repeats=repeats,
    )
    rows.append(_row(str(num_real), pairs))
  return tables.Table(
    'One distillation step over forward and backward of its images',
    ['target images', 'step s', 'forward + backward s', 'ratio'],
    rows,
    f'{10 * _IPC.value} images of {size} x {size}; median [quartiles] of '
    f'{repeats} pairs; {timing.conditions()}',
  )


def adapt() -> tables.Table:
  """A step of adaptation against passes of translator and networks."""
  size, repeats = _size()
  network = problems.make_network(
    config_flags.read(NetworkConfig), (size, size, 3), 10
  )
  fields = config_flags.read(TranslatorConfig)
  pairs = yardsticks.adaptation_step(
    network,
    problems.make_translator(fields),
    batch_size=_BATCH_SIZE.value,
    ipc=_IPC.value,
    image_size=size,
    repeats=repeats,
  )
  return tables.Table(
    'One adaptation step over forward and backward of translator and networks',
    ['sets', 'step s', 'forward + backward s', 'ratio'],
    [_row(str(_BATCH_SIZE.value), pairs)],
    f'{10 * _IPC.value} images of {size} x {size} a set; median [quartiles] of '
    f'{repeats} pairs; {timing.conditions()}',
  )


def frepo() -> tables.Table:
  """A step of FRePo against the passes that it cannot do without."""
  size, repeats = _size()
  network = problems.make_network(
    config_flags.read(NetworkConfig), (size, size, 3), 10
  )
  rows = []
  for real_batch in config_flags.integers('num_real'):
    for mirror in (False, True):
      pairs = yardsticks.frepo_step(
        network,
        real_batch=real_batch,
        ipc=_IPC.value,
        image_size=size,
        repeats=repeats,
        mirror=mirror,
      )
      name = f'{real_batch}{" and mirror images" if mirror else ""}'
      rows.append(_row(name, pairs))
  return tables.Table(
    'One step of FRePo over forward and backward of X_S and forward of a batch',
    ['real images', 'step s', 'passes s', 'ratio'],
    rows,
    f'{10 * _IPC.value} images of {size} x {size}; median [quartiles] of '
    f'{repeats} pairs; {timing.conditions()}',
  )


def against_torch() -> tables.Table:
  """Ours over plain PyTorch, at each IPC of --ipcs."""
  size, repeats = _size()
  config = config_flags.read(NetworkConfig)
  network = problems.make_network(config, (size, size, 3), 10)
  if not isinstance(network, extractors.ConvNet):
    raise ValueError(
      f'--network={config.network}: only convnet is written twice.'
    )
  found = torch_benchmark.compare(
    network,
    ipcs=config_flags.integers('ipcs'),
    num_real=config_flags.integers('num_real')[0],
    image_size=size,
    repeats=repeats,
  )
  torch = torch_benchmark.import_torch()
  return tables.Table(
    'Ours over plain PyTorch',
    ['', 'ours s', 'PyTorch s', 'ratio'],
    [_row(name, pairs) for name, pairs in found.items()],
    f'{extractors.describe(network)}, {size} x {size}; median [quartiles] of '
    f'{repeats} pairs in turn; PyTorch {torch.__version__} with '
    f'{torch.get_num_threads()} threads, {timing.conditions()}',
  )


def kernel() -> tables.Table:
  """Pairs of images a second of each kernel."""
  size, repeats = _size()
  config = dataclasses.replace(config_flags.read(NetworkConfig), norm='none')
  network = problems.make_network(config, (size, size, 3), 10)
  count = config_flags.integers('num_real')[-1]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, size, size, 3)).astype(np.float32)
  rows = []
  for kind in infinite.KINDS:
    for float64 in (False, True):
      call = functools.partial(
        infinite.gram, network, kind, x, x[: 10 * _IPC.value], float64=float64
      )
      seconds = timing.in_turn({'gram': call}, repeats=repeats)['gram']
      pairs = count * 10 * _IPC.value / np.array(seconds)
      dtype = 'float64' if float64 else 'float32'
      rows.append(
        [kind, dtype, timing.quartiles(seconds), timing.quartiles(pairs)]
      )
  return tables.Table(
    f'A kernel between {count} and {10 * _IPC.value} images',
    ['kernel', 'type', 'seconds', 'pairs a second'],
    rows,
    f'{extractors.describe(network)} at infinite width, {size} x {size}; '
    f'median [quartiles] of {repeats} calls; {timing.conditions()}',
  )


def side_by_side() -> tables.Table:
  """Subsets a second side by side, against one after another unpadded."""
  # What both sides compile is measured, so nothing may come from disk.
  jax.config.update('jax_enable_compilation_cache', False)
  data, config = config_flags.read(DataConfig), config_flags.read(CachingConfig)
  train = problems.load_dataset(data, 'train')
  result = caching_benchmark.compare(
    problems.make_network(
      config_flags.read(NetworkConfig),
      train.images.shape[1:],
      train.num_classes,
    ),
    train,
    problems.fit_normalization(data, train),
    config=config,
    repeats=_REPEATS.value or 1,
  )
  rows = [
    [
      'first' if number == 1 else str(number),
      *(f'{config.num_subsets / s:.3g}' for s in (p.batched, p.loop)),
      f'{p.loop / p.batched:.3g}',
      *(f'{s:.1f}' for s in (p.batched_compilation, p.loop_compilation)),
    ]
    for number, p in enumerate(result.passes, 1)
  ]
  return tables.Table(
    f'Caching {config.subsets_per_batch} subsets side by side over a loop',
    ['pass', 'subsets/s', 'of the loop', 'ratio', 'compiling s', 'of the loop'],
    rows,
    f'{config.num_subsets} subsets of {data.dataset}, {config.num_steps} '
    f'steps, {result.num_shapes} pairs (C, I). Padding: '
    f'{result.padded_synthetic:.0%} of distilled rows. Losses differ by at '
    f'most {result.difference:.1e} (relative). {timing.conditions()}',
  )


def cache() -> tables.Table:
  """Four subsets by a feature bank, against X_T passing theta."""

  def pairs(problem: tuple, config: CachingConfig, folder: pathlib.Path) -> Any:
    return bank_benchmark.caching_pairs(
      *problem, config=config, bank_root=folder, repeats=_REPEATS.value or 5
    )

  return _banks('Four subsets', pairs)


def pretrain() -> tables.Table:
  """An update of pre-training by banks, against X_T passing networks."""
  translator = problems.make_translator(config_flags.read(TranslatorConfig))

  def pairs(problem: tuple, config: CachingConfig, folder: pathlib.Path) -> Any:
    network, *data = problem
    return bank_benchmark.pretraining_pairs(
      network,
      translator,
      *data,
      caching_config=dataclasses.replace(config, num_subsets=8, num_steps=1),
      config=PretrainingConfig(
        batch_size=_BATCH_SIZE.value,
        bank_images=100 if config.max_images else 0,
      ),
      folder=folder,
      repeats=_REPEATS.value or 5,
    )

  return _banks('An update of pre-training', pairs)


def _banks(title: str, pairs_of: Callable[..., Any]) -> tables.Table:
  """A row for the M of the flags, and one for all images of the classes."""
  data, config = config_flags.read(DataConfig), config_flags.read(CachingConfig)
  train = problems.load_dataset(data, 'train')
  network = problems.make_network(
    config_flags.read(NetworkConfig), train.images.shape[1:], train.num_classes
  )
  problem = network, train, problems.fit_normalization(data, train)
  rows = []
  for max_images in (config.max_images, 0):
    own = dataclasses.replace(
      config, max_images=max_images, augmentation='none'
    )
    with tempfile.TemporaryDirectory() as folder:
      pairs = pairs_of(problem, own, pathlib.Path(folder))
    rows.append(_row(str(max_images or 'all'), pairs))
  return tables.Table(
    f'{title} by feature banks, over X_T passing the network',
    ['target images M', 'by banks, s', 'by passing, s', 'ratio'],
    rows,
    f'{data.dataset}, {config.num_steps} steps a subset, B = '
    f'{_BATCH_SIZE.value}; median [quartiles] of {_REPEATS.value or 5} pairs; '
    f'{timing.conditions()}',
  )


def bilevel() -> tables.Table:
  """Peak memory of temporaries with steps kept, or computed again."""
  size = flags.FLAGS.image_size
  network = problems.make_network(
    config_flags.read(NetworkConfig), (size, size, 3), 10
  )
  rows = []
  for num_real in config_flags.integers('num_real'):
    for num_steps in config_flags.integers('unrolled'):
      kept, again = (
        yardsticks.unrolled_memory(
          network,
          BilevelConfig(num_steps=num_steps, remat=remat),
          num_real=num_real,
          ipc=_IPC.value,
          image_size=size,
        )
        for remat in (False, True)
      )
      megabytes = [f'{x / 2**20:.0f}' for x in (kept, again)]
      row = [str(num_real), str(num_steps), *megabytes, f'{kept / again:.1f}']
      rows.append(row)
  return tables.Table(
    'Temporary memory of the gradient of Bi-Level',
    ['target images', 'steps', 'kept, MiB', 'jax.checkpoint, MiB', 'ratio'],
    rows,
    f"{10 * _IPC.value} images of {size} x {size}; by XLA's analysis of the "
    f'compiled program; {timing.conditions()}',
  )


def scaling() -> tables.Table:
  """Operations and communication of each of 1, 2, 4, ... devices."""
  size, sets = flags.FLAGS.image_size, _BATCH_SIZE.value * jax.device_count()
  config, fields = (
    config_flags.read(CachingConfig),
    config_flags.read(TranslatorConfig),
  )
  num_real, classes = config_flags.integers('num_real')[-1], _CLASSES.value
  num_distilled = classes * _IPC.value
  network = problems.make_network(
    config_flags.read(NetworkConfig), (size, size, 3), classes
  )
  rows = []
  for power in range(jax.device_count().bit_length()):
    devices = Devices(parallel.data_mesh(2**power) if power else None)
    steps = scaling_lib.steps(
      Problem(network, (size, size, 3), classes, num_real),
      problems.make_translator(fields),
      devices,
      batch_size=sets,
      num_distilled=num_distilled,
      cached=(config.max_synthetic, config.max_images),
    )
    for name, cost in steps.items():
      sizes = cost.accessed, cost.held, cost.communicated
      numbers = (cost.flops / 1e9, *(size / 1e6 for size in sizes))
      formatted = [f'{number:.4g}' for number in numbers]
      rows.append([name, str(devices.count), *formatted, str(cost.collectives)])
  rows.sort(key=lambda row: row[0])
  return tables.Table(
    'A step of each stage on one of several devices',
    [
      *('step', 'devices', 'GFLOP', 'MB accessed', 'MB held', 'MB between'),
      'collectives',
    ],
    rows,
    f'{sets} sets a step over all devices, of {config.max_synthetic} images '
    f'against {config.max_images} (pre-training), or of {num_distilled} '
    f'against statistics of {num_real} images. By the compiled program; '
    f'{timing.conditions()}',
  )


BENCHMARKS = {
  'step': step,
  'frepo': frepo,
  'torch': against_torch,
  'kernel': kernel,
  'adapt': adapt,
  'cache': cache,
  'pretrain': pretrain,
  'side_by_side': side_by_side,
  'bilevel': bilevel,
  'scaling': scaling,
}


def main(arguments: list[str]) -> None:
  """Runs the benchmark that the first argument names."""
  print(tables.to_markdown(launching.chosen(arguments, BENCHMARKS)()))


if __name__ == '__main__':
  config_flags.define(*CONFIGS, **DEFAULTS)
  launching.run(main)
