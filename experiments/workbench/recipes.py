"""The flags of tables and figures, and the recipe that they name."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
from absl import flags

from fsdd_jax import zoo
from fsdd_jax.algorithms import translated_sets
from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.evaluation import evaluate
from fsdd_jax.networks import extractors
from fsdd_jax.runtime import files
from workbench import config_flags, problems, tasks
from workbench.columns import Recipe
from workbench.tasks import Task


def define_flags(*, ipcs: Sequence[int] = ()) -> None:
  """Defines the flags of a `Recipe`, and the folder of results.

  Args:
    ipcs: the default images per class; without any there is no flag for them.
  """
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of results, and of tasks, which tables and figures may share.',
    required=True,
  )
  flags.DEFINE_string(
    'scale', 'cpu', 'cpu, narrow, gpu or paper, or yours in --recipes.'
  )
  flags.DEFINE_string(
    'recipes', '', "Folder of flagfiles; empty: the binary's."
  )
  if ipcs:
    flags.DEFINE_list('ipcs', list(map(str, ipcs)), 'Images per class.')
  flags.DEFINE_list('protocols', ['krr'], 'Protocols: krr, frepo, dc.')
  flags.DEFINE_integer('repeats', 3, 'Fresh networks a score.', lower_bound=1)
  flags.DEFINE_multi_string(
    'target_flag', [], 'Further flag of all that distils, e.g. --seed=1.'
  )
  flags.DEFINE_string(
    'translator',
    None,
    "A translator's file, or the name of a shipped one (tiny_imagenet_32), "
    'instead of one that is pre-trained by the flagfiles.',
  )
  flags.DEFINE_integer(
    'theta_steps',
    None,
    'Steps of all that distils in one network, instead of those of '
    '--translator or the flagfiles.',
    lower_bound=1,
  )
  flags.DEFINE_bool(
    'in_process',
    False,
    'Run all tasks in this process, which imports and compiles once, instead '
    'of each in its own.',
  )


def from_flags(binary: str) -> Recipe:
  """The recipe of the flags, for a binary beside the others.

  Args:
    binary: path of the binary that runs.

  Raises:
    ValueError: for IPCs or protocols that do not exist.
  """
  folder, values = pathlib.Path(binary).parent, flags.FLAGS
  unknown = [x for x in values.protocols if x not in evaluate.PROTOCOLS]
  if unknown or not values.protocols:
    raise ValueError(
      f'--protocols={",".join(values.protocols)} must list some of '
      f'{", ".join(evaluate.PROTOCOLS)}.'
    )
  image_flags, steps = [], values.theta_steps
  imported = values['import'].value if 'import' in values else None
  if values.translator:
    given = zoo.load_translator(values.translator)
    image_flags = ['--zca'] if given.is_whitened else []
    steps = steps or translated_sets.settings_of(given).get('num_steps')
  return Recipe(
    binaries=str(folder),
    folder=str(files.resolve(values.recipes or folder / 'recipes')),
    scale=values.scale,
    ipcs=config_flags.counts('ipcs') if 'ipcs' in values else (),
    protocols=tuple(values.protocols),
    repeats=values.repeats,
    flags=tuple(values.target_flag),
    translator=values.translator or '',
    # Of all columns alike, and of what they learn from the large set.
    image_flags=tuple(image_flags),
    # So that sets which are not translated have no more steps than those that
    # are.
    theta_flags=(f'--num_steps={steps}',) if steps else (),
    common_flags=(f'--import={",".join(imported)}',) if imported else (),
  )


def check_networks(recipe: Recipe, rows: Iterable[str]) -> None:
  """Refuses rows in other networks than those of the given translator.

  What a row's flagfile leaves open, `adapt.py` takes from the translator's
  file, and the columns that know no translator by default.

  Args:
    recipe: of the table or figure.
    rows: its target sets.

  Raises:
    ValueError: naming the row and what differs.
  """
  if not recipe.translator:
    return
  theta = zoo.load_translator(recipe.translator).theta
  known = _described(theta.network)
  for row in rows:
    arguments = [recipe.flagfile(row), *recipe.target_flags]
    (config,) = config_flags.parse(arguments, NetworkConfig)
    network = problems.make_network(
      config, theta.image_shape, theta.network.num_classes
    )
    own = _described(network)
    if different := sorted(x for x in known if known[x] != own.get(x)):
      flags_of = [f'--{name}={known[name]}' for name in different]
      raise ValueError(
        f'{recipe.translator} has networks of {" ".join(flags_of)}, and '
        f'{recipe.scale}_{row}.flags others, in which columns without a '
        'translator would be. Give '
        f'{" ".join(f"--target_flag={flag}" for flag in flags_of)}, or another '
        'scale or translator.'
      )


def _described(network: nn.Module) -> dict[str, Any]:
  """A network by the flags that make it, but for its depth.

  Larger images have deeper networks than theta.
  """
  described = extractors.describe_network(network)
  described['network'] = described.pop('name')
  names = {field.name for field in dataclasses.fields(NetworkConfig)}
  return {x: described[x] for x in described if x in names - {'depth'}}


def of_one_protocol(binary: str) -> Recipe:
  """As `from_flags`, for what shows one protocol.

  Raises:
    ValueError: for several, too.
  """
  recipe = from_flags(binary)
  if len(recipe.protocols) > 1:
    raise ValueError(
      f'--protocols={",".join(recipe.protocols)} names several, and one is '
      'shown; give one, and others in further runs.'
    )
  return recipe


def run(wanted: Sequence[Task], root: pathlib.Path) -> list[Task]:
  """Runs tasks by `tasks.run`, in this process if the flags ask for it.

  Args:
    wanted: the tasks.
    root: folder of all tasks.

  Returns:
    The tasks that ran now.
  """
  in_process = flags.FLAGS.in_process
  return tasks.run(wanted, root, tasks.run_here if in_process else None)
