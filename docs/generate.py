"""Writes the pages of the documentation that are made from the code.

`conf.py` calls `write_pages` before each build, so that flags, exported names
and cards are never older than the code:

- `_generated/commands.md`: every flag of every binary in `experiments/`,
- `api/*.md`: what `fsdd_jax` exports, by topic,
- `_generated/zoo.md`: the cards of what the package ships,
- `notebook.ipynb`: the notebook of `experiments/`, as it is.

`unknown_flags` reads the commands on all pages and finds flags that their
binaries do not have.
"""

import concurrent.futures
import dataclasses
import hashlib
import inspect
import json
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'

# Runs a binary up to the point where it would start, and prints its flags.
_LIST_FLAGS = """
import json, os, runpy, sys
from unittest import mock
from absl import app, flags
path, root = sys.argv[1:]
sys.argv = [path]
# As for a program, and where the package is not installed.
sys.path[:0] = [root, f'{root}/experiments']
with mock.patch.object(app, 'run'):
  module = runpy.run_path(path, run_name='__main__')
values = flags.FLAGS
files = {name: getattr(m, '__file__', None) for name, m in sys.modules.items()}
own = {
  flag.name
  for name, defined in values.flags_by_module_dict().items()
  for flag in defined
  if (files.get(name) or name).startswith(root)
}
found = []
for name in sorted(values):
  flag = values[name]
  required = any(
    'must have a value other than None' in validator.message
    for validator in flag.validators
  )
  found.append({
    'name': name, 'help': flag.help, 'default': flag.default_as_str,
    'required': required, 'kind': flag.flag_type(), 'own': name in own,
  })
print(json.dumps({'doc': module['__doc__'], 'flags': found}))
"""

# Flags that all binaries share; the page of commands has them once.
_COMMON = (
  'coordinator_address',
  'heartbeat_seconds',
  'num_processes',
  'process_id',
  'traceback',
)

# The binaries in the order of the page; others follow, benchmarks among them.
_BINARIES = (
  'quickstart',
  'distill',
  'evaluate',
  'export',
  'relabel',
  'strip',
  'cache',
  'pretrain',
  'heldout',
  'adapt',
  'bilevel',
  'compare',
  'few_networks',
  'table1',
  'figure2',
  'figure3',
)

# Exported names by topic; names that none lists go to the last one.
_TOPICS = {
  'Data': (
    'load_dataset',
    'from_arrays',
    'Dataset',
    'TargetSet',
    'repeat_channels',
    'Normalization',
    'standardization',
    'zca_whitening',
    'normalize',
    'denormalize',
  ),
  'Networks': (
    'make_network',
    'register_network',
    'sample_network',
    'FixedNetwork',
    'feature_fn',
  ),
  'Distillation': (
    'distill_over_networks',
    'distill_by',
    'learn_network',
    'PEERS',
    'DistillationResult',
  ),
  'The translator': (
    'build_cache',
    'open_cache',
    'CacheSource',
    'pretrain',
    'adapt',
    'AdaptationResult',
    'distill_dataset',
    'settings_of',
    'pool_networks',
    'fit_labels',
    'finish',
    'Translator',
    'LightTranslator',
    'translate',
    'random_translator',
    'ThetaTranslator',
    'load_translator',
    'save_translator',
  ),
  'Scores and files': (
    'evaluate',
    'Score',
    'EvaluationSettings',
    'unsuitable_augmentation',
    'PROTOCOLS',
    'DistilledSet',
    'Metadata',
    'load_distilled',
    'save_distilled',
  ),
  'Mathematics': (
    'solve',
    'predict',
    'mean_squared_error',
    'krr_loss',
    'krr_loss_from_statistics',
    'target_statistics',
    'dsa',
    'LabeledSet',
    'labeled_set',
    'pad',
    'unpad',
  ),
  'Settings': (
    'DistillationConfig',
    'BilevelConfig',
    'CachingConfig',
    'PretrainingConfig',
    'AdaptationConfig',
    'LoopOptions',
  ),
}
_OTHERS = 'More'


