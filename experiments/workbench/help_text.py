"""What `--help` of a binary prints: every flag, required first, in groups."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from workbench import config_flags

_PEERS = 'DC|FRePo|HaBa|KIP|MTT|RCIG|RFAD'
_PAPER = re.compile('literal|the paper|supplement|Alg\\.')
_WIDTH = 80


def source(help_text: str, default: str, group: str = '') -> str:
  """Where a default is from: the paper, a peer, us; '' where nobody matters.

  Args:
    help_text: of the flag; it names sources in brackets.
    default: as text.
    group: of the flag; it may be a peer's.

  Example:
    >>> source('Residual blocks inside [ours].', '2')
    'ours'
    >>> source('Channels (DC, MTT and HaBa: 128).', '128')
    'DC, MTT, HaBa'
    >>> source('Images a sample; 0: all (literal).', '0')
    'paper'
  """
  if group in _PEERS.split('|') and group in help_text:
    return group
  value = rf'(?<![\w.]){re.escape(default)}(?![\w.])'
  beside = re.search(rf'{value}[^,;]*?\(([^)]*)\)', help_text)
  if beside and _PAPER.search(beside[1]):
    return 'paper'
  if beside and (names := re.findall(rf'\b(?:{_PEERS})\b', beside[1])):
    return ', '.join(names)
  if '[ours' in help_text:
    return 'ours'
  if 'supplement' in help_text:
    return 'paper'
  for brackets in re.findall(r'\(([^)]*)\)', help_text):
    if names := re.findall(rf'\b(?:{_PEERS})\b', brackets):
      return ', '.join(names)
  return 'ours' if _PAPER.search(help_text) else ''


def _is_required(flag: flags.Flag) -> bool:
  return any('other than None' in str(v.message) for v in flag.validators)


def _groups(values: flags.FlagValues) -> dict[str, list[flags.Flag]]:
  """The flags of the binary and of the workbench, by the title of a group."""
  found: dict[str, list[flags.Flag]] = {'required': [], 'this command': []}
  last: dict[str, list[flags.Flag]] = {}
  for module, own in values.flags_by_module_dict().items():
    if module == sys.argv[0] or module == 'workbench.recipes':
      for flag in own:
        title = 'required' if _is_required(flag) else 'this command'
        found[title].append(flag)
    elif module == 'workbench.config_flags':
      for flag in own:
        found.setdefault(config_flags.GROUPS[flag.name], []).append(flag)
    elif module.startswith('workbench.'):
      last.setdefault('every command', []).extend(own)
  return {title: own for title, own in (found | last).items() if own}


def _lines(group: str, flag: flags.Flag) -> Iterator[str]:
  """A flag, its help and its default with its source."""
  default = flag.default_as_str
  text = re.sub(r',? (as )?\[ours\]', '', str(flag.help))
  if default is not None and not _is_required(flag):
    shown = default.strip("'")
    origin = source(str(flag.help), shown, group)
    if flag.name not in config_flags.GROUPS:
      origin = ''
    text += f' [default: {shown or "empty"}{origin and f"; {origin}"}]'
  name = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
  yield f'  {name}'
  yield from textwrap.wrap(
    text, _WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6
  )


def text(docstring: str, values: flags.FlagValues = flags.FLAGS) -> str:
  """The help of the binary that runs.

  Args:
    docstring: of the binary.
    values: the flags that it defined.
  """
  lines = [docstring.strip(), '']
  for title, own in _groups(values).items():
    lines += [f'{title}:', *(x for f in own for x in _lines(title, f)), '']
  lines += [
    '--flagfile=FILE reads flags of a file; the shipped ones go by their name,',
    'as in --flagfile=cpu_pool.flags. Each default is marked: of the paper, of',
    'a peer, or ours. --helpfull lists the flags of absl as well.',
  ]
  return '\n'.join(lines)
