"""Methods by their names and flagfiles, whose number of steps is still open."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from fsdd_jax.algorithms import (
  adaptation,
  baseline,
  finishing,
  translated_sets,
)
from fsdd_jax.algorithms.adaptation import method_name
from fsdd_jax.algorithms.adaptation_config import (
  AdaptationConfig,
  LabelConfig,
)
from fsdd_jax.algorithms.configs import DistillationConfig, NetworkConfig
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization
from fsdd_jax.data.target import TargetSet
from fsdd_jax.options import Config
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage.translators import ThetaTranslator
from workbench import config_flags, problems, translating
from workbench.methods import METHODS

ADAPT, TRANSLATE = 'adapt', 'translate'

Problem = tuple[nn.Module, Dataset, Normalization]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is the same for all methods.

  Attributes:
    recipes: folder of the flagfiles.
    scale: what their names begin with.
    network: of the problem; a flagfile may change it.
    seed: of every method.
  """

  recipes: str | os.PathLike[str]
  scale: str
  network: NetworkConfig
  seed: int = 0

  def path(self, name: str) -> pathlib.Path:
    """The flagfile of a method."""
    return pathlib.Path(self.recipes) / f'{self.scale}_{name}.flags'


class Runner(NamedTuple):
  """A method of which the number of steps is still open.

  Attributes:
    title: its name in the table.
    run: of a number of steps and options; returns what holds the set.
    num_steps: of its flagfile; 0 where it has none.
    unlike_later: how many steps differ from all later ones; None for a method
      that keeps the steps of its flagfile, whatever its time: 1 Net, Pool and
      w/o Ada over-fit their networks by more, Baseline(R) has R and no more.
    network: that sets are distilled in.
    distillation: of the set; its number of steps is that of the flagfile.
    further: what else shapes the result, by name; JSON values.
    part: index of the part, of several that the method has, whose steps these
      are.
  """

  title: str
  run: Callable[[int, LoopOptions], Any]
  num_steps: int
  unlike_later: int | None
  network: NetworkConfig
  distillation: DistillationConfig
  further: Mapping[str, Any]
  part: int = 0

  @property
  def settings(self) -> dict[str, Any]:
    """All that shapes the result but for the number of steps; JSON values."""
    return {
      'network': dataclasses.asdict(self.network),
      'distillation': dataclasses.asdict(self.distillation),
      **self.further,
    }


def make_runner(
  text: str,
  problem: Problem,
  start: ThetaTranslator,
  *,
  ipc: int,
  settings: Settings,
) -> Runner:
  """The method that a name asks for, with flags that change its flagfile.

  Args:
    text: `translate`, `adapt`, a key of `METHODS`, or any other name of a
      flagfile for Alg. 4; flags follow it.
    problem: network, target set and normalisation.
    start: the translator, for the first two.
    ipc: images per class.
    settings: what all methods share.

  Returns:
    The method.

  Raises:
    ImportError: for KIP where neural-tangents is not installed.
    ValueError: without its flagfile, or for a flag or a value that it cannot
      take.
  """
  name, *changes = text.split()
  file = ADAPT if name == TRANSLATE else name
  path, arguments = settings.path(file), [*changes]
  if path.exists():
    arguments.insert(0, f'--flagfile={path}')
  elif METHODS.get(name) is None or METHODS[name].learns:
    raise ValueError(f'No flagfile {path} of the method {name!r}.')
  for given in changes:
    if given.partition('=')[0] in ('--ipc', '--adapt_ipcs', '--seed'):
      raise ValueError(
        f'{text}: all methods share --ipcs and --seed; leave {given} out.'
      )
  if file == ADAPT:
    config_flags.check_known(arguments, AdaptationConfig)
    return _adapting(name, arguments, problem, start, ipc, settings)
  runner = _distilling(name, arguments, problem, ipc, settings)
  (labels,) = config_flags.parse(arguments, LabelConfig)
  if labels.label_networks:
    return _with_labels(runner, problem, labels)
  return runner


