"""JSON lines and the clock."""

import time

import jax
import jax.numpy as jnp
import pytest

from fsdd_jax.runtime import metrics


def test_rows_come_back_and_later_ones_are_dropped_on_resume(tmp_path):
  with metrics.MetricWriter(tmp_path) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'loss': 1.0 / step})
  with metrics.MetricWriter(tmp_path, resume_step=2) as writer:
    writer.write(3, {'loss': 0.25})
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert rows == [
    {'step': 1, 'loss': 1.0},
    {'step': 2, 'loss': 0.5},
    {'step': 3, 'loss': 0.25},
  ]
  assert list((tmp_path / 'tensorboard').glob('events*'))


def test_a_cut_last_line_is_left_out_but_a_damaged_one_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"st')
  assert metrics.read_metrics(path) == [{'step': 1}]
  path.write_text('{"st\n{"step": 1}\n')
  with pytest.raises(ValueError, match=r'Line 1 of .*metrics.jsonl'):
    metrics.read_metrics(path)


def test_parts_exclude_inner_parts_and_compilation():
  clock = metrics.StageClock()
  with clock.part('outer'):
    with clock.part('inner'):
      time.sleep(0.2)
    jax.jit(lambda x: jnp.sin(x) + 3.25)(jnp.ones(7)).block_until_ready()
  seconds = clock.seconds()
  assert set(seconds) == {'outer', 'inner', 'compilation'}
  assert seconds['inner'] >= 0.2
  assert seconds['outer'] < 0.2
  assert seconds['compilation'] > 0


def test_a_part_counts_when_its_block_raises():
  clock = metrics.StageClock()
  with pytest.raises(KeyError), clock.part('broken'):
    raise KeyError
  assert list(clock.seconds()) == ['broken']


def _run_for(path, seconds, part='distillation'):
  clock = metrics.StageClock(path)
  with clock.part(part):
    time.sleep(seconds)
    clock.save()
  return clock


def test_seconds_add_up_over_runs(tmp_path):
  path = tmp_path / 'seconds.jsonl'
  _run_for(path, 0.2)
  clock = _run_for(path, 0.1)
  assert 0.3 <= clock.seconds()['distillation'] < 0.6
  runs = metrics.read_seconds(path)
  assert len(runs) == 2
  assert sum(run['distillation'] for run in runs) == pytest.approx(
    clock.seconds()['distillation'], abs=0.05
  )


def test_a_killed_run_leaves_the_seconds_of_what_it_saved(tmp_path):
  path = tmp_path / 'seconds.jsonl'
  clock = metrics.StageClock(path)

  def killed():
    with clock.part('distillation'):
      time.sleep(0.2)
      clock.save()  # As with a checkpoint; then comes the kill.
      time.sleep(0.2)
      raise KeyError

  with pytest.raises(KeyError):
    killed()
  assert 0.2 <= metrics.StageClock(path).seconds()['distillation'] < 0.39


@pytest.mark.parametrize('damage', ['bit', 'cut'])
def test_no_flipped_bit_passes_for_seconds(tmp_path, damage):
  path = tmp_path / 'seconds.jsonl'
  _run_for(path, 0.01)
  _run_for(path, 0.01, 'statistics')
  whole, expected = path.read_bytes(), metrics.read_seconds(path)
  refused = 0
  for place in range(len(whole)):
    data = bytearray(whole)
    if damage == 'bit':
      data[place] ^= 1 << place % 7
    else:
      data = data[: place or 1]
    path.write_bytes(data)
    try:
      assert metrics.read_seconds(path) in (expected, expected[:1])
    except ValueError as error:
      assert 'seconds.jsonl' in str(error)  # noqa: PT017
      refused += 1
  # A file of whole lines may have been one of fewer runs.
  assert refused >= len(whole) - 1


def test_seconds_without_a_hash_are_taken_as_they_are(tmp_path):
  path = tmp_path / 'seconds.jsonl'
  path.write_text('{"distillation": 1.5}\n')
  assert metrics.read_seconds(path) == [{'distillation': 1.5}]


def test_damaged_seconds_are_named(tmp_path):
  path = tmp_path / 'seconds.jsonl'
  broken = ('[1]\n{}\n', '{"a": "1"}\n', '\xff\n{}\n', '{"a": NaN}\n')
  for text in (*broken, '{"a": true}\n', '{"a": 1}'):
    path.write_text(text, encoding='latin-1')
    with pytest.raises(ValueError, match=r'seconds\.jsonl'):
      metrics.StageClock(path)


def test_rows_without_a_step_are_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for text in ('{"loss": 1}\n', '[]\n', '{"step": "1"}\n'):
    path.write_text(text)
    with pytest.raises(ValueError, match=r'Line 1 of .*metrics\.jsonl'):
      metrics.read_metrics(path)