def write_pages() -> dict[str, set[str]]:
  """Writes all pages; returns the flags that each binary knows."""
  found = binaries()
  _write('_generated/commands.md', commands_page(found))
  for name, text in api_pages().items():
    _write(f'api/{name}.md', text)
  _write('_generated/zoo.md', zoo_page())
  notebook = ROOT / 'experiments' / 'fsdd_colab.ipynb'
  _write('notebook.ipynb', notebook.read_text())
  return {
    name: {flag['name'] for flag in binary['flags']}
    for name, binary in found.items()
  }


def binaries() -> dict[str, dict[str, Any]]:
  """Docstring and flags of each binary, by its name.

  Starting all of them takes a minute, so they are kept with a digest of the
  code.
  """
  digest = _digest_of_code()
  kept = DOCS / '_generated' / 'binaries.json'
  if kept.exists():
    found = json.loads(kept.read_text())
    if found['digest'] == digest:
      return found['binaries']
  folder = ROOT / 'experiments'
  paths = {
    str(path.relative_to(folder).with_suffix('')): path
    for path in sorted([*folder.glob('*.py'), *folder.glob('benchmarks/*.py')])
    if "__name__ == '__main__'" in path.read_text()
  }
  names = [name for name in _BINARIES if name in paths]
  names += [name for name in paths if name not in names]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    listed = pool.map(_binary, (paths[name] for name in names))
    found = dict(zip(names, listed, strict=True))
  _write(
    '_generated/binaries.json',
    json.dumps({'digest': digest, 'binaries': found}),
  )
  return found


