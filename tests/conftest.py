"""Fixtures that several tests share: a tiny data set and network."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

# Compiling is most of the time of these tests, running almost none of it. Both
# are set before JAX reads them, and reach the programs that tests start.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # Programs compile in a third of the time. Later versions refuse the first.
  os.environ['XLA_FLAGS'] = ' '.join(
    [
      '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1',
      os.environ.get('XLA_FLAGS', ''),  # The last of a name counts.
    ]
  )
# Workers and the binaries they start compile the same small programs; with
# this, each is compiled once. Set before JAX reads it.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(tempfile.gettempdir()) / f'fsdd_jax_tests_{os.getuid()}'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
# Feature banks and decoded images of tests leave the user's own alone.
os.environ['FSDD_CACHE_DIR'] = tempfile.mkdtemp(prefix='fsdd_jax_cache_')

# Binaries find the workbench beside them; programs of tests find it by this.
os.environ['PYTHONPATH'] = os.pathsep.join(
  [
    str(pathlib.Path(__file__).parents[1] / 'experiments'),
    *filter(None, [os.environ.get('PYTHONPATH')]),
  ]
)

import hypothesis
import numpy as np
import pytest

from fsdd_jax.data import datasets, normalization
from fsdd_jax.networks import extractors
from fsdd_jax.runtime import compiler

# As commands do, so that those in this process write what those alone do.
compiler.spread_convolutions()

# A test that waits for the machine has not failed.
hypothesis.settings.register_profile('untimed', deadline=None)
hypothesis.settings.load_profile('untimed')


def pytest_collection_finish():
  """Has the collector of garbage pass over the libraries, and come less often.

  It took a twentieth of the time of these tests.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000)


@pytest.fixture(scope='session')
def tiny_dataset():
  """60 images of three classes that differ in color; uint8 `[60, 8, 8, 3]`."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(3), 20)
  base = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
  noise = rng.integers(-50, 50, (60, 8, 8, 3))
  images = np.clip(base[:, None, None] + noise, 0, 255).astype(np.uint8)
  return datasets.from_arrays(images, labels, ('red', 'green', 'blue'))


@pytest.fixture(scope='session')
def tiny_normalization(tiny_dataset):
  """Standardisation of `tiny_dataset`."""
  return normalization.standardization(tiny_dataset.images)


@pytest.fixture(scope='session')
def tiny_network():
  """A ConvNet of one block of four channels for `tiny_dataset`."""
  return extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4
  )
