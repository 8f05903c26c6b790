"""What the package ships: translators and distilled sets, each with a card.

A card `NAME.md` beside `NAME.safetensors` says of which data it was made, how,
what it scores, and under which terms the data may be used.
"""

import os
import pathlib

from fsdd_jax.runtime import files
from fsdd_jax.storage.distilled_set import DistilledSet, read_distilled
from fsdd_jax.storage.translators import ThetaTranslator, read_translator

_FOLDER = pathlib.Path(__file__).parent


def translator_names() -> tuple[str, ...]:
  """Names that `load_translator` takes."""
  return _names('translators')


def distilled_names() -> tuple[str, ...]:
  """Names that `load_distilled` takes."""
  return _names('distilled')


def path_of(name: str) -> pathlib.Path:
  """The file of what is shipped by this name, or the path that it is itself.

  Raises:
    ValueError: for a remote address.
  """
  return _shipped_or_at(name, 'distilled', 'translators')


def load_translator(
  name: str | os.PathLike[str], *, num_classes: int = 10
) -> ThetaTranslator:
  """A pre-trained translator omega_0 with the fixed network theta it is for.

  Args:
    name: of a shipped one, see `translator_names`, or a file that
      `save_translator` wrote. A shipped name goes before a file.
    num_classes: logits of the network; its features do not depend on it.

  Returns:
    The translator, as `adapt` and `distill_dataset` take it.

  Raises:
    FileNotFoundError: if it is neither; the message lists the names.
    ValueError: if the file is damaged, or no local path.

  Example:
    >>> start = load_translator('tiny_imagenet_32')
    >>> start.theta.image_shape, start.translator.inputs
    ((32, 32, 3), ('images', 'start', 'theta'))
  """
  path = _find(name, 'translators', 'translator')
  return read_translator(path, num_classes=num_classes)


def load_distilled(name: str | os.PathLike[str]) -> DistilledSet:
  """A distilled set: images, labels, normalisation, and what they are of.

  Args:
    name: of a shipped one, see `distilled_names`, or a file that
      `save_distilled` wrote. A shipped name goes before a file.

  Returns:
    The set, with NumPy images and labels.

  Raises:
    FileNotFoundError: if it is neither; the message lists the names.
    ValueError: if the file is damaged, of another format or a newer version,
      or if its content does not fit together.

  Example:
    >>> distilled = load_distilled('cifar10_ipc1')
    >>> distilled.images.shape, distilled.metadata.class_names[:2]
    ((10, 32, 32, 3), ('airplane', 'automobile'))
  """
  return read_distilled(_find(name, 'distilled', 'distilled set'))


def card(name: str) -> str:
  """The card of what is shipped by this name, Markdown.

  Raises:
    FileNotFoundError: if nothing is.
  """
  for path in _FOLDER.glob(f'*/{name}.md'):
    return path.read_text()
  names = ', '.join(translator_names() + distilled_names())
  raise FileNotFoundError(f'Nothing is shipped as {name!r}; there are {names}.')


def _names(folder: str) -> tuple[str, ...]:
  files_of_kind = (_FOLDER / folder).glob('*.safetensors')
  return tuple(sorted(path.stem for path in files_of_kind))


def _shipped_or_at(name: str | os.PathLike[str], *folders: str) -> pathlib.Path:
  """The file of a name that is shipped in one of the folders, else a path."""
  for folder in folders:
    if name in _names(folder):  # A text; a Path is that of a file.
      return _FOLDER / folder / f'{name}.safetensors'
  return files.resolve(name)


def _find(name: str | os.PathLike[str], folder: str, kind: str) -> pathlib.Path:
  """As `_shipped_or_at`, if there is such a file."""
  path = _shipped_or_at(name, folder)
  if not path.is_file():
    raise FileNotFoundError(
      f'{os.fspath(name)!r} is no file and no shipped {kind}; these are '
      f'{", ".join(_names(folder))}.'
    )
  return path
