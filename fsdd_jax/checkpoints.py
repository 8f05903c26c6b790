"""Exact resume of every stage, through Orbax.

A stage keeps its state as one pytree of arrays, derives every random draw from
its step, and so continues after a kill to the same bytes.
"""

import os
import pathlib
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

State = TypeVar('State')


class Checkpointer:
  """Saves and restores the state of one stage in one folder.

  Saving is asynchronous; a checkpoint appears whole or not at all, and one cut
  short by a kill is ignored.

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
    self._folder = pathlib.Path(folder).absolute()
    self._folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def restore_or(self, state: State) -> State:
    """The latest saved state, or the given one where none was saved.

    Args:
      state: a pytree of arrays with the structure, shapes and dtypes saved.

    Returns:
      A pytree of the same structure.

    Raises:
      ValueError: if the latest checkpoint is damaged or of another structure;
        earlier ones are left as they are.
    """
    step = self._manager.latest_step()
    if step is None:
      return state
    abstract = jax.tree.map(_abstract, state)
    try:
      return self._manager.restore(
        step, args=ocp.args.StandardRestore(abstract)
      )
    except Exception as error:  # Orbax raises many kinds; one message for all.
      raise ValueError(
        f'The checkpoint {self._folder / str(step)} cannot be read '
        f'({type(error).__name__}: {str(error)[:200]}). It is damaged or of '
        'another configuration. Delete that folder to go on from the '
        'checkpoint before it, or choose a new workdir.'
      ) from error

  def save(self, step: int, state: Any) -> None:
    """Starts saving a state; returns before it is on disk."""
    self._manager.save(step, args=ocp.args.StandardSave(state))

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
