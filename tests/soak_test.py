"""The soak itself: it kills, restarts and would notice a difference."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

import soak
from workbench import command, methods


@pytest.mark.slow
def test_a_stage_survives_a_kill():
  # One stage, for the time it takes; the others' resume has tests of its own.
  path = pathlib.Path(__file__).with_name('soak.py')
  result = subprocess.run(
    [sys.executable, str(path), '--kills=1', '--work=0.05', '--last=cache'],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  rows = re.findall(r'^\| (\w+) +\| +1 \|.*\| yes +\|$', result.stdout, re.M)
  assert rows == ['cache']


def test_every_binary_and_method_is_a_stage():
  binaries = {stage.binary or name for name, stage in soak.STAGES.items()}
  expected = {x for x in command.commands() if not x.startswith('bench_')}
  assert binaries == expected
  assert soak.STAGES.keys() >= methods.METHODS.keys()


def test_stages_come_after_those_whose_files_they_read():
  names = list(soak.STAGES)
  for name, stage in soak.STAGES.items():
    assert all(names.index(need) < names.index(name) for need in stage.needs)
  assert soak.needed_for(['adapt', 'export']) == [
    *('cache', 'pretrain', 'adapt', 'networks', 'export')
  ]


def test_times_and_folders_are_left_out_and_nothing_else(tmp_path):
  path = tmp_path / 'ends.json'

  def compared(**score):
    path.write_text(json.dumps({'file': '/a', 'ends': [score]}))
    return soak.comparable(path)

  first = compared(mean=1.0, seconds=2.0)
  assert compared(mean=1.0, seconds=3.0) == first
  assert compared(mean=1.5, seconds=2.0) != first
  page = tmp_path / 'report.html'
  row = '<tr><td>1 Net</td><td class="number">{}</td>'
  found = []
  for accuracy, seconds in (('9.0', '1.2'), ('9.0', '3.4'), ('8.0', '1.2')):
    timed = f'<td class="number">{seconds}</td>' * 2
    page.write_text(
      f'{row.format(accuracy)}{timed}</tr><p>takes {seconds[0]} s</p>'
    )
    found.append(soak.comparable(page))
  assert found[0] == found[1] != found[2]


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
