r"""Scores distilled sets in fresh networks, beside random real images.

  python experiments/evaluate.py runs/pool16/distilled.safetensors \
      --protocols=krr,frepo,dc --networks=convnet,resnet18 --repeats=5

A set is a file, or a shipped one by its name, such as cifar10_ipc1.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from absl import flags

from fsdd_jax import zoo
from fsdd_jax.algorithms.configs import DataConfig, EvaluationConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate, protocols
from fsdd_jax.networks import extractors
from fsdd_jax.reporting import console, tables
from fsdd_jax.runtime import files, processes
from fsdd_jax.storage import distilled_set
from fsdd_jax.types import LabeledSet, labeled_set
from workbench import config_flags, described, launching

_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'JSON file of the scores; default: SET.scores.json, or SET.scores_2.json and '
  'so on, if that has scores of other settings.',
)
_RANDOM_REAL = flags.DEFINE_bool(
  'random_real', True, 'Score random real images of the same IPC as well.'
)
_WRITE_SCORES = flags.DEFINE_bool(
  'write_scores', False, "Add the scores to the distilled set's own file."
)


def _rows(
  path: str, distilled: distilled_set.DistilledSet, data: DataConfig, seed: int
) -> dict[str, LabeledSet]:
  """The sets to score, by name."""
  rows = {}
  if _RANDOM_REAL.value:
    rows['random real'] = TargetSet(
      described.load(data, 'train', distilled), distilled.normalization
    ).random_real(
      jax.random.key(seed),
      ipc=distilled.metadata.ipc,
      short_classes='repeat',
    )
  stem = pathlib.Path(path).stem
  name = str(distilled.metadata.recipe.get('method', stem))
  name = stem if name in rows else name  # As of real images that were kept.
  rows[name] = labeled_set(
    jax.numpy.asarray(distilled.images), jax.numpy.asarray(distilled.labels)
  )
  return rows


def _check(
  config: EvaluationConfig,
  networks: Sequence[nn.Module],
  written: Sequence[Any],
) -> None:
  """Raises now the errors that would lose the scores of what goes before."""
  if not config.protocols:
    raise ValueError('--protocols names none; give some of krr, frepo and dc.')
  for protocol in config.protocols:
    for network in networks:
      evaluate.network_for(protocol, network)
  if processes.is_first_process():
    for path in written:
      files.check_writable(path)


def main(arguments: list[str]) -> None:
  """Loads a distilled set, scores it and writes the scores."""
  path = arguments[1]
  if _WRITE_SCORES.value and path in zoo.distilled_names():
    raise ValueError(
      f'{path} is shipped, and its file stays as it is; leave --write_scores '
      'out.'
    )
  config = config_flags.read(EvaluationConfig)
  if _WRITE_SCORES.value and config.learning_rate:
    raise ValueError(
      'Scores at another --learning_rate are not those of a protocol, so the '
      'set does not take them; leave --write_scores out.'
    )
  distilled = zoo.load_distilled(path)
  data = described.data_config(path, distilled)
  settings = {'dataset': data.dataset, **dataclasses.asdict(config)}
  output = files.resolve(_OUTPUT.value or _default_output(path, settings))
  dataset = described.load(data, config.split, distilled)
  networks = [
    extractors.of_width(
      described.make_network(path, distilled, dataset, name), config.width
    )
    for name in config.networks or (None,)
  ]
  _check(config, networks, [output, *([path] * _WRITE_SCORES.value)])
  seed = config.evaluation_seed
  scores = {}
  for row, synthetic in _rows(path, distilled, data, seed).items():
    scores[row] = [
      evaluate.evaluate(
        jax.random.key(seed),
        synthetic,
        dataset,
        distilled.normalization,
        network,
        protocol=protocol,
        repeats=config.repeats,
        split=config.split,
        settings=protocols.Settings(
          protocols.unsuitable_augmentation(data.dataset),
          config.learning_rate or None,
          config.kernel_float64,
        ),
      )
      for protocol in config.protocols
      for network in networks
    ]
  if processes.is_first_process():
    _write(path, output, scores, settings, len(dataset.labels))


def _default_output(path: str, settings: Mapping[str, Any]) -> str:
  """The first file beside the set that has no scores of other settings."""
  settings = json.loads(json.dumps(settings))
  names = (f'{path}.scores_{number}.json' for number in itertools.count(2))
  for name in itertools.chain([f'{path}.scores.json'], names):
    file = files.resolve(name)
    if not file.exists() or files.read_json(file).get('settings') == settings:
      break
  return name


def _write(
  path: str,
  output: pathlib.Path,
  scores: Mapping[str, Sequence[evaluate.Score]],
  settings: Mapping[str, Any],
  num_images: int,
) -> None:
  """Writes the scores, by the name of the set, and shows them."""
  caption = (
    f'{settings["split"]} accuracy in percent on {num_images} images of '
    f'{settings["dataset"]}: mean ± std (ddof=1) over n fresh networks, last '
    'step'
  )
  if settings['learning_rate']:
    caption += f', trained at a rate of {settings["learning_rate"]:g}'
  caption += '.'
  table = [
    [row, s.protocol, s.network, str(s), f'{s.seconds:.1f}']
    for row, found in scores.items()
    for s in found
  ]
  columns = ['set', 'protocol', 'network', 'accuracy', 'seconds']
  result = tables.Table('Scores', columns, table, caption)
  rows = {row: [s.as_dict() for s in found] for row, found in scores.items()}
  record = {'file': path, 'scores': rows, 'settings': settings}
  text = json.dumps(record, indent=2, sort_keys=True)
  try:
    files.write_bytes_atomic(output, text.encode() + b'\n')
    if _WRITE_SCORES.value:
      *_, own = rows.values()  # The set comes last.
      distilled_set.add_scores(path, own)
  finally:  # Also where the disk has become full.
    console.show(result)
  print(f'Wrote {output}.')
  if _WRITE_SCORES.value:
    print(f'Added the scores to {path}.')


if __name__ == '__main__':
  config_flags.define(EvaluationConfig)
  described.define_place()
  launching.run_in_processes(main, check=launching.one_file)
