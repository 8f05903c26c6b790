"""Distils many random subsets of a large set in one network (Alg. 1).

Run the same command again after a kill, and in as many processes as wanted
with --process_index and --process_count: each writes only missing files.

  python experiments/cache.py --dataset=tiny_imagenet_32 --width=32 \
      --max_images=1000 --max_synthetic=100 --num_steps=100 --folder=runs/cache
  python experiments/cache.py --folder=runs/cache --inspect
"""

import itertools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fsdd_jax.algorithms import caching
from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data.normalization import Normalization, denormalize
from fsdd_jax.data.target import TargetSet
from fsdd_jax.reporting import pictures
from fsdd_jax.runtime import files
from fsdd_jax.storage.cache import summary as cache_summary
from fsdd_jax.storage.cache.records import CacheEntry
from workbench import config_flags, launching, problems

_FOLDER = flags.DEFINE_string('folder', None, 'The cache.', required=True)
_INSPECT = flags.DEFINE_bool(
  'inspect', False, 'Tell what the folder holds, and write its inspection.png.'
)
_PROCESS_INDEX = flags.DEFINE_integer(
  'process_index',
  None,
  'Number of this process, from 0, of those that share the work without '
  'knowing of each other.',
)
_PROCESS_COUNT = flags.DEFINE_integer(
  'process_count', None, 'How many these are.'
)

CONFIGS = (DataConfig, NetworkConfig, CachingConfig)
DEFAULTS = {'dataset': 'fractals'}
_SHOWN = 8  # Subsets in the picture, and images of each.


def main(_: list[str]) -> None:
  """Parses flags, then builds a cache or inspects one."""
  if _INSPECT.value:
    return inspect(files.resolve(_FOLDER.value))
  data = config_flags.read(DataConfig)
  config = config_flags.read(CachingConfig)
  train = problems.load_dataset(data, 'train')
  network = problems.make_network(
    config_flags.read(NetworkConfig), train.images.shape[1:], train.num_classes
  )
  start = time.perf_counter()
  caching.build_cache(
    network,
    TargetSet(train, problems.fit_normalization(data, train)),
    config=config,
    folder=files.resolve(_FOLDER.value),
    dataset_name=data.dataset,
    process_index=_or_else(_PROCESS_INDEX.value, jax.process_index()),
    process_count=_or_else(_PROCESS_COUNT.value, jax.process_count()),
  )
  seconds = time.perf_counter() - start
  print(
    f'Cache in {_FOLDER.value}; this run took {seconds:.1f} s, compilation '
    'included.'
  )
  print(f'Look at it: python {__file__} --folder={_FOLDER.value} --inspect')


def _or_else(value: int | None, default: int) -> int:
  return default if value is None else value


def inspect(folder: pathlib.Path) -> None:
  """Prints counts, losses and damage; draws X_S of a few subsets."""
  summary = cache_summary.summarize(folder)
  print(cache_summary.to_text(summary))
  entries = itertools.islice(
    cache_summary.intact_entries(folder, summary), _SHOWN
  )
  rows = [_row(number, entry) for number, entry in entries]
  if rows:
    fitted = summary.manifest.normalization
    transform = Normalization(
      jnp.asarray(fitted['mean']), jnp.asarray(fitted['std'])
    )
    images = denormalize(jnp.concatenate([row[0] for row in rows]), transform)
    titles = [title for row in rows for title in row[1]]
    grid = pictures.image_grid(
      np.asarray(images), columns=_SHOWN, titles=titles, min_tile=96
    )
    path = folder / 'inspection.png'
    files.write_bytes_atomic(path, pictures.png_bytes(grid))
    print(f'Wrote {path}: a subset a row, one image a class.')
    if fitted.get('zca_sha256'):
      print('The images are whitened, and drawn so: a cache has no matrix.')
  if summary.damaged:
    raise ValueError(f'{len(summary.damaged)} files are damaged, see above.')


def _row(number: int, entry: CacheEntry) -> tuple[np.ndarray, list[str]]:
  """One image of each of the first classes, zeros behind, and a title."""
  first = np.asarray(entry.synthetic.images)[:: int(entry.ipc)]
  first = first[: min(_SHOWN, int(entry.num_classes))]
  images = np.zeros((_SHOWN, *first.shape[1:]), np.float32)
  images[: len(first)] = first
  title = f'{number}: C={entry.num_classes}, I={entry.ipc}'
  return images, [title, *[''] * (_SHOWN - 1)]


if __name__ == '__main__':
  config_flags.define(*CONFIGS, **DEFAULTS)
  launching.run_in_processes(main)
