"""The command `fsdd`, flagfiles by name, and what --help says."""

import pathlib
import subprocess
import sys

import pytest

from workbench import command, flagfiles, help_text

_ROOT = pathlib.Path(__file__).parents[3]


def test_each_command_has_one_line_within_80_columns():
  found = command.commands()
  assert {'distill', 'cache', 'pretrain', 'adapt', 'table1'} <= found.keys()
  assert all(command.summary(path) for path in found.values())
  usage = command.usage()
  assert max(map(len, usage.splitlines()[:-1])) <= 80
  assert all(f'  {name} ' in usage for name in found)


def _run(folder, *arguments):
  return subprocess.run(
    [sys.executable, command.__file__, *arguments],
    cwd=folder,
    capture_output=True,
    text=True,
  )


def test_an_unknown_command_is_told_with_the_known_ones(tmp_path):
  result = _run(tmp_path, 'destill')
  assert result.returncode == 1
  assert "no command 'destill'; choose among" in result.stderr


def test_a_command_runs_elsewhere_with_a_flagfile_and_an_import(tmp_path):
  (tmp_path / 'mine.py').write_text(
    'from fsdd_jax.networks import extractors\n'
    "extractors.register('mine')(extractors.Mlp)\n"
  )
  result = _run(
    tmp_path,
    *('distill', '--flagfile=cpu_one_net.flags', '--import=mine'),
    *('--network=mine', '--dataset=digits', '--limit=50', '--num_steps=1'),
    *('--ipc=1', '--workdir=out'),
  )
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'out' / 'distilled.safetensors').exists()


def test_help_lists_required_flags_first_and_marks_defaults(tmp_path):
  result = _run(tmp_path, 'distill', '--help')
  assert result.returncode == 0, result.stderr
  groups = [
    line
    for line in result.stdout.splitlines()
    if line[:1] != ' ' and line[-1:] == ':'
  ]
  assert groups[:5] == [
    *('required:', 'this command:', 'data:', 'network:', 'distillation:')
  ]
  required = result.stdout.partition('required:')[2].partition('this command')
  assert '--workdir' in required[0]
  assert '[default: 300; ours]' in result.stdout
  assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
  ('text', 'default', 'group', 'expected'),
  [
    ('alpha for images [ours].', '0.1', '', 'ours'),
    ('adam, adabelief, lamb or sgd (literal).', 'adam', '', 'ours'),
    ('A fresh one a sample; 0: all (literal).', '0', '', 'paper'),
    ('dsa (Alg. 1), frepo, none.', 'dsa', '', 'paper'),
    ('Most classes (supplement, section B: 100).', '100', '', 'paper'),
    ('Ridge (KIP, FRePo); 0 is literal.', '1e-06', '', 'KIP, FRePo'),
    ('adam (RCIG), or cg [ours].', 'adam', 'RCIG', 'RCIG'),
    ('Steps between log lines.', '10', '', ''),
  ],
)
def test_the_source_of_a_default(text, default, group, expected):
  assert help_text.source(text, default, group) == expected


def test_a_flagfile_that_is_here_goes_before_a_shipped_one(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  arguments = ['--flagfile=cpu_pool.flags', '--ipc=1', '--flagfile=none.flags']
  (first, *others) = flagfiles.with_shipped(arguments)
  shipped = _ROOT / 'experiments' / 'recipes' / 'cpu_pool.flags'
  assert pathlib.Path(first.removeprefix('--flagfile=')) == shipped
  assert others == arguments[1:]
  (tmp_path / 'cpu_pool.flags').write_text('')
  assert flagfiles.with_shipped(arguments) == arguments
