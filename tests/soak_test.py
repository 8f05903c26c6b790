"""The soak itself: it kills, restarts and would notice a difference."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import soak


@pytest.mark.slow
def test_a_stage_survives_a_kill():
  # One stage, for the time it takes; the others' resume has tests of its own.
  path = pathlib.Path(__file__).with_name('soak.py')
  result = subprocess.run(
    [sys.executable, str(path), '--kills=1', '--work=0.05', '--last=cache'],
    capture_output=True,
    text=True,
    # Compiling is most of the time here, running almost none of it.
    env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
  )
  assert result.returncode == 0, result.stderr
  rows = re.findall(r'^\| (\w+) +\| +1 \|.*\| yes +\|$', result.stdout, re.M)
  assert rows == ['cache']


def test_other_bytes_and_missing_files_are_noticed(tmp_path):
  for folder, contents in (('a', ('1', '2', '3')), ('b', ('1', '5'))):
    (tmp_path / folder).mkdir()
    for number, content in enumerate(contents):
      (tmp_path / folder / f'{number}.safetensors').write_text(content)
  (tmp_path / 'b' / 'log.txt').write_text('of no interest')
  count, different = soak.compare(
    tmp_path / 'a', tmp_path / 'b', ('*.safetensors',)
  )
  assert count == 3
  assert [pathlib.Path(path).name for path in different] == [
    '1.safetensors',
    '2.safetensors',
  ]
  with pytest.raises(RuntimeError, match='No file like'):
    soak.compare(tmp_path / 'a', tmp_path / 'b', ('*.array_record',))


def test_only_steps_of_its_own_put_a_process_in_the_loop(tmp_path):
  log, shard = tmp_path / 'metrics.jsonl', tmp_path / 'shard-0.array_record'
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  log.write_text('{"step": 6, "loss": 1}\n')
  saved = soak.steps(tmp_path, saved=True)
  assert saved == {log: 5}
  # Step 6 stems from the process before: it was logged, but not saved.
  written = log.stat().st_mtime
  assert not soak.advanced(tmp_path, saved, written + 1)
  assert soak.advanced(tmp_path, saved, written)
  log.write_text('{"step": 5, "loss": 1}\n')  # As on resuming.
  assert not soak.advanced(tmp_path, saved, written)
  shard.touch()
  assert soak.advanced(tmp_path, saved, written)
