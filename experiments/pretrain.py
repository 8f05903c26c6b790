"""Pre-trains a translator on a cache of distilled subsets (Alg. 2).

Give the data and the network of the cache. The column `w AE` is
--objective=reconstruction --head_scale=1.

  python experiments/pretrain.py --cache=runs/cache --dataset=tiny_imagenet_32 \
      --width=32 --workdir=runs/pretrain
"""

import dataclasses
import math
import pathlib
import time

from absl import flags

from fsdd_jax import zoo
from fsdd_jax.algorithms import pretraining
from fsdd_jax.algorithms.configs import (
  DataConfig,
  NetworkConfig,
  TranslatorConfig,
)
from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import files, processes
from fsdd_jax.runtime.loop import LoopOptions, with_clock
from fsdd_jax.storage import translators
from fsdd_jax.storage.cache import manifest as cache_manifest
from fsdd_jax.storage.cache import shards, summary
from workbench import config_flags, launching, problems

_CACHE = flags.DEFINE_string(
  'cache', None, 'Folder of experiments/cache.py.', required=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the translator, logs and checkpoints; a killed run resumes in it.',
  required=True,
)

_START = flags.DEFINE_string(
  'start',
  None,
  'A translator to go on from, a file or a shipped one; random weights if not '
  'given.',
)

_AVAILABLE = flags.DEFINE_bool(
  'available',
  False,
  'Learn from the first subsets that are there, if the cache is not complete.',
)
_MAX_SECONDS = flags.DEFINE_float(
  'max_seconds',
  None,
  'Seconds from the start of this run after which pre-training ends with the '
  'best translator so far.',
  lower_bound=0,
)

CONFIGS = (DataConfig, NetworkConfig, TranslatorConfig, PretrainingConfig)
DEFAULTS = {'dataset': 'fractals'}


def _opened(
  folder: pathlib.Path, workdir: pathlib.Path, config: PretrainingConfig
) -> tuple[shards.CacheSource, PretrainingConfig]:
  """The cache, and the config with the number of subsets to learn from."""
  manifest = cache_manifest.read_manifest(folder)
  held = manifest.num_heldout
  path = workdir / 'config.json'
  began = files.read_json(path) if path.exists() else {}
  takes_available = _AVAILABLE.value and not config.num_subsets
  if takes_available and 'num_subsets' in began:
    # A run goes on with the subsets that it began with, also if there are more.
    config = dataclasses.replace(config, num_subsets=began['num_subsets'])
  elif takes_available:
    found = summary.count_available(folder)
    if found <= held:
      raise ValueError(
        f'{folder} has {found} subsets yet, of which {held} are held out; let '
        'the caching stage make more.'
      )
    if found < manifest.num_subsets:
      config = dataclasses.replace(config, num_subsets=found - held)
  count = held + config.num_subsets if config.num_subsets else None
  return shards.open_cache(folder, num_subsets=count), config


def main(_: list[str]) -> None:
  """Parses flags, pre-trains and writes omega_0."""
  began = time.monotonic()
  data = config_flags.read(DataConfig)
  workdir = files.resolve(_WORKDIR.value)
  source, config = _opened(
    files.resolve(_CACHE.value), workdir, config_flags.read(PretrainingConfig)
  )
  most = math.inf if _MAX_SECONDS.value is None else _MAX_SECONDS.value
  train = problems.load_dataset(data, 'train')
  network = problems.make_network(
    config_flags.read(NetworkConfig), train.images.shape[1:], train.num_classes
  )
  translator = problems.make_translator(config_flags.read(TranslatorConfig))
  start = zoo.load_translator(_START.value).variables if _START.value else None
  options, clock = with_clock(
    LoopOptions(workdir, config.checkpoint_every, config.log_every)
  )
  with clock.part('pre-training'):
    result = pretraining.pretrain(
      network,
      translator,
      source,
      TargetSet(train, problems.fit_normalization(data, train)),
      config=config,
      options=options,
      start=start,
      ends=lambda: time.monotonic() - began > most,
    )
  if not processes.is_first_process():
    return
  seconds = sum(clock.seconds().values())
  path = workdir / 'translator.safetensors'
  translators.save_translator(path, result)
  record = result.record
  print(
    f'{record["num_steps"]} steps in {seconds:.1f} s with compilation, ended '
    f'by the {record["ended_by"]}.\n'
    f'Held-out loss: {record["untranslated_loss"]:.4f} untranslated, '
    f'{record["best_heldout_loss"]:.4f} translated (best), '
    f'{record["heldout_losses"][-1]:.4f} (last).'
  )
  print(
    f'Translating an image takes {translators.relative_cost(result):.2g} times '
    'the operations of its pass through theta.'
  )
  print(f'Wrote {path}.')


if __name__ == '__main__':
  config_flags.define(*CONFIGS, **DEFAULTS)
  launching.run_in_processes(main)
