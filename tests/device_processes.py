"""Fresh processes with forced host devices, for tests of many devices.

The number of devices and processes is fixed once JAX starts.
"""

import os
import pathlib
import socket
import subprocess
import sys
import traceback

_TESTS = pathlib.Path(__file__).parent


def environment(num_devices):
  """The environment of a process with forced host devices."""
  flag = f'--xla_force_host_platform_device_count={num_devices}'
  folders = {path.parent for path in _TESTS.rglob('*_test.py')}
  paths = [*map(str, sorted({_TESTS, *folders})), str(_TESTS.parent)]
  paths.append(str(_TESTS.parent / 'experiments'))
  return os.environ | {
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {flag}',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(paths),
  }


def start(call, num_devices):
  """Starts a call such as `module_test.function()` in a fresh process."""
  module = call.split('.')[0]
  return subprocess.Popen(
    [sys.executable, '-c', f'import {module}; {call}'],
    env=environment(num_devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  try:
    output, _ = process.communicate(timeout=900)
  finally:
    process.kill()
  return output


def run_checks(functions):
  """Runs functions `check_*`, given by name, and tells what became of each."""
  for name, check in functions.items():
    try:
      check()
      print(f'passed {name}')
    except Exception:
      print(f'failed {name}\n{traceback.format_exc()}')


def checks(functions):
  return {k: f for k, f in functions.items() if k.startswith('check_')}


def free_address():
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return f'localhost:{probe.getsockname()[1]}'
