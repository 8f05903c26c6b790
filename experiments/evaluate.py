r"""Scores distilled sets in fresh networks, beside random real images.

python experiments/evaluate.py runs/pool16/distilled.safetensors \
      --protocols=krr,frepo,dc --networks=convnet,resnet18 --repeats=5
"""

import json
import pathlib
from collections.abc import Sequence

import flax.linen as nn
import jax
from absl import flags

from fsdd_jax import (
  artifacts,
  baselines,
  cli,
  datasets,
  evaluation,
  files,
  processes,
  protocols,
  report,
  resolution,
)
from fsdd_jax.configs import DataConfig, EvaluationConfig, NetworkConfig
from fsdd_jax.types import LabeledSet, labeled_set

_OUTPUT = flags.DEFINE_string(
  'output', None, 'JSON file of the scores; default: FILE.scores.json.'
)
_RANDOM_REAL = flags.DEFINE_bool(
  'random_real', True, 'Score random real images of the same IPC as well.'
)
_WRITE_SCORES = flags.DEFINE_bool(
  'write_scores', False, "Add the scores to the distilled set's own file."
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'TFDS data directory, if not that of the distillation.'
)


def _data_config(distilled: artifacts.DistilledSet) -> DataConfig:
  """The data that the set was distilled from, as its file tells."""
  fields = dict(distilled.metadata.recipe['data'])
  fields['classes'] = tuple(fields['classes'])
  if _DATA_DIR.value is not None:
    fields['data_dir'] = _DATA_DIR.value
  return DataConfig(**fields)


def _load(
  data: DataConfig, split: str, distilled: artifacts.DistilledSet
) -> datasets.Dataset:
  """A split, with grey images repeated where they were distilled as RGB."""
  dataset = cli.load_dataset(data, split)
  return resolution.repeat_channels(dataset, distilled.images.shape[-1])


def _rows(
  path: str, distilled: artifacts.DistilledSet, data: DataConfig, seed: int
) -> dict[str, LabeledSet]:
  """The sets to score, by name."""
  rows = {}
  if _RANDOM_REAL.value:
    rows['random real'] = baselines.random_real(
      jax.random.key(seed),
      _load(data, 'train', distilled),
      distilled.normalization,
      ipc=distilled.metadata.ipc,
    )
  name = distilled.metadata.recipe.get('method', pathlib.Path(path).stem)
  rows[name] = labeled_set(
    jax.numpy.asarray(distilled.images), jax.numpy.asarray(distilled.labels)
  )
  return rows


def _networks(
  distilled: artifacts.DistilledSet,
  dataset: datasets.Dataset,
  names: Sequence[str],
) -> list[nn.Module]:
  """Architectures by name; that of the distillation as it was there."""
  own = NetworkConfig(**distilled.metadata.network)
  return [
    cli.make_network(
      own
      if name == own.network
      else NetworkConfig(network=name, width=own.width),
      dataset.images.shape[1:],
      dataset.num_classes,
    )
    for name in names or (own.network,)
  ]


def main(arguments: list[str]) -> None:
  """Loads a distilled set, scores it and writes the scores."""
  if len(arguments) != 2:
    raise ValueError(
      f'Give one file to score, not {len(arguments) - 1}; options need two '
      'dashes, as in --repeats=5.'
    )
  path = arguments[1]
  config = cli.from_flags(EvaluationConfig)
  distilled = artifacts.load_distilled(path)
  data = _data_config(distilled)
  dataset = _load(data, config.split, distilled)
  networks = _networks(distilled, dataset, config.networks)
  seed = config.evaluation_seed
  scores, table = {}, []
  for row, synthetic in _rows(path, distilled, data, seed).items():
    scores[row] = [
      evaluation.evaluate(
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
    table += [
      [row, s.protocol, s.network, str(s), f'{s.seconds:.1f}']
      for s in scores[row]
    ]
  if not processes.is_first_process():
    return
  caption = (
    f'{config.split} accuracy in percent on {len(dataset.labels)} images of '
    f'{data.dataset}: mean ± std (ddof=1) over n fresh networks, last step.'
  )
  columns = ['set', 'protocol', 'network', 'accuracy', 'seconds']
  result = report.Table('Scores', columns, table, caption)
  print(report.to_markdown(result))
  output = pathlib.Path(_OUTPUT.value or f'{path}.scores.json')
  rows = {row: [s.as_dict() for s in found] for row, found in scores.items()}
  text = json.dumps({'file': path, 'scores': rows}, indent=2, sort_keys=True)
  files.write_bytes_atomic(output, text.encode() + b'\n')
  print(f'Wrote {output}.')
  if _WRITE_SCORES.value:
    own = [row for row in rows if row != 'random real']
    artifacts.add_scores(path, rows[own[0]])
    print(f'Added the scores to {path}.')


if __name__ == '__main__':
  cli.define_flags(EvaluationConfig)
  cli.run_in_processes(main)
