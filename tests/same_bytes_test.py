"""The comparison of two commits' files sees all but seconds and digests."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

import same_bytes
import same_bytes_files

_MARKDOWN = """\
| method |  krr | seconds |
| ------ | ---: | ------: |
| 1 Net  | {} | {} |
"""
_ROWS = 'data,IPC,,1 Net\ndigits,1,"accuracy, krr",{}\ndigits,1,seconds,{}\n'
_HTML = """\
<thead><tr><th>set</th><th>krr</th><th>seconds</th></tr></thead>
<tbody>
<tr><th>1 Net</th><td>{}</td><td>{}</td></tr>
"""
_TEX = 'set & krr & seconds \\\\\n\\midrule\n1 Net & {} & {} \\\\\n'


def _difference(folder, name, before, after):
  """Of two files of a name; contents are text or bytes."""
  paths = []
  for which, content in (('before', before), ('after', after)):
    paths.append(folder / which / name)
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    paths[-1].write_bytes(data)
  return same_bytes_files.difference(name, *paths)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('table1/stdout.txt', _MARKDOWN),
    ('table1/stdout.txt', '1 Net has {}% after {} s, all told.'),
    ('table1/stdout.txt', '{} of tables/tasks/cache-00000000{}/a.json'),
    ('tables/table1.csv', _ROWS),
    ('tables/table1.html', _HTML),
    ('tables/table1.tex', _TEX),
    ('tables/table1.json', '[{{"mean": {}, "seconds": {{"krr": {}}}}}]'),
    ('evaluate/scores.json', '{{"scores": {{"mean": {}, "seconds": {}}}}}'),
  ],
)
def test_of_numbers_seconds_alone_are_left_out(name, text, tmp_path):
  before = text.format('50.0', '1234')
  assert not _difference(tmp_path, name, before, text.format('50.0', '5678'))
  found = _difference(tmp_path, name, before, text.format('50.1', '1234'))
  assert '50.0' in found
  assert '50.1' in found


@pytest.mark.parametrize(
  ('before', 'after', 'first'),
  [
    ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '.a: 1 BEFORE, .b'),
    ('{"a": [1, 2]}', '{"a": [1]}', '.a[1]: 2 BEFORE, nothing'),
    ('{"seconds": 1}', '{}', '.seconds'),
  ],
)
def test_the_first_other_key_is_told(before, after, first, tmp_path):
  found = _difference(tmp_path, 'a/config.json', before, after)
  assert found.startswith(first)


def test_tensors_and_their_metadata_are_compared(tmp_path):
  def saved(value, mean, seconds):
    score = {'mean': mean, 'seconds': seconds}
    return safetensors.numpy.save(
      {'images': np.full(3, value, np.float32)},
      {'fsdd_jax': json.dumps({'metadata': {'scores': [score]}})},
    )

  name, before = 'a/distilled.safetensors', saved(0, 50, 1)
  assert not _difference(tmp_path, name, before, saved(0, 50, 2))
  found = _difference(tmp_path, name, before, saved(0, 51, 1))
  assert found.startswith('.fsdd_jax.metadata.scores[0].mean: 50')
  found = _difference(tmp_path, name, before, saved(-0.0, 50, 1))
  assert found.startswith("images: 'float32 (3,)")


def test_checkpoints_are_compared_by_their_arrays(tmp_path):
  paths = []
  for number, value in enumerate((1, 1, 2)):
    folder = tmp_path / str(number) / 'a' / 'checkpoints' / '4' / 'default'
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(folder, {'x': np.full(3, value)})
    files = [path for path in folder.rglob('*') if path.is_file()]
    found = same_bytes_files.named(tmp_path / str(number), files)
    assert list(found) == ['a/checkpoints/4']
    paths += found.values()
  assert not same_bytes_files.difference('a/checkpoints/4', *paths[:2])
  found = same_bytes_files.difference('a/checkpoints/4', *paths[1:])
  assert found.startswith("['x']: 'int64 (3,)")


def test_a_missing_file_is_a_difference_and_digests_of_code_are_none(tmp_path):
  paths = {
    which: tmp_path / which / 'tables' / 'tasks' / f'cache-{digest}' / 'a.json'
    for which, digest in (('before', '0' * 12), ('after', '1' * 12))
  }
  outcomes = [
    same_bytes.Outcome('', same_bytes_files.named(tmp_path / which, [path]), 0)
    for which, path in paths.items()
  ]
  for path in paths.values():
    path.parent.mkdir(parents=True)
    path.write_text('{}')
  assert same_bytes.compare('table1', *outcomes)['same']
  none = same_bytes.Outcome('status 1', {}, 0)
  found = same_bytes.compare('table1', outcomes[0], none)
  assert not found['same']
  assert found['different'] == {
    'AFTER': 'status 1',
    'tables/tasks/cache/a.json': 'not written AFTER',
  }


def test_runs_come_with_those_that_they_need():
  names = [run.name for run in same_bytes.wanted(['pretrain', 'export'])]
  assert names == ['cache', 'pretrain', 'one_net', 'export']
  quick = {run.name for run in same_bytes.wanted([])}
  assert 'quickstart' not in quick
  assert len(quick) == len(same_bytes.same_bytes_runs.RUNS) - 1
