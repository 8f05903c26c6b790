r"""Fits the labels of a distilled set, or of real images, in closed form.

The images stay. New labels are those of least squared error over random
networks; the less the old ones are worth there, the further they move.

  python experiments/relabel.py runs/herding/distilled.safetensors \
      --output=runs/herding/relabeled.safetensors

A set is a file, or a shipped one by its name, such as cifar10_ipc1.
"""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from fsdd_jax import zoo
from fsdd_jax.algorithms import finishing
from fsdd_jax.algorithms.adaptation_config import (
  AdaptationConfig,
  LabelConfig,
)
from fsdd_jax.algorithms.configs import DataConfig
from fsdd_jax.data import datasets
from fsdd_jax.data.target import TargetSet
from fsdd_jax.options import SEEDS
from fsdd_jax.runtime import files, metrics
from fsdd_jax.runtime.versions import library_versions
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import LABEL_CODINGS, LabeledSet, labeled_set
from workbench import config_flags, described, launching, results

_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'Safetensors file to write, a picture beside it.',
  required=True,
)
_SEED = flags.DEFINE_integer(
  'seed',
  0,
  'Seed of networks and real images.',
  lower_bound=0,
  upper_bound=SEEDS - 1,
)


def main(arguments: list[str]) -> None:
  """Loads the set named on the command line, fits its labels and writes it."""
  path, output = arguments[1], files.resolve(_OUTPUT.value)
  _check_output(path, output)
  if not flags.FLAGS.label_networks:
    raise ValueError('--label_networks=0 fits nothing; give 1 or more.')
  labels = config_flags.read(LabelConfig)
  distilled = zoo.load_distilled(path)
  data = described.data_config(path, distilled)
  train = described.load(data, 'train', distilled)
  _check_images(path, distilled, train)
  network = described.make_network(path, distilled, train)
  config = labels.pool(_coding(path, distilled.metadata), seed=_SEED.value)
  target = TargetSet(train, distilled.normalization, config.label_coding)
  clock = metrics.StageClock()
  fitted = finishing.fit_labels(
    network,
    labeled_set(jnp.asarray(distilled.images), jnp.asarray(distilled.labels)),
    target,
    config=config,
    clock=clock,
  )
  found = _described(distilled, fitted, data, labels, config)
  results.write_result(output, found)
  results.report_seconds(found.metadata.recipe['method'], clock.seconds())
  print(f'Wrote {output} and {output.with_suffix(".png")}.')


def _check_output(path: str, output: pathlib.Path) -> None:
  """Raises the error of a file that cannot be written, before the work."""
  given = files.resolve(path)
  same = given.exists() and output.exists() and given.samefile(output)
  if output.suffix != '.safetensors' or same:
    raise ValueError(
      f'--output={_OUTPUT.value} must be another file than the set, and end in '
      '.safetensors.'
    )
  files.check_writable(output)


def _check_images(
  path: str, distilled: distilled_set.DistilledSet, train: datasets.Dataset
) -> None:
  """Raises the error of images that no network of the set can take."""
  own, real = distilled.images.shape[1:], train.images.shape[1:]
  if own != real:
    raise ValueError(
      f'{path} has images of shape {own}, the data set of {real}; give the '
      '--dataset that it was distilled from.'
    )
  if described.network_name(distilled) is None:
    raise ValueError(
      f'{path} does not name the network that it was distilled in, and labels '
      'are of networks.'
    )


def _coding(path: str, metadata: distilled_set.Metadata) -> str:
  """How the labels of real images were coded for the set."""
  if metadata.label_coding in LABEL_CODINGS:
    return metadata.label_coding
  own: Any = metadata.recipe.get('distillation', metadata.recipe)
  known = own if isinstance(own, dict) else {}
  coding = str(known.get('label_coding', 'centered'))
  if coding not in LABEL_CODINGS:
    raise ValueError(
      f'{path} has the label_coding {coding!r} of its distillation, which is '
      f'none of {", ".join(LABEL_CODINGS)}.'
    )
  return coding


def _described(
  distilled: distilled_set.DistilledSet,
  fitted: LabeledSet,
  data: DataConfig,
  labels: LabelConfig,
  config: AdaptationConfig,
) -> distilled_set.DistilledSet:
  """The set with new labels; scores of the old ones are left behind."""
  metadata = distilled.metadata
  method = finishing.method_name(
    str(metadata.recipe.get('method', 'distilled set')), config
  )
  recipe = {
    **metadata.recipe,
    'method': method,
    'data': dataclasses.asdict(data),
    'labels': dataclasses.asdict(labels),
  }
  return distilled_set.DistilledSet(
    distilled.images,
    np.asarray(fitted.labels),
    distilled.normalization,
    dataclasses.replace(
      metadata,
      dataset=data.dataset,
      label_coding='learned',
      recipe=recipe,
      seeds={**metadata.seeds, 'labels': config.seed},
      scores=(),
      versions=library_versions(),
    ),
  )


if __name__ == '__main__':
  # As many as do for ten images a class.
  config_flags.define(LabelConfig, label_networks=16, label_images=1000)
  described.define_place()
  launching.run(main, check=launching.one_file)
