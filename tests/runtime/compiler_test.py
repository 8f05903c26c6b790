"""Tests of what XLA's compiler is told."""

import os
import subprocess
import sys

import pytest

from fsdd_jax.runtime import compiler

_FLAG = '--xla_cpu_experimental_ynn_fusion_type=-individual_convolution'

_CALL = 'compiler.spread_convolutions()'
# Prints whether a convolution that stands alone is one of the library.
_PROGRAM = f"""
import jax, jax.numpy as jnp
from fsdd_jax.runtime import compiler
{_CALL}
shapes = [jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))]
conv = lambda x, k: jax.lax.conv_general_dilated(
  x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
)
print('ynn_fusion' in jax.jit(conv).lower(*shapes).compile().as_text())
"""


@pytest.fixture
def machine(monkeypatch):
  """Sets the cores of this machine and its version of jaxlib."""

  def set_to(cores, version):
    monkeypatch.setattr(
      os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False
    )
    monkeypatch.setattr(
      compiler.importlib.metadata, 'version', lambda _: version
    )

  return set_to


@pytest.mark.parametrize(
  ('cores', 'version', 'before', 'after'),
  [
    (2, '0.10.2', {}, _FLAG),
    (2, '0.10.0', {'XLA_FLAGS': '--one=1'}, f'--one=1 {_FLAG}'),
    (1, '0.10.2', {}, None),
    (2, '0.11.0', {}, None),
    (2, '0.12.0.1', {}, None),
  ],
)
def test_flag_is_set_where_it_helps(machine, cores, version, before, after):
  machine(cores, version)
  environment = dict(before)
  compiler.spread_convolutions(environment)
  assert environment.get('XLA_FLAGS') == after


def test_own_flag_of_a_user_stays(machine):
  machine(2, '0.10.2')
  own = {'XLA_FLAGS': '--xla_cpu_experimental_ynn_fusion_type=-dot'}
  environment = dict(own)
  compiler.spread_convolutions(environment)
  compiler.spread_convolutions(environment)
  assert environment == own


@pytest.mark.skipif(
  not compiler.is_needed(), reason='one core, or not jaxlib 0.10'
)
def test_compiler_follows():
  as_tests = ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')
  environment = {k: v for k, v in os.environ.items() if k not in as_tests}
  environment |= {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': ''}

  def is_of_library(program):
    found = subprocess.run(
      [sys.executable, '-c', program],
      env=environment,
      capture_output=True,
      text=True,
      check=True,
    )
    return found.stdout.strip() == 'True'

  if not is_of_library(_PROGRAM.replace(_CALL, '')):
    pytest.skip('jaxlib 0.10.0, or a CPU without the library')
  assert not is_of_library(_PROGRAM)
