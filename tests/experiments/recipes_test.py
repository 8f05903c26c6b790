"""Every flagfile that is shipped is one that its binary reads."""

import dataclasses
import os
import pathlib
import re
import subprocess
import tarfile

import pytest

from binaries import EXPERIMENTS
from fsdd_jax.algorithms import adaptation_config, configs, method_configs
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from workbench import config_flags, methods

_FLAGFILES = sorted((EXPERIMENTS / 'recipes').glob('*.flags'))
_CONFIGS = {
  'adapt': (adaptation_config.AdaptationConfig,),
  'bilevel': (method_configs.BilevelConfig,),
  'cache': (method_configs.CachingConfig,),
  'no_pretrain': (
    adaptation_config.AdaptationConfig,
    configs.TranslatorConfig,
  ),
  'pretrain': (
    method_configs.PretrainingConfig,
    configs.TranslatorConfig,
  ),
}
_CONFIGS['pretrain_ae'] = _CONFIGS['pretrain']
_CONFIGS['labels'] = _CONFIGS['then_pool'] = _CONFIGS['adapt']
_OF_BINARIES = {'ipcs', 'method'}
_DISTILLED = (
  DistillationConfig,
  *(m.config_class for m in methods.METHODS.values() if m.config_class),
)


@pytest.mark.parametrize('path', _FLAGFILES, ids=lambda path: path.stem)
def test_a_flagfile_has_flags_and_values_of_its_binary(path):
  name = path.stem.partition('_')[2]
  kinds = DataConfig, NetworkConfig, *_CONFIGS.get(name, _DISTILLED)
  known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
  lines = [line for line in path.read_text().splitlines() if line[:1] != '#']
  given = {line.removeprefix('--').partition('=')[0] for line in lines}
  assert given <= known | _OF_BINARIES
  for kind in kinds:
    # Apart, as adaptation and distillation share names.
    config_flags.parse(lines, kind)


_STUB = """#!/usr/bin/env bash
echo "$@"
for flag in "$@"; do
  case $flag in --workdir=*) folder=${flag#*=} ;; esac
done
case "$*" in
  *roofline*) exit 3 ;;
  *choices*) sleep $STUB_SECONDS ;;
  *pretrain.py*) made='translator.safetensors' ;;
  *table1.py*) made='table1.md' ;;
  *figure2.py*) made='figure2.md figure2.png' ;;
esac
for name in $made; do
  mkdir -p $folder && echo "$*" >$folder/$name
done
"""


def _study(tmp_path, seconds, *, stub_seconds=0, **environment):
  """Runs the script with a python that tells its arguments."""
  stub = tmp_path / 'stub'
  stub.write_text(_STUB)
  stub.chmod(0o755)
  out = tmp_path / 'out'
  result = subprocess.run(
    [
      *('bash', str(EXPERIMENTS / 'accelerator.sh')),
      *(str(out), str(seconds)),
    ],
    env={
      **os.environ,
      'PYTHON': str(stub),
      'STUB_SECONDS': str(stub_seconds),
      'LARGE': 'npz:large',
      'TARGET': 'npz:target',
      **environment,
    },
    capture_output=True,
    text=True,
  )
  told = (out / 'parts.log').read_text().splitlines()
  return result, (out / 'summary.txt').read_text().splitlines(), told


def test_the_study_goes_on_after_a_part_that_failed(tmp_path):
  result, summary, told = _study(tmp_path, 100)
  assert result.returncode == 1, result.stderr
  assert [line.partition(' after')[0] for line in summary] == [
    *('versions: done', 'roofline: failed with 3', 'choices: done'),
    *('cache: done', 'pretrain: done', 'cifar10_seeds_0: done'),
    *('cifar10_seeds_0_1_2: done', 'imagenette_128: done'),
    *('figure2: done', 'trained: done'),
  ]
  found = [line for line in told if not line.startswith('=====')]
  assert all('--dataset=npz:large' in line for line in found[-7:-5])
  for line in found[-5:]:
    assert '--in_process --translator=' in line
    assert '--scale=gpu' in line
  assert '--target_flag=--dataset=imagenette_128' in found[-3]
  assert '--protocols=frepo' in found[-1]
  out = tmp_path / 'out'
  files = {path.name for path in out.iterdir() if path.is_file()}
  assert files == {
    *('summary.txt', 'parts.log', 'tables.tar', 'translator.safetensors')
  }
  with tarfile.open(out / 'tables.tar') as tables:
    assert './cifar10_seeds_0_1_2.md' in tables.getnames()
    assert './figure2.png' in tables.getnames()


