"""Flagfiles of a command line: the shipped ones by name, and their order."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from absl import flags

_FLAGS = '-flagfile', '--flagfile'
_RECIPES = pathlib.Path(__file__).parents[1] / 'recipes'


def with_shipped(arguments: Sequence[str]) -> list[str]:
  """Arguments, with the paths of flagfiles that are shipped and not here."""
  found, rest = [], iter(arguments)
  for argument in rest:
    if argument in _FLAGS:  # Its value comes next.
      argument = f'--flagfile={next(rest, "")}'
    name = _flagfile(argument)
    shipped = _RECIPES / name
    if name and not os.path.exists(name) and shipped.is_file():
      argument = f'--flagfile={shipped}'
    found.append(argument)
  return found


def check_order(arguments: Sequence[str]) -> None:
  """Refuses a flag that a later flagfile would silently replace.

  Of two flagfiles the later one may well replace what the earlier one says.

  Args:
    arguments: of a command line that absl has parsed.

  Raises:
    ValueError: if a flag stands before a flagfile that sets it, too.
  """
  given: dict[str, str] = {}
  for argument in arguments:
    if not _flagfile(argument):
      given |= dict.fromkeys(_names([argument]), argument)
      continue
    lines = flags.FLAGS.read_flags_from_files([argument], force_gnu=False)
    for name in _names(lines):
      if name in given:
        raise ValueError(
          f'{given[name]} stands before {argument}, which sets --{name} as '
          'well and would win. Put it after the flagfile.'
        )


def _flagfile(argument: str) -> str:
  """The path of a flagfile, empty for another argument."""
  flag, _, name = argument.partition('=')
  return name if flag in _FLAGS else ''


def _names(arguments: Sequence[str]) -> Iterator[str]:
  """Names of the flags that are set, --noflag being one of `flag`."""
  for argument in arguments:
    if argument.startswith('-'):
      name = argument.lstrip('-').partition('=')[0]
      negated = name not in flags.FLAGS and name.startswith('no')
      yield name.removeprefix('no') if negated else name
