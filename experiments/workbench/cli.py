"""What the experiment binaries share: flags of configs, loading, one error."""

import dataclasses
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from fsdd_jax import zoo
from fsdd_jax.algorithms import baseline
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
  TranslatorConfig,
  UpdateConfig,
)
from fsdd_jax.algorithms.method_configs import AdaptationConfig
from fsdd_jax.data import datasets, resolution, sources
from fsdd_jax.data import normalization as normalization_lib
from fsdd_jax.data.normalization import describe_normalization
from fsdd_jax.networks import extractors
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.translator import TRANSLATORS
from fsdd_jax.reporting import pictures
from fsdd_jax.runtime import preemption, processes, terminal
from fsdd_jax.storage import distilled_set, learned_network, translators
from fsdd_jax.types import LabeledSet, labeled_set

Config = TypeVar('Config')

# Errors that a user may meet, whose messages say what to do.
_KNOWN = (ArithmeticError, ImportError, OSError, ValueError)
# How messages of JAX's runtime start where a process does not answer; some of
# them are of a ValueError.
_LOST = re.compile(
  r'(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): '
)

_DEFINE: dict[Any, Callable[..., Any]] = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  tuple[str, ...]: flags.DEFINE_list,
  tuple[int, ...]: flags.DEFINE_list,
}


