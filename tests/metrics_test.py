"""JSON lines and the clock."""

import time

import jax
import jax.numpy as jnp
import pytest

from fsdd_jax import metrics


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
