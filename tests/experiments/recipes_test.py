"""Every flagfile that is shipped is one that its binary reads."""

import dataclasses
import os
import subprocess

import pytest

from binaries import EXPERIMENTS
from fsdd_jax.algorithms import configs, method_configs
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  NetworkConfig,
)
from workbench import config_flags, methods

_FLAGFILES = sorted((EXPERIMENTS / 'recipes').glob('*.flags'))
_CONFIGS = {
  'adapt': (method_configs.AdaptationConfig,),
  'bilevel': (method_configs.BilevelConfig,),
  'cache': (method_configs.CachingConfig,),
  'few': (method_configs.AdaptationConfig,),
  'no_pretrain': (configs.TranslatorConfig,),
  'pretrain': (
    method_configs.PretrainingConfig,
    configs.TranslatorConfig,
  ),
}
_CONFIGS['pretrain_ae'] = _CONFIGS['pretrain']
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


def _study(tmp_path, seconds, *archives, stub_seconds=0):
  """Runs the script with a python that tells its arguments, slowly."""
  stub = tmp_path / 'bin' / 'python'
  stub.parent.mkdir(exist_ok=True)
  stub.write_text(
    '#!/bin/sh\necho "$@"\ncase "$*" in *choices*) sleep $STUB_SECONDS;; '
    '*roofline*) exit 3;; esac\n'
  )
  stub.chmod(0o755)
  path = f'{stub.parent}{os.pathsep}{os.environ["PATH"]}'
  return subprocess.run(
    [
      *('bash', str(EXPERIMENTS / 'accelerator.sh')),
      *(str(tmp_path / 'out'), str(seconds), *map(str, archives)),
    ],
    env={
      **os.environ,
      'PATH': path,
      'STUB_SECONDS': str(stub_seconds),
      'FSDD_DATA_DIR': str(tmp_path),
      'ROWS': 'cifar10:1+10 digits',
      'BENCHMARK': '--width=4 --ipc=1',
    },
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_the_study_stops_what_lasts_too_long_and_tells_what_failed(tmp_path):
  (tmp_path / 'image').write_text('an image')
  archive = tmp_path / 'data.tar'
  subprocess.run(
    ['tar', '-cf', str(archive), '-C', str(tmp_path), 'image'], check=True
  )
  (tmp_path / 'image').unlink()
  result = _study(tmp_path, 6, archive, stub_seconds=20)
  assert (tmp_path / 'image').read_text() == 'an image'
  assert result.returncode == 0, result.stderr
  summary = (tmp_path / 'out' / 'summary.txt').read_text().splitlines()
  assert summary[0].startswith('unpack_data: done')
  assert summary[2].startswith('choices: stopped after')
  assert summary[3] == 'roofline: no time left'
  result = _study(tmp_path, 100)
  summary = (tmp_path / 'out' / 'summary.txt').read_text().splitlines()
  assert result.returncode == 1
  assert any(line.startswith('roofline: failed with 3') for line in summary)
  assert any(line.startswith('table_digits: done') for line in summary)
  told = (tmp_path / 'out' / 'table_cifar10_1_10.log').read_text()
  assert '--scale=gpu' in told
  assert '--rows=cifar10:1+10' in told
