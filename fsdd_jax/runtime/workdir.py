"""The settings of a work directory: a folder belongs to one run.

How all stages compare settings, and say which of them differ, is here, too.
"""

import contextlib
import dataclasses
import json
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from fsdd_jax.runtime import files, processes
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.runtime.versions import library_versions

_VERSIONS = 'versions'


def differences(
  there: Mapping[str, Any],
  here: Mapping[str, Any],
  *,
  line: str = '{name}: {there!r} there, {here!r} now',
) -> list[str]:
  """Names what differs between two settings, in the order of the names.

  Args:
    there: values of a file, or of a run before; None stands for a missing one.
    here: values that are wanted now.
    line: a format of `name`, `there` and `here`.

  Returns:
    A line for each name whose values differ as JSON, which has lists for
    tuples; empty where all agree.
  """
  there, here = (json.loads(json.dumps(dict(x))) for x in (there, here))
  return [
    line.format(name=name, there=there.get(name), here=here.get(name))
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Turns nested mappings into one, with names such as `config.num_steps`."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= {f'{name}.{k}': v for k, v in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def claim_workdir(options: LoopOptions, config: Any, **facts: Any) -> None:
  """Makes a work directory that of one run, or checks that it already is.

  Args:
    options: names the folder, which is created where it is missing; without
      one, and in other processes than the first, nothing is done.
    config: the stage's dataclass; how often it logs and saves does not count.
    **facts: JSON values that fix the result beside it: data, networks.

  Raises:
    ValueError: if the folder belongs to a run with other settings; every
      differing one is named.
  """
  workdir = options.workdir
  if workdir is None or not processes.is_first_process():
    return
  settings = {**dataclasses.asdict(config), **facts}
  for name in ('checkpoint_every', 'log_every'):
    settings.pop(name, None)
  path = pathlib.Path(workdir) / 'config.json'
  versions = library_versions()
  noted = {**settings, _VERSIONS: versions}
  text = json.dumps(noted, indent=2, sort_keys=True) + '\n'
  # Of two programs that start at once, one finds the other's settings.
  if not path.exists() and files.write_bytes_once(path, text.encode()):
    return
  # A setting that is newer than the folder was at its default there.
  defaults = {
    field.name: field.default
    for field in dataclasses.fields(config)
    if field.name in settings
  }
  there = defaults | files.read_json(path)
  began = there.pop(_VERSIONS, None)
  if different := differences(there, settings):
    raise ValueError(
      f'The workdir {workdir} belongs to a run with other settings '
      f'({"; ".join(different)}). Use those settings to resume it, or choose '
      'a new workdir.'
    )
  if isinstance(began, dict) and (different := differences(began, versions)):
    warnings.warn(
      f'The workdir {workdir} was begun with other versions '
      f'({"; ".join(different)}). What is done there is not done again; choose '
      'a new workdir for a result of these versions alone.',
      stacklevel=2,
    )


@contextlib.contextmanager
def claimed_workdir(
  options: LoopOptions, config: Any, **facts: Any
) -> Iterator[None]:
  """As `claim_workdir`, for what has several stages; locked in the block.

  Raises:
    OSError: if another program works in the folder.
    ValueError: see `claim_workdir`.
  """
  with contextlib.ExitStack() as stack:
    if options.workdir is not None and processes.is_first_process():
      stack.enter_context(files.lock(options.workdir))
    claim_workdir(options, config, **facts)
    yield


def options_within(options: LoopOptions, *names: str) -> LoopOptions:
  """The same options with a folder inside the work directory."""
  if options.workdir is None:
    return options
  workdir = pathlib.Path(options.workdir).joinpath(*names)
  return dataclasses.replace(options, workdir=workdir)