def test_the_study_whitens_what_can_be_whitened(tmp_path):
  _, _, told = _study(tmp_path, 100, PARTS='3 4', SEEDS='1')
  plain, large = (line for line in told if not line.startswith('====='))
  white = '--target_flag=--zca --target_flag=--dataset='
  assert f'{white}npz:target' in plain
  assert '--zca' not in large
  assert '--translator=tiny_imagenet_32_wide --target_flag=--dataset=' in large


def test_the_study_does_what_is_missing_when_it_is_started_again(tmp_path):
  _, before, _ = _study(tmp_path, 100)
  _, summary, _ = _study(tmp_path, 100)
  again = summary[len(before) :]
  assert [line.partition(' after')[0] for line in again] == [
    'roofline: failed with 3'
  ]
  result, summary, _ = _study(tmp_path, 100, PARTS='4 5')
  assert result.returncode == 0
  assert len(summary) == len(before) + len(again)


def test_a_table_stays_its_own_when_the_study_is_started_again(tmp_path):
  results = tmp_path / 'out' / 'work' / 'results'
  made = {
    **{'cifar10_seeds_0.md': '--seeds=0', 'trained.md': '--protocols=frepo'},
    **{'cifar10_seeds_0_1_2.md': '--seeds=0,1,2', 'figure2.png': '--seen=1,20'},
    **{'figure2.md': '--seen=1,20', 'imagenette_128.md': 'imagenette_128:1+10'},
  }
  for _ in range(2):
    _, _, told = _study(tmp_path, 100)
    texts = {path.name: path.read_text() for path in results.iterdir()}
    assert texts.keys() == made.keys()
    for name, flag in made.items():
      assert f'{flag} ' in f'{texts[name].strip()} ', name
  # Parts may run side by side: each has its folder, and all have one of tasks.
  folders = re.findall(r'--workdir=(\S+/tables/\S+)', '\n'.join(told))
  folders = {pathlib.Path(each) for each in folders}
  assert len(folders) == 5
  assert len({(each / 'tasks').resolve(strict=True) for each in folders}) == 1


def test_the_sets_of_part_3_are_those_that_part_6_trains_on(tmp_path):
  _, _, told = _study(tmp_path, 100, SEEDS='0')
  first, *_, trained = (line for line in told if '--rows=cifar10' in line)
  rows = re.compile(r'--rows=\S+')
  assert rows.search(first)[0] == rows.search(trained)[0]


def test_the_study_makes_columns_without_a_translator(tmp_path):
  _, summary, told = _study(tmp_path, 100, PARTS='3', SEEDS='1')
  (line,) = summary
  assert line.startswith('plain_cifar10_seeds_1: done')
  assert '--columns=1 Net,Baseline,Pool,random real --seeds=1' in told[1]


def test_the_study_takes_a_translator_that_is_there(tmp_path):
  _, summary, told = _study(tmp_path, 100, PARTS='3', TRANSLATOR='shipped')
  assert summary[0].startswith('cifar10_seeds_0: done')
  assert '--translator=shipped' in told[1]
  assert '--columns=w Ada,w/o Ada,1 Net,' in told[1]
  _, summary, told = _study(tmp_path, 100, PARTS='2 5', TRANSLATOR='shipped')
  own = tmp_path / 'out' / 'translator.safetensors'
  assert f'--translator={own}' in told[-1]


@pytest.mark.slow
def test_the_study_stops_what_lasts_too_long(tmp_path):
  result, summary, _ = _study(tmp_path, 8, stub_seconds=30)
  assert result.returncode == 1
  assert summary[2].startswith('choices: stopped after')
  assert summary[3:] == [
    *('cache: no time left', 'pretrain: no time left'),
    'plain_cifar10_seeds_0: no time left',
    'plain_cifar10_seeds_0_1_2: no time left',
    *('imagenette_128: no time left', 'figure2: no translator yet'),
    'trained: no time left',
  ]


def test_the_study_installs_the_packages_it_is_given(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / f'{name}.whl').touch()
  _, summary, told = _study(tmp_path, 100, WHEELS=str(tmp_path))
  assert summary[0].startswith('packages: done')
  assert told[1].endswith(f'--no-deps {tmp_path}/a.whl {tmp_path}/b.whl')


def test_the_study_says_how_to_call_it():
  script = str(EXPERIMENTS / 'accelerator.sh')
  result = subprocess.run(['bash', script], capture_output=True, text=True)
  assert result.returncode == 2
  assert 'accelerator.sh OUT SECONDS' in result.stderr
  assert 'set -uo' not in result.stderr


def test_the_scales_of_the_study_have_the_same_flagfiles():
  names = {
    scale: {
      path.stem.partition('_')[2]
      for path in _FLAGFILES
      if path.stem.startswith(scale)
    }
    for scale in ('gpu', 'dry')
  }
  assert names['gpu'] - names['dry'] == {'bilevel', 'pretrain_ae'}
  assert names['dry'] <= names['gpu']