def _distilling(
  name: str,
  arguments: Sequence[str],
  problem: Problem,
  ipc: int,
  settings: Settings,
) -> Runner:
  """A method of `METHODS`, or Alg. 4."""
  method = METHODS.get(name, METHODS['networks'])
  kinds = [DistillationConfig, NetworkConfig, LabelConfig]
  if method.config_class is not None:
    kinds.append(method.config_class)
  config_flags.check_known(arguments, *kinds, besides=['method'])
  (config,) = config_flags.parse(arguments, DistillationConfig)
  config = method.config(
    dataclasses.replace(config, ipc=ipc, seed=settings.seed)
  )
  own: Config | None = None
  if method.config_class is not None:
    (own,) = config_flags.parse(arguments, method.config_class)
  network, dataset, normalization = problem
  target = TargetSet(dataset, normalization, config.label_coding)
  known = dataclasses.asdict(settings.network)
  (changed,) = config_flags.parse(arguments, NetworkConfig, **known)
  if changed != settings.network:
    network = problems.make_network(
      changed, dataset.images.shape[1:], dataset.num_classes
    )
  method.check(network, own)
  fresh = config.num_networks == config.num_steps

  def run(num_steps: int, options: LoopOptions) -> Any:
    by_steps = config
    if num_steps:
      networks = num_steps if fresh else config.num_networks
      by_steps = dataclasses.replace(
        config, num_steps=num_steps, num_networks=networks
      )
    return method.run(
      network,
      target,
      config=by_steps,
      own=own,
      options=options,
      start=None,
    )

  draws_more = fresh and config.num_networks > 1 and not config.revisit
  keeps_steps = method is METHODS['networks'] and not draws_more
  return Runner(
    method.title(config),
    run,
    num_steps=config.num_steps if method.learns else 0,
    unlike_later=None if keeps_steps else 1,
    network=changed,
    distillation=config,
    further={} if own is None else {name: dataclasses.asdict(own)},
  )


def _with_labels(
  runner: Runner, problem: Problem, labels: LabelConfig
) -> Runner:
  """A method that ends with labels in closed form."""
  _, dataset, normalization = problem
  network = problems.make_network(
    runner.network, dataset.images.shape[1:], dataset.num_classes
  )
  config = runner.distillation
  target = TargetSet(dataset, normalization, config.label_coding)
  pool = labels.pool(config.label_coding, seed=config.seed)

  def run(num_steps: int, options: LoopOptions) -> Any:
    before = runner.run(num_steps, options).synthetic
    fitted = finishing.fit_labels(network, before, target, config=pool)
    last = baseline.DistillationResult(fitted, [], {})
    if runner.num_steps and options.state_fn is not None:
      options.state_fn(0, last)  # What steps showed is the set before.
    return last

  return runner._replace(
    title=finishing.method_name(runner.title, pool),
    run=run,
    further={**runner.further, 'labels': dataclasses.asdict(labels)},
  )


def _adapting(
  name: str,
  arguments: Sequence[str],
  problem: Problem,
  start: ThetaTranslator,
  ipc: int,
  settings: Settings,
) -> Runner:
  """The translator, and what follows the translated set."""
  network = problem[0]
  # Sets are distilled in theta as the translator knows them.
  known = translated_sets.settings_of(start)
  (config,) = config_flags.parse(arguments, AdaptationConfig, **known)
  config = dataclasses.replace(config, adapt_ipcs=(ipc,), seed=settings.seed)
  counted = 'num_adaptation_steps'
  if name == TRANSLATE:
    config = dataclasses.replace(config, num_adaptation_steps=0)
    counted = 'finishing_steps'
  target = TargetSet(*problem[1:], config.label_coding)
  adaptation.check(start, target, config=config, ipcs=(ipc,))
  title, pool = method_name(start, config), config.network_pool
  if name == ADAPT:
    title += f', {pool} networks' if pool else ', fresh networks'
  title = finishing.method_name(title, config)

  def run(num_steps: int, options: LoopOptions) -> Any:
    own = dataclasses.replace(config, **{counted: num_steps})
    return translating.run(network, start, target, own, options)

  return Runner(
    title,
    run,
    num_steps=getattr(config, counted),
    unlike_later=max(1, pool) if name == ADAPT else None,
    network=settings.network,
    distillation=config.distillation(ipc),
    further={'adaptation': dataclasses.asdict(config)},
    part=1 if name == ADAPT else 0,
  )