def _digest_of_code() -> str:
  digest = hashlib.sha256(_LIST_FLAGS.encode())
  for folder in ('experiments', 'fsdd_jax'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      digest.update(f'{path.relative_to(ROOT)}\n'.encode() + path.read_bytes())
  return digest.hexdigest()


def _binary(path: pathlib.Path) -> dict[str, Any]:
  found = subprocess.run(
    [sys.executable, '-c', _LIST_FLAGS, str(path), str(ROOT)],
    capture_output=True,
    check=False,
    cwd=ROOT,
    text=True,
  )
  if found.returncode:
    raise RuntimeError(f'{path} does not start:\n{found.stderr}')
  return json.loads(found.stdout.splitlines()[-1])


def unknown_flags(
  pages: Iterable[pathlib.Path], known: Mapping[str, set[str]]
) -> Iterator[tuple[pathlib.Path, str]]:
  """Flags on pages that their binary does not know, and binaries that miss.

  Args:
    pages: Markdown files.
    known: the flags of each binary.

  Yields:
    The page, and what is wrong there.
  """
  for page in pages:
    text = re.sub(r'<!--.*?-->', '', page.read_text(), flags=re.S)
    text = re.sub(r'\s*\\\n\s*', ' ', text)
    for name, rest in re.findall(
      r'experiments/([\w/]+)\.py([^\n`|;&)]*)', text
    ):
      if name not in known:
        # Text may name a module beside the binaries, but no command runs one.
        module = (ROOT / 'experiments' / f'{name}.py').exists()
        if not module or '--' in rest:
          yield page, f'experiments/{name}.py is no binary'
        continue
      own = re.sub(r"='[^']*'", '=', rest)  # Values hold flags of methods.
      for flag in re.findall(r'(?<!\S)--(?:no)?(\w+)', own):
        if not {flag, f'no{flag}'} & (known[name] | {'flagfile', 'help'}):
          yield page, f'experiments/{name}.py has no flag --{flag}'


def commands_page(found: dict[str, dict[str, Any]]) -> str:
  """What each binary does, and all its flags."""
  parts = []
  for name, binary in found.items():
    parts.append(f'## {name}\n')
    parts.append(_paragraphs(binary['doc']))
    shown = [
      flag
      for flag in binary['flags']
      if flag['own'] and flag['name'] not in _COMMON
    ]
    required = [flag for flag in shown if flag['required']]
    if required:
      parts.append('Required flags:\n')
      parts += [
        f'`--{flag["name"]}`\n: {_cell(flag["help"])}\n' for flag in required
      ]
    optional = [flag for flag in shown if not flag['required']]
    if optional:
      parts.append(f':::{{dropdown}} {len(optional)} optional flags\n')
      parts.append('| flag | default | what it does |\n| --- | --- | --- |')
      parts += [_row(flag) for flag in optional]
      parts.append(':::\n')
  return '\n'.join(parts)


def _paragraphs(doc: str) -> str:
  """A docstring as Markdown; what is indented is a command."""
  lines = []
  for part in inspect.cleandoc(doc).split('\n\n'):
    command = part.lstrip().startswith(('python ', 'XLA_FLAGS'))
    if command or part.startswith('Example:'):
      text = textwrap.dedent(part.removeprefix('Example:\n'))
      lines.append(f'```bash\n{text}\n```\n')
    else:
      lines.append(part.replace('<', r'\<').replace('*', r'\*') + '\n')
  return '\n'.join(lines)


def _row(flag: dict[str, Any]) -> str:
  name = flag['name']
  if flag['kind'] == 'bool':
    name = f'[no]{name}'
  default = (flag['default'] or '').strip("'")
  shown = f'`{default}`' if default else ''
  return f'| `--{name}` | {shown} | {_cell(flag["help"])} |'


def _cell(text: str) -> str:
  """Text within a table: no line ends, nothing that Markdown would read."""
  text = ' '.join(text.split())
  for letter in '|<*[_':
    text = text.replace(letter, f'\\{letter}')
  return text


def api_pages() -> dict[str, str]:
  """A page of each topic, and `index`."""
  import fsdd_jax

  exported = set(fsdd_jax.__all__)
  listed = {name for names in _TOPICS.values() for name in names}
  topics = {
    topic: [name for name in names if name in exported]
    for topic, names in _TOPICS.items()
  } | {_OTHERS: sorted(exported - listed)}
  pages, rows = {}, []
  for topic, names in topics.items():
    if not names:
      continue
    page = topic.lower().replace(' ', '_')
    pages[page] = f'# {topic}\n\n' + '\n'.join(
      _documented(name, getattr(fsdd_jax, name)) for name in names
    )
    links = ', '.join(f'{{py:obj}}`~fsdd_jax.{name}`' for name in names)
    rows.append(f'| [{topic}]({page}.md) | {links} |')
  toctree = '\n'.join(pages)
  pages['index'] = (
    '# API reference\n\nAll names of the package: `import fsdd_jax as fsdd`, '
    'then `fsdd.distill_dataset`.\n\n'
    '| topic | names |\n| --- | --- |\n'
    + '\n'.join(rows)
    + f'\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n'
  )
  return pages


def _documented(name: str, value: Any) -> str:
  """The directive that documents an exported name."""
  if not callable(value):
    names = ', '.join(f'``{key}``' for key in value)
    return (
      f'```{{eval-rst}}\n.. py:data:: fsdd_jax.{name}\n\n'
      f'   A {type(value).__name__} with the entries {names}.\n```\n'
    )
  kind, options = 'function', ''
  if inspect.isclass(value):
    kind, options = 'class', ':members:\n'
  text = f'```{{eval-rst}}\n.. auto{kind}:: fsdd_jax.{name}\n'
  text += ''.join(f'   {line}\n' for line in options.splitlines()) + '```\n'
  return text + _settings(value)


def _settings(value: Any) -> str:
  """The fields of a config, which are the flags of the binaries as well."""
  if not (inspect.isclass(value) and dataclasses.is_dataclass(value)):
    return ''
  fields = [x for x in dataclasses.fields(value) if 'help' in x.metadata]
  if not fields:
    return ''
  lines = ['| field | default | what it does |', '| --- | --- | --- |']
  for field in fields:
    lines.append(
      f'| `{field.name}` | `{field.default!r}` '
      f'| {_cell(field.metadata["help"])} |'
    )
  return '\n' + '\n'.join(lines) + '\n'


def zoo_page() -> str:
  """The cards of the package, translators first."""
  cards = sorted((ROOT / 'fsdd_jax' / 'zoo').rglob('*.md'), reverse=True)
  return '\n'.join(_under_a_title(path.read_text()) for path in cards)


def _under_a_title(text: str) -> str:
  """A card with its headings one level lower."""
  lines, in_code = [], False
  for line in text.splitlines():
    in_code ^= line.startswith('```')
    lines.append(f'#{line}' if line.startswith('#') and not in_code else line)
  return '\n'.join(lines) + '\n'


def _write(name: str, text: str) -> None:
  """Writes a page, unless it is there already: Sphinx reads what changed."""
  path = DOCS / name
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.exists() or path.read_text() != text:
    path.write_text(text)


if __name__ == '__main__':
  write_pages()
