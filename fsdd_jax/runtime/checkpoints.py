"""Exact resume of every stage, through Orbax.

A stage keeps its state as one pytree of arrays, derives every random draw from
its step, and so continues after a kill to the same bytes. Checkpoints hold
host arrays, so that another number of devices or processes may go on, and their
SHA-256, without which a flipped bit would pass.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epy

from fsdd_jax.runtime import files, hashes, processes
from fsdd_jax.runtime.devices import local

with epy.lazy_imports():  # Slow, and a run without a workdir needs none.
  import orbax.checkpoint as ocp

State = TypeVar('State')


class Checkpointer:
  """Saves and restores the state of one stage in one folder.

  Saving is asynchronous; a checkpoint appears whole or not at all, and one cut
  short by a kill is ignored. Of several processes, which all call the same
  methods, process 0 alone touches the folder.

  Example:
    >>> import jax.numpy as jnp
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with Checkpointer(folder) as checkpointer:
    ...   checkpointer.save(3, {'x': jnp.arange(2)})
    >>> with Checkpointer(folder) as checkpointer:
    ...   found = checkpointer.restore_or({'x': jnp.zeros(2, int)})
    >>> found['x'].tolist()
    [0, 1]
  """

  def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2) -> None:
    """Opens or creates a folder of checkpoints.

    Args:
      folder: where the checkpoints lie, one sub-folder a step.
      keep: how many of the latest to keep.

    Raises:
      OSError: if the folder cannot be created.
    """
    self._folder = files.resolve(folder).absolute()
    self._manager: ocp.CheckpointManager | None = None
    if not processes.is_first_process():
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    # Alone in its barriers: the other processes do not take part.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}
    )
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        multiprocessing_options=alone,
        cleanup_tmp_directories=True,
      ),
    )

  def restore_or(self, state: State) -> State:
    """The latest saved state, or the given one where none was saved.

    Args:
      state: a pytree of arrays with the structure, shapes and dtypes saved.

    Returns:
      A pytree of the same structure, placed as the given one.

    Raises:
      ValueError: if the latest checkpoint is damaged or of another structure;
        earlier ones are left as they are.
    """
    step = None if self._manager is None else self._manager.latest_step()
    found = processes.from_first_process(np.int32(-1 if step is None else step))
    if found < 0:
      return state
    values = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    if self._manager is not None:
      values = self._restore(self._manager, int(found), values)
    values = processes.from_first_process(values)
    return jax.tree.map(_place, values, state)

  def _restore(
    self, manager: 'ocp.CheckpointManager', step: int, like: State
  ) -> State:
    try:
      found = manager.restore(
        step, args=ocp.args.StandardRestore(_with_digest(like))
      )
      if not np.array_equal(found['sha256'], _digest(found['state'])):
        raise ValueError('its values are not those of its SHA-256')
      return found['state']
    except Exception as error:  # Orbax raises many kinds; one message for all.
      raise ValueError(
        f'The checkpoint {self._folder / str(step)} cannot be read '
        f'({type(error).__name__}: {str(error)[:200]}). It is damaged or of '
        'another configuration. Delete that folder to go on from the '
        'checkpoint before it, or choose a new workdir.'
      ) from error

  def save(self, step: int, state: Any) -> None:
    """Starts saving a state; returns before it is on disk.

    Raises:
      OSError: if this state, or the one before, cannot be written.
    """
    if self._manager is not None:
      values = jax.device_get(local(state))
      with self._writing(f'The checkpoint of step {step}'):
        self._manager.save(
          step, args=ocp.args.StandardSave(_with_digest(values))
        )

  def finish(self) -> None:
    """Waits until everything is on disk.

    Raises:
      OSError: if something cannot be written.
    """
    if self._manager is not None:
      with self._writing('The last checkpoint'):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """As `finish`, and lets the folder go."""
    self.finish()
    if self._manager is not None:
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self, what: str) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # As above.
      raise OSError(
        f'{what} cannot be written to {self._folder} ({type(error).__name__}: '
        f'{str(error)[:200]}). Free some space or make the folder writable, '
        'then start again: checkpoints written before are intact.'
      ) from error

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _digest(state: Any) -> np.ndarray:
  return np.frombuffer(bytes.fromhex(hashes.hash_tree(state)), np.uint8)


def _with_digest(state: Any) -> dict[str, Any]:
  """A state and its SHA-256 in one tree, which is on disk whole or not."""
  return {'state': state, 'sha256': _digest(state)}


def _place(value: np.ndarray, like: jax.Array) -> jax.Array:
  if not like.committed:  # Nor bound to a device, else others could not share.
    return jnp.asarray(value)
  return jax.make_array_from_callback(
    value.shape, like.sharding, lambda index: value[index]
  )