def define_flags(*config_classes: type, **defaults: Any) -> None:
  """Defines an absl flag for each field of the given dataclasses.

  Args:
    *config_classes: dataclasses of `configs`.
    **defaults: values that replace the dataclass's own default.
  """
  for name in _define(flags.FLAGS, config_classes, defaults):
    # So that --help of the binary lists the flag.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _define(
  values: flags.FlagValues,
  config_classes: Sequence[type],
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Defines flags among others, and yields their names.

  A name that several classes have is one flag; where their defaults differ, it
  has none, and each class takes its own.
  """
  known: dict[str, Any] = {}
  for config_class in config_classes:
    for field in dataclasses.fields(config_class):
      default = defaults.get(field.name, field.default)
      if field.name in known:
        if known[field.name] != default:
          values.set_default(field.name, None)
        continue
      known[field.name] = default
      if isinstance(default, tuple):
        default = [str(part) for part in default]
      _DEFINE[field.type](
        field.name, default, field.metadata['help'], flag_values=values
      )
      yield field.name


def from_flags(
  config_class: type[Config], values: flags.FlagValues = flags.FLAGS
) -> Config:
  """Builds a config of parsed flags; its own checks name a bad value."""
  found = {}
  for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
    value = values[field.name].value
    if field.type == tuple[int, ...]:
      value = integers(field.name, values)
    if value is None:  # As other classes have other defaults.
      value = field.default
    found[field.name] = tuple(value) if isinstance(value, list) else value
  return config_class(**found)


def parse(
  arguments: Sequence[str], *config_classes: type, **defaults: Any
) -> tuple[Any, ...]:
  """The configs that a command line makes, without its binary.

  Args:
    arguments: flags, among them `--flagfile`; other flags are passed over.
    *config_classes: dataclasses of `configs`.
    **defaults: as for `define_flags`.

  Returns:
    A config of each class.

  Example:
    >>> arguments = ['--dataset=cifar10', '--width=32', '--workdir=runs']
    >>> data, network = parse(arguments, DataConfig, NetworkConfig)
    >>> data.dataset, network.width
    ('cifar10', 32)
  """
  values = flags.FlagValues()
  tuple(_define(values, config_classes, defaults))
  values(['', *arguments], known_only=True)
  return tuple(from_flags(kind, values) for kind in config_classes)


def integers(
  name: str, values: flags.FlagValues = flags.FLAGS
) -> tuple[int, ...]:
  """The value of a flag that lists integers."""
  parts: Sequence[str] = values[name].value or ()
  try:
    return tuple(int(part) for part in parts)
  except ValueError as error:
    raise ValueError(
      f'--{name}={",".join(parts)} must list integers, as in --{name}=1,10.'
    ) from error


def chosen(arguments: Sequence[str], parts: Mapping[str, Any]) -> Any:
  """The part of a binary that its one argument names.

  Raises:
    ValueError: for another number of arguments or name; it lists the names.

  Example:
    >>> chosen(['benchmark.py', 'step'], {'step': 1, 'adapt': 2})
    1
  """
  if len(arguments) != 2 or arguments[1] not in parts:
    raise ValueError(
      f'Name one among {", ".join(parts)}; got '
      f'{" ".join(arguments[1:]) or "none"}.'
    )
  return parts[arguments[1]]


def run(main: Callable[[list[str]], None]) -> None:
  """Runs a binary; a known error ends it with one line and status 1.

  SIGTERM and Ctrl-C end it with a word and status 0, see `preemption`. Output
  that cannot be written or encoded does not end it, see `terminal`.
  """

  def guarded(arguments: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    preemption.install()
    terminal.protect()
    try:
      main(arguments)
    except _KNOWN as error:
      if flags.FLAGS.traceback:
        raise
      sys.exit(f'error: {error}')
    finally:
      terminal.flush()

  flags.DEFINE_bool('traceback', False, 'Show where an error arose.')
  app.run(guarded)


def _leave(error: Exception) -> NoReturn:
  """Ends this process of several with a word.

  At once, for leaving in order would wait for the others, which are lost or
  wait for this one.
  """
  if isinstance(error, jax.errors.JaxRuntimeError) or _LOST.match(str(error)):
    message = (
      f'the others are lost ({str(error).splitlines()[0][:200]}). Start all '
      'processes again with the same command; they go on from what is saved.'
    )
  else:
    message = str(error)
  if flags.FLAGS.traceback or not isinstance(error, (*_KNOWN, RuntimeError)):
    traceback.print_exception(error)
  number, count = jax.process_index(), jax.process_count()
  print(f'error: process {number} of {count}: {message}', file=sys.stderr)
  sys.stderr.flush()
  os._exit(1)


def run_in_processes(main: Callable[[list[str]], None]) -> None:
  """As `run`, for a binary that several processes may share.

  They find each other by the flags that this defines or, without these, as
  `processes.initialize` says. Where one ends by an error or is killed, the
  others end as well, with a word, at the latest after the heartbeat.
  """

  def joined(arguments: list[str]) -> None:
    values = flags.FLAGS
    processes.initialize(
      values.coordinator_address,
      values.num_processes,
      values.process_id,
      heartbeat_seconds=values.heartbeat_seconds,
    )
    preemption.install()  # In the place of JAX's own handler.
    try:
      main(arguments)
    except Exception as error:
      if jax.process_count() == 1:
        raise
      _leave(error)

  flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0, for all processes.'
  )
  flags.DEFINE_integer('num_processes', None, 'Processes of this run.')
  flags.DEFINE_integer('process_id', None, 'Number of this one, from 0.')
  flags.DEFINE_integer(
    'heartbeat_seconds', 100, 'Silence after which a process counts as lost.'
  )
  run(joined)


def load_dataset(config: DataConfig, split: str) -> datasets.Dataset:
  """Loads one split; `limit` holds for the training images alone.

  Example:
    >>> load_dataset(
    ...   DataConfig(dataset='digits', limit=20), 'train'
    ... ).images.shape
    (20, 8, 8, 1)
  """
  return datasets.load(
    config.dataset,
    split=split,
    image_size=config.image_size or None,
    data_dir=config.data_dir or None,
    classes=config.classes or None,
    limit=config.limit or None if split == 'train' else None,
    holdout=config.holdout,
  )


def warn_without_test(config: DataConfig) -> None:
  """Says before the work, not after it, that there is nothing to score on.

  Example:
    >>> warn_without_test(DataConfig(dataset='digits'))
  """
  if not sources.has_test_split(config.dataset):
    print(
      f'{config.dataset} has train but no test images: before '
      'experiments/evaluate.py, add a folder test; or keep some apart now, by '
      '--holdout=0.1, and score with --split=holdout.',
      file=sys.stderr,
    )


def fit_normalization(
  config: DataConfig, train: datasets.Dataset
) -> normalization_lib.Normalization:
  """Standardisation, with ZCA where the config asks for it.

  Example:
    >>> train = load_dataset(DataConfig(dataset='digits', limit=20), 'train')
    >>> fit_normalization(DataConfig(), train).mean.shape
    (1,)
  """
  if config.zca:
    return normalization_lib.zca_whitening(train.images)
  return normalization_lib.standardization(train.images)


def make_network(
  config: NetworkConfig, image_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
  """The network of a config for images `[h, w, c]`.

  Example:
    >>> make_network(NetworkConfig(width=8), (32, 32, 3), 10).depth
    3
  """
  fields: dict[str, Any] = {'initialization': config.initialization}
  if config.norm:
    fields['norm'] = config.norm
  if config.dtype != 'float32':
    fields['dtype'] = config.dtype
  sizes = {
    'convnet': ('width', 'width_multiplier', 'depth'),
    'mlp': ('width', 'depth'),
  }.get(config.network, ())
  # A depth of 0 is the network's own.
  fields |= {x: value for x in sizes if (value := getattr(config, x))}
  return extractors.make(
    config.network, image_shape=image_shape, num_classes=num_classes, **fields
  )


def make_translator(config: TranslatorConfig) -> nn.Module:
  """The translator of a config.

  Example:
    >>> make_translator(TranslatorConfig(translator_width=8)).width
    8
  """
  return TRANSLATORS[config.translator_body](
    width=config.translator_width,
    num_blocks=config.translator_blocks,
    head_scale=config.head_scale,
    inputs=config.translator_inputs,
  )


def translator_from_flags(
  path: str,
  image_shape: tuple[int, ...],
  num_classes: int,
  *,
  theta_seed: int | None,
  theta_size: int | None,
  seed: int,
) -> tuple[translators.ThetaTranslator, NetworkConfig]:
  """A translator with theta, and the config of networks for the target set.

  What the flags of `NetworkConfig` do not say, the translator's file does;
  `translators.check_translator` finds what contradicts it.

  Args:
    path: its file, or the name of a shipped one; 'none' makes a random one.
    image_shape: `(h, w, c)` of the target set.
    num_classes: of the target set.
    theta_seed: of the fixed network; None: the file's, or 0.
    theta_size: its resolution; None: the file's, or the target set's.
    seed: of a random translator.

  Returns:
    The translator with the theta to use, and the network's config.

  Raises:
    ValueError: for flags that cannot hold for a file.
  """
  if path == 'none':
    network = from_flags(NetworkConfig)
    shape = _resized(image_shape, theta_size)
    module = make_network(network, shape, num_classes)
    theta = FixedNetwork(module, theta_seed or 0, shape)
    translator = make_translator(from_flags(TranslatorConfig))
    return translators.random_translator(seed, translator, theta), network
  for field in dataclasses.fields(TranslatorConfig):
    if flags.FLAGS[field.name].present:
      raise ValueError(
        f'--{field.name} shapes a random translator alone (--translator=none); '
        f'leave it out with {path}.'
      )
  found = zoo.load_translator(path)
  shape = _resized(found.theta.image_shape, theta_size)
  described = extractors.describe_network(found.theta.network)
  network = used = _network_like(described)
  if resolution.is_above(image_shape, shape):  # Deeper than theta, that is.
    used = dataclasses.replace(network, depth=described.get('depth', 0))
    depth: Any = flags.FLAGS['depth'].value
    network = dataclasses.replace(network, depth=depth)
  theta = FixedNetwork(
    make_network(used, shape, num_classes),
    found.theta.seed if theta_seed is None else theta_seed,
    shape,
  )
  return dataclasses.replace(found, theta=theta), network


def adaptation_config(start: translators.ThetaTranslator) -> AdaptationConfig:
  """The adaptation that the flags ask for.

  Sets are distilled in theta as the translator knows them: what the flags do
  not say of the steps on images and labels, its file does.

  Args:
    start: the translator.

  Returns:
    The config.
  """
  config = from_flags(AdaptationConfig)
  if start.metadata is None:
    return config
  known = start.metadata.get('caching', {})
  names = [field.name for field in dataclasses.fields(UpdateConfig)]
  return dataclasses.replace(
    config,
    **{
      name: known[name]
      for name in (*names, 'jitter')
      if name in known and not flags.FLAGS[name].present
    },
  )


class AdaptationProblem(NamedTuple):
  """What `adaptation.adapt` works on, as the flags say.

  Attributes:
    start: the translator with the theta to use.
    network: f, for images of the target set.
    network_config: what made it.
    dataset: the target set's training images, with the channels of theta.
    normalization: how they become network inputs.

  Example:
    >>> import toy
    >>> network, dataset, transform = toy.problem()
    >>> found = AdaptationProblem(
    ...   toy.translator(), network, NetworkConfig(width=4), dataset, transform
    ... )
    >>> found.dataset.num_classes
    3
  """

  start: translators.ThetaTranslator
  network: nn.Module
  network_config: NetworkConfig
  dataset: datasets.Dataset
  normalization: normalization_lib.Normalization


def adaptation_problem(
  path: str,
  *,
  theta_seed: int | None = None,
  theta_size: int | None = None,
  seed: int = 0,
) -> AdaptationProblem:
  """Loads the target set and a translator, and makes sure that they fit.

  Args:
    path: of the translator; 'none' makes a random one.
    theta_seed: as for `translator_from_flags`.
    theta_size: as for `translator_from_flags`.
    seed: of a random translator.

  Raises:
    ValueError: if the translator is for other images or networks.
  """
  data = from_flags(DataConfig)
  train = load_dataset(data, 'train')
  start, network_config = translator_from_flags(
    path,
    train.images.shape[1:],
    train.num_classes,
    theta_seed=theta_seed,
    theta_size=theta_size,
    seed=seed,
  )
  train = resolution.repeat_channels(train, start.theta.image_shape[-1])
  transform = fit_normalization(data, train)
  translators.check_translator(start, transform)
  network = make_network(
    network_config, train.images.shape[1:], train.num_classes
  )
  return AdaptationProblem(start, network, network_config, train, transform)


def _resized(image_shape: tuple[int, ...], size: int | None) -> tuple[int, ...]:
  return image_shape if size is None else (size, size, image_shape[2])


def _network_like(description: Mapping[str, Any]) -> NetworkConfig:
  """The network that the given flags and, for the rest, a description name."""
  known = {k: v for k, v in description.items() if v is not None}
  known['network'] = description['name']
  values: dict[str, Any] = {}
  for field in dataclasses.fields(NetworkConfig):
    flag = flags.FLAGS[field.name]
    given = flag.present or field.name not in known
    values[field.name] = flag.value if given else known[field.name]
  return NetworkConfig(**values)


def theta_from_file(
  path: str, config: NetworkConfig, num_classes: int
) -> learned_network.LearnedNetwork:
  """A learned network of a file, in the place of an arbitrary one.

  Args:
    path: its file.
    config: what the flags say of the network.
    num_classes: of the target set.

  Raises:
    ValueError: if its network is another, or it is damaged.

  Example:
    >>> import tempfile
    >>> import toy
    >>> config = NetworkConfig(width=4, norm='none')
    >>> network, _, transform = toy.problem()
    >>> theta = learned_network.learned_network(
    ...   network, 3, (8, 8, 3), toy.theta(5)
    ... )
    >>> path = tempfile.mkdtemp() + '/network.safetensors'
    >>> learned_network.save_learned(path, theta, transform, record={})
    >>> theta_from_file(path, config, num_classes=3).seed
    3
  """
  theta = learned_network.load_learned(path, num_classes=num_classes)
  network = make_network(config, theta.image_shape, num_classes)
  theirs, ours = map(extractors.describe_network, (theta.network, network))
  if theirs != ours:
    raise ValueError(
      f'{path} holds a network {theirs}, the flags make {ours}; give the flags '
      'that it was learned with.'
    )
  return theta


def start_from_file(
  path: str, normalization: normalization_lib.Normalization
) -> LabeledSet:
  """A distilled set of a file, to be distilled further.

  Args:
    path: its file.
    normalization: that of the target set.

  Returns:
    The set.

  Raises:
    ValueError: if its images were normalised otherwise, or it is damaged.

  Example:
    >>> import tempfile
    >>> import toy
    >>> path = tempfile.mkdtemp() + '/distilled.safetensors'
    >>> distilled_set.save_distilled(path, toy.distilled())
    >>> start_from_file(path, toy.distilled().normalization).images.shape
    (3, 8, 8, 3)
  """
  found = distilled_set.load_distilled(path)
  theirs, ours = (
    describe_normalization(transform)
    for transform in (found.normalization, normalization)
  )
  if theirs != ours:
    raise ValueError(
      f'{path} was normalised by {theirs}, this data set by {ours}; give the '
      'dataset, limit, holdout, image_size and zca that it was distilled with.'
    )
  return labeled_set(jnp.asarray(found.images), jnp.asarray(found.labels))


def describe_result(
  synthetic: LabeledSet,
  normalization: normalization_lib.Normalization,
  dataset: datasets.Dataset,
  data: DataConfig,
  network: NetworkConfig,
  config: DistillationConfig,
  scores: Sequence[dict[str, Any]] = (),
  *,
  method: str = '',
  further: Mapping[str, Any] | None = None,
  theta_seed: int | None = None,
) -> distilled_set.DistilledSet:
  """A distilled set with all that its file tells about it.

  Args:
    synthetic: the set, without padding.
    normalization: how images became network inputs.
    dataset: the target set.
    data: where that came from.
    network: the network that the set was made for.
    config: its distillation.
    scores: measured accuracies.
    method: the row of a table that it is; by default that of Alg. 4.
    further: what else belongs to its recipe, by name; JSON values.
    theta_seed: of the fixed network that it was distilled in, if in one.

  Returns:
    What `distilled_set.save_distilled` writes.

  Example:
    >>> import jax
    >>> import toy
    >>> _, dataset, transform = toy.problem()
    >>> real = toy.target().random_real(jax.random.key(0), ipc=1)
    >>> distilled = describe_result(
    ...   real,
    ...   transform,
    ...   dataset,
    ...   DataConfig(dataset='toy'),
    ...   NetworkConfig(),
    ...   DistillationConfig(ipc=1),
    ... )
    >>> distilled.metadata.recipe['method'], distilled.metadata.label_coding
    ('1 Net', 'learned')
  """
  seeds = {} if theta_seed is None else {'theta': theta_seed}
  learned = config.label_learning_rate > 0
  metadata = distilled_set.Metadata(
    dataset=data.dataset,
    class_names=dataset.class_names,
    label_coding='learned' if learned else config.label_coding,
    ipc=config.ipc,
    network=dataclasses.asdict(network),
    recipe={
      'method': method or baseline.method_name(config),
      'data': dataclasses.asdict(data),
      'distillation': dataclasses.asdict(config),
      **(further or {}),
    },
    seeds={'distillation': config.seed, **seeds},
    scores=tuple(scores),
  )
  return distilled_set.DistilledSet(
    np.asarray(synthetic.images),
    np.asarray(synthetic.labels),
    normalization,
    metadata,
  )


def write_result(
  path: pathlib.Path, distilled: distilled_set.DistilledSet
) -> None:
  """Writes a distilled set and its picture, and tells how to score it.

  Example:
    >>> import contextlib
    >>> import pathlib
    >>> import tempfile
    >>> import toy
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'distilled.safetensors'
    >>> with contextlib.redirect_stdout(None):  # It tells where the file is.
    ...   write_result(path, toy.distilled())
    >>> sorted(file.name for file in path.parent.iterdir())
    ['distilled.png', 'distilled.safetensors']
  """
  distilled_set.save_distilled(path, distilled)
  pictures.save_grid(
    path.with_suffix('.png'),
    np.asarray(
      normalization_lib.denormalize(
        jnp.asarray(distilled.images), distilled.normalization
      )
    ),
    distilled.metadata.class_names,
    ipc=distilled.metadata.ipc,
  )
  print(f'Score it: python experiments/evaluate.py {path}')


def report_seconds(title: str, seconds: Mapping[str, float]) -> None:
  """Prints the seconds of a stage, over all its runs.

  Args:
    title: what ran.
    seconds: of each part, as of `metrics.StageClock`.

  Example:
    >>> report_seconds('1 Net', {'statistics': 1.5})
    1 Net: statistics 1.5 s
  """
  parts = ', '.join(f'{part} {spent:.1f} s' for part, spent in seconds.items())
  print(f'{title}: {parts}')
