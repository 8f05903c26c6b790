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
from fsdd_jax.data.target import TargetSet
from fsdd_jax.options import SEEDS
from fsdd_jax.runtime import files, metrics
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import LabeledSet, labeled_set
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
  distilled = zoo.load_distilled(path)
  train = described.load(
    described.data_config(path, distilled), 'train', distilled
  )
  network = described.make_network(path, distilled, train)
  config = config_flags.read(LabelConfig).pool(
    _coding(distilled.metadata), seed=_SEED.value
  )
  target = TargetSet(train, distilled.normalization, config.label_coding)
  clock = metrics.StageClock()
  fitted = finishing.fit_labels(
    network,
    labeled_set(jnp.asarray(distilled.images), jnp.asarray(distilled.labels)),
    target,
    config=config,
    clock=clock,
  )
  found = _described(distilled, fitted, config)
  results.write_result(output, found)
  results.report_seconds(found.metadata.recipe['method'], clock.seconds())
  print(f'Wrote {output} and {output.with_suffix(".png")}.')


def _check_output(path: str, output: pathlib.Path) -> None:
  """Raises the error of a file that cannot be written, before the work."""
  if output.suffix != '.safetensors' or output == files.resolve(path):
    raise ValueError(
      f'--output={_OUTPUT.value} must be another file than the set, and end in '
      '.safetensors.'
    )
  files.check_writable(output)


def _coding(metadata: distilled_set.Metadata) -> str:
  """How the labels of real images were coded for the set."""
  distillation: Any = metadata.recipe.get('distillation')
  known = distillation if isinstance(distillation, dict) else {}
  return str(known.get('label_coding', 'centered'))


def _described(
  distilled: distilled_set.DistilledSet,
  fitted: LabeledSet,
  config: AdaptationConfig,
) -> distilled_set.DistilledSet:
  """The set with new labels; scores of the old ones are left behind."""
  metadata = distilled.metadata
  recipe = metadata.recipe
  method = finishing.method_name(
    str(recipe.get('method', 'distilled set')), config
  )
  own = {
    'networks': config.network_pool,
    'label_images': config.label_images,
    'ridge': config.ridge,
  }
  metadata = dataclasses.replace(
    metadata,
    label_coding='learned',
    recipe={**recipe, 'method': method, 'labels': own},
    seeds={**metadata.seeds, 'labels': config.seed},
    scores=(),
  )
  return distilled_set.DistilledSet(
    distilled.images,
    np.asarray(fitted.labels),
    distilled.normalization,
    metadata,
  )


if __name__ == '__main__':
  # As many as do for ten images a class.
  config_flags.define(LabelConfig, label_networks=16, label_images=1000)
  described.define_place()
  launching.run(main, check=launching.one_file)
