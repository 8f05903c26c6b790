"""The command `fsdd`: runs a binary of this folder by its name.

  fsdd distill --flagfile=cpu_pool.flags --dataset=digits --workdir=runs/pool

It imports nothing but the standard library, so that JAX is imported once, by
the binary.
"""

import ast
import os
import pathlib
import sys
import textwrap

_FOLDER = pathlib.Path(__file__).resolve().parents[1]


def commands() -> dict[str, pathlib.Path]:
  """The binaries by their names; those of benchmarks begin with `bench_`."""
  found = {path.stem: path for path in sorted(_FOLDER.glob('*.py'))}
  for path in sorted((_FOLDER / 'benchmarks').glob('*.py')):
    if not path.stem.startswith('_'):
      found[f'bench_{path.stem}'] = path
  return found


def summary(path: pathlib.Path) -> str:
  """The first line of a file's docstring."""
  docstring = ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
  return docstring.partition('\n')[0]


def usage() -> str:
  """What `fsdd --help` prints."""
  lines = [
    'Few-shot dataset distillation by translative pre-training.',
    '',
    'usage: fsdd COMMAND [--flags]; fsdd COMMAND --help lists its flags',
    '',
  ]
  for name, path in commands().items():
    lines += textwrap.wrap(
      f'{name:<20} {summary(path)}',
      width=80,
      initial_indent='  ',
      subsequent_indent=' ' * 23,
    )
  lines += ['', f'Flagfiles, found by their names: {_FOLDER / "recipes"}']
  return '\n'.join(lines)


def _print(text: str) -> None:
  """Prints as far as someone reads, as in `fsdd | head -1`."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    # Else the interpreter complains when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
  """Replaces this process by the binary that the first argument names."""
  found, name = commands(), (sys.argv[1:] or ['--help'])[0]
  if name in ('-h', '--help', 'help'):
    _print(usage())
    return
  if name not in found:
    sys.exit(f'error: no command {name!r}; choose among {", ".join(found)}.')
  command = [sys.executable, str(found[name]), *sys.argv[2:]]
  os.execv(sys.executable, command)


if __name__ == '__main__':
  main()
