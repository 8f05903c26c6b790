"""Every binary and method as a stage of the soak, and how files compare."""

import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_LARGE = ('--dataset=fractals:6', '--limit=240', '--image_size=16')
_NETWORK = ('--width=16',)
_WATCHED = ('--checkpoint_every=5', '--log_every=1')

# Scales numbers of steps.
Scaled = Callable[[int], int]


class Stage(NamedTuple):
  """A binary, how it is called and what it leaves behind.

  Attributes:
    output: the flag that names the folder it writes to.
    results: patterns of its final files.
    flags_of: its other flags, of the folder that holds the straight run of
      each stage, and of a function that scales numbers of steps.
    needs: the stages whose files it reads.
    binary: its name without ending; by default that of the stage.
    file: the file in its folder that the flag names, instead of the folder.
  """

  output: str
  results: Sequence[str]
  flags_of: Callable[[pathlib.Path, Scaled], Sequence[str]]
  needs: Sequence[str] = ()
  binary: str = ''
  file: str = ''


def _method(name: str, *flags: str) -> Stage:
  """A method of `distill.py` on digits."""
  return Stage(
    'workdir',
    ('distilled.safetensors',),
    lambda straight, scaled: (
      *('--dataset=digits', '--limit=200', '--ipc=2', *_NETWORK, *_WATCHED),
      *(f'--method={name}', f'--num_steps={scaled(100)}', *flags),
    ),
    binary='distill',
  )


def _of_tasks(
  results: Sequence[str], *flags: str, translator: bool = False
) -> Stage:
  """A table or figure, whose tasks run the other binaries."""

  def flags_of(straight: pathlib.Path, scaled: Scaled) -> Sequence[str]:
    given = [f'--recipes={recipes(straight, scaled)}', '--scale=soak', *flags]
    if translator:
      given.append(f'--translator={_omega(straight)}')
    return given

  return Stage('workdir', results, flags_of, ('pretrain',) * translator)


def _set(straight: pathlib.Path, stage: str = 'networks') -> str:
  return str(straight / stage / 'distilled.safetensors')


def _omega(straight: pathlib.Path) -> str:
  return str(straight / 'pretrain' / 'translator.safetensors')


_PEER = '--real_batch=50'
_SUBSETS = (
  *('--min_classes=2', '--max_classes=6', '--max_images=60'),
  '--max_synthetic=18',
)

# By the name of the binary or method, in the order of their inputs.
STAGES = {
  'cache': Stage(
    'folder',
    ('manifest.json', '*.array_record'),
    lambda straight, scaled: (
      *(*_LARGE, *_NETWORK, *_SUBSETS, '--subsets_per_batch=2'),
      *(f'--num_subsets={scaled(24)}', f'--num_steps={scaled(200)}'),
    ),
  ),
  'pretrain': Stage(
    'workdir',
    ('translator.safetensors',),
    lambda straight, scaled: (
      *(*_LARGE, *_NETWORK, *_WATCHED, f'--cache={straight / "cache"}'),
      *('--translator_width=8', '--translator_blocks=1', '--batch_size=2'),
      *(f'--num_steps={scaled(200)}', '--eval_every=20', '--patience=0'),
    ),
    needs=('cache',),
  ),
  'adapt': Stage(
    'workdir',
    ('*.safetensors',),
    lambda straight, scaled: (
      f'--translator={_omega(straight)}',
      *('--dataset=digits', '--limit=200', '--image_size=16', *_WATCHED),
      *('--adapt_ipcs=1,3', '--ipcs=1,2', '--network_pool=3'),
      *(f'--num_steps={scaled(60)}', f'--num_adaptation_steps={scaled(120)}'),
      *('--fit_labels', f'--finishing_steps={3 + scaled(20)}'),
    ),
    needs=('pretrain',),
  ),
  'bilevel': Stage(
    'workdir',
    ('network.safetensors',),
    lambda straight, scaled: (
      *(*_LARGE, *_NETWORK, *_WATCHED, *_SUBSETS, '--num_steps=3'),
      *('--norm=none', f'--num_updates={scaled(60)}'),
    ),
  ),
  'networks': _method('networks', '--num_networks=2', '--revisit'),
  'frepo': _method('frepo', _PEER, '--pool_size=2'),
  'rfad': _method('rfad', _PEER, '--networks_per_step=2'),
  'rcig': _method(
    *('rcig', _PEER, '--pool_size=2', '--norm=none', '--solver=cg'),
    '--num_inner_steps=2',
  ),
  'kip': _method('kip', _PEER, '--network=mlp', '--norm=none'),
  'random_real': _method('random_real'),
  'herding': _method('herding'),
  'k_centre': _method('k_centre'),
  'evaluate': Stage(
    'output',
    ('scores.json',),
    lambda straight, scaled: (_set(straight), '--repeats=3'),
    needs=('networks',),
    file='scores.json',
  ),
  'export': Stage(
    'output',
    ('README.md', 'png/*/*.png', '*.npz', '*.safetensors'),
    lambda straight, scaled: (_set(straight), '--formats=png,npz,torch'),
    needs=('networks',),
  ),
  'relabel': Stage(
    'output',
    ('relabelled.safetensors',),
    lambda straight, scaled: (
      *(_set(straight, 'random_real'), f'--label_networks={scaled(8)}'),
      '--label_images=50',
    ),
    needs=('random_real',),
    file='relabelled.safetensors',
  ),
  'strip': Stage(
    'output',
    ('strip.png',),
    lambda straight, scaled: (_set(straight), _set(straight, 'herding')),
    needs=('networks', 'herding'),
    file='strip.png',
  ),
  'heldout': Stage(
    'output',
    ('heldout.png',),
    lambda straight, scaled: (_omega(straight),),
    needs=('pretrain',),
    file='heldout.png',
  ),
  'table1': _of_tasks(
    ('table1.md', 'table1.csv'),
    *('--rows=digits', '--ipcs=1'),
    '--columns=random real,1 Net,Bi-Level,w/o Ada,Pool',
  ),
  'figure2': _of_tasks(
    ('figure2.md', 'figure2.csv', 'figure2.png'),
    *('--row=digits', '--ipcs=1,2', '--seen=1', '--networks=2'),
  ),
  'figure3': _of_tasks(
    ('figure3.md', 'figure3.csv', 'figure3_*.png'),
    *('--row=digits', '--ipc=1', '--seen=1', '--unseen=2'),
  ),
  'few_networks': _of_tasks(
    ('few_networks_ipc1.*',),
    *('--row=digits', '--ipcs=1', '--networks=1,2', '--steps=4,6'),
    '--updates=2,3',
    translator=True,
  ),
  'compare': Stage(
    'workdir',
    ('compare_ipc1.json', 'ends_ipc1.json', 'methods/ipc1/*.safetensors'),
    lambda straight, scaled: (
      *('--dataset=digits', '--limit=200', '--image_size=16', '--ipcs=1'),
      *(f'--recipes={recipes(straight, scaled)}', '--scale=soak'),
      *('--methods=random_real,pool,frepo,adapt', '--end_protocols=krr'),
      *('--points=2', '--repeats=2', f'--translator={_omega(straight)}'),
    ),
    needs=('pretrain',),
  ),
  'quickstart': Stage(
    'workdir',
    ('report.html', '*.safetensors'),
    lambda straight, scaled: (f'--num_steps={scaled(20)}', '--repeats=1'),
  ),
}


