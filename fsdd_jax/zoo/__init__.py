"""What the package ships: pre-trained translators, each with a card.

A card `NAME.md` beside `NAME.safetensors` says of which data it was made, how,
what it scores, and under which terms the data may be used.
"""

import pathlib

from fsdd_jax.runtime import files
from fsdd_jax.storage.translators import ThetaTranslator, read_translator

_FOLDER = pathlib.Path(__file__).parent / 'translators'


def translator_names() -> tuple[str, ...]:
  """Names that `load_translator` takes."""
  return tuple(sorted(path.stem for path in _FOLDER.glob('*.safetensors')))


def path_of(name: str) -> pathlib.Path:
  """The file of a shipped translator, or the path that a name is itself.

  Raises:
    ValueError: for a remote address.
  """
  if name in translator_names():
    return _FOLDER / f'{name}.safetensors'
  return files.resolve(name)


def load_translator(name: str, *, num_classes: int = 10) -> ThetaTranslator:
  """A pre-trained translator omega_0 with the fixed network theta it is for.

  Args:
    name: of a shipped one, see `translator_names`, or a file that
      `save_translator` wrote.
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
  path = path_of(name)
  if not path.exists():
    raise FileNotFoundError(
      f'{name!r} is no file and no shipped translator; these are '
      f'{", ".join(translator_names()) or "none"}.'
    )
  return read_translator(path, num_classes=num_classes)


def card(name: str) -> str:
  """The card of a shipped translator, Markdown.

  Raises:
    FileNotFoundError: if there is no such translator.
  """
  return (_FOLDER / f'{name}.md').read_text()
