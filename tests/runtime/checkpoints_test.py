"""Saving, restoring and damaged checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.runtime.checkpoints import Checkpointer


def _state(value):
  return {'a': jnp.full((3,), value), 'step': jnp.asarray(int(value))}


def test_the_last_state_comes_back(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    start = _state(0.0)
    assert checkpointer.restore_or(start) is start
    for step in (1, 2, 3):
      checkpointer.save(step, _state(float(step)))
  with Checkpointer(tmp_path) as checkpointer:
    restored = checkpointer.restore_or(_state(0.0))
  jax.tree.map(np.testing.assert_array_equal, restored, _state(3.0))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '3']


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, _state(1.0))
    checkpointer.save(2, _state(2.0))
  for path in (tmp_path / '2').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:10])
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(ValueError, match=r'2 cannot be read .*Delete that folder'),
  ):
    checkpointer.restore_or(_state(0.0))
  for path in sorted((tmp_path / '2').rglob('*'), reverse=True):
    path.unlink() if path.is_file() else path.rmdir()
  (tmp_path / '2').rmdir()
  with Checkpointer(tmp_path) as checkpointer:
    restored = checkpointer.restore_or(_state(0.0))
  jax.tree.map(np.testing.assert_array_equal, restored, _state(1.0))


def test_another_structure_is_refused(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, _state(1.0))
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(ValueError, match='another configuration'),
  ):
    checkpointer.restore_or({'b': jnp.zeros(3)})


@pytest.mark.parametrize('bit', range(6))
def test_a_flipped_bit_is_an_error_that_names_the_checkpoint(tmp_path, bit):
  rng = np.random.default_rng(0)
  state = {'x': jnp.asarray(rng.normal(size=3000), jnp.float32)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(38, state)
  files = [p for p in (tmp_path / '38').rglob('*') if p.is_file()]
  path = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(path.read_bytes())
  data[(bit + 1) * len(data) // 7] ^= 1 << bit
  path.write_bytes(data)
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(ValueError, match=r'checkpoint .*38 cannot be read'),
  ):
    checkpointer.restore_or(jax.tree.map(jnp.zeros_like, state))


def test_a_bit_flipped_anywhere_never_gives_another_state(tmp_path):
  state = _state(2.0)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state)
  rng = np.random.default_rng(0)
  refused = 0
  for path in sorted(p for p in (tmp_path / '1').rglob('*') if p.is_file()):
    whole = path.read_bytes()
    for place in rng.integers(0, len(whole), 2) if whole else []:
      data = bytearray(whole)
      data[place] ^= 1 << int(rng.integers(8))
      path.write_bytes(data)
      with Checkpointer(tmp_path) as checkpointer:
        try:
          found = checkpointer.restore_or(_state(0.0))
        except ValueError:
          refused += 1
        else:
          jax.tree.map(np.testing.assert_array_equal, found, state)
    path.write_bytes(whole)
  assert refused