def needed_for(names: Sequence[str]) -> list[str]:
  """Stages and those whose files they read, in the order of `STAGES`."""
  found, open_ = set(), list(names)
  while open_:
    name = open_.pop()
    found.add(name)
    open_ += STAGES[name].needs
  return [name for name in STAGES if name in found]


def recipes(folder: pathlib.Path, scaled: Scaled) -> pathlib.Path:
  """Writes the flagfiles of small tables, and returns their folder."""
  adapting = (
    *(f'--num_steps={scaled(20)}', f'--num_adaptation_steps={scaled(40)}'),
    *('--network_pool=2', '--batch_size=1', '--num_starts=1', *_WATCHED),
  )
  translator = ('--translator_width=4', '--translator_blocks=0')
  large = (*_LARGE, *_NETWORK)
  steps = f'--num_steps={scaled(60)}', *_WATCHED
  flags = {
    'digits': (
      *('--dataset=digits', '--limit=200', '--image_size=16', *_NETWORK),
    ),
    'cache': (
      *(*large, *_SUBSETS, '--augmentation=none', '--subsets_per_batch=2'),
      *('--num_subsets=8', f'--num_steps={scaled(60)}'),
    ),
    'pretrain': (
      *(*large, *translator, *_WATCHED, '--batch_size=2', '--eval_every=20'),
      *('--heldout_networks=1', f'--num_steps={scaled(40)}'),
    ),
    'bilevel': (
      *(*large, *_SUBSETS, *_WATCHED, '--num_steps=2'),
      f'--num_updates={scaled(20)}',
    ),
    'adapt': adapting,
    'few': adapting,
    'no_pretrain': translator,
    'one_net': steps,
    'pool': (*steps, '--num_networks=2', '--revisit'),
    'frepo': (*steps, _PEER, '--pool_size=2'),
  }
  path = folder / 'recipes'
  path.mkdir(parents=True, exist_ok=True)
  for name, own in flags.items():
    (path / f'soak_{name}.flags').write_text(''.join(f'{x}\n' for x in own))
  return path


def comparable(path: pathlib.Path) -> bytes:
  """A file's bytes without times and folders, which no two runs share."""
  data = path.read_bytes()
  if path.suffix == '.json':
    return json.dumps(_untimed(json.loads(data)), sort_keys=True).encode()
  if path.suffix == '.html':  # Seconds are the last columns, and in the text.
    data = re.sub(rb'(<td class="number">[\d.]+</td>){2}</tr>', b'</tr>', data)
    return re.sub(rb'\d+ s\b', b's', data)
  if path.name.startswith('table1'):
    timed = (b'seconds', b'compilation', b'times faster')
    lines = data.splitlines()
    return b'\n'.join(x for x in lines if not any(t in x for t in timed))
  return data


def _untimed(value: Any) -> Any:
  if isinstance(value, list):
    return [_untimed(part) for part in value]
  if not isinstance(value, dict):
    return value
  return {
    name: _untimed(part)
    for name, part in value.items()
    if name not in ('seconds', 'file')
  }
