"""What the quickstart says of its rows."""

from collections.abc import Sequence

# Rows of networks of the target set; `title` adds how many.
W_ADA, POOL, BOTH = 'w Ada', 'Pool', 'w Ada, Pool'


def title(row: str, networks: int) -> str:
  """The name of a row, with the number of its networks if it is of some."""
  return f'{row}({networks})' if row in (W_ADA, POOL, BOTH) else row


def plan(networks: int) -> str:
  """What it will do."""
  return f"""\
This distils scikit-learn's handwritten digits, 1,438 images, to 1, 2 and 5
images a class: in one network, by the shipped translator, and in a pool of
{_counted(networks)}. It scores each set in networks that it never saw. On two
cores that takes about two minutes. Nothing is downloaded.
"""


def meanings(networks: int, seen: Sequence[int]) -> dict[str, str]:
  """What each row is, by its title.

  Args:
    networks: of the target set, at least one.
    seen: the two IPCs that the translator is adapted on.
  """
  found = {
    'random real': 'Real images, drawn at random.',
    '1 Net': 'Distilled in one network, that of the translator.',
    'w/o Ada': '1 Net, changed by the translator as it is shipped.',
    W_ADA: (
      '1 Net, changed by the translator after it was adapted in '
      f'{_counted(networks)}, once, on IPC {seen[0]} and {seen[1]}.'
    ),
    POOL: f'Distilled in {_counted(networks)} at once, each IPC anew.',
    BOTH: f'The same, but begun with the images of {title(W_ADA, networks)}.',
  }
  return {title(row, networks): text for row, text in found.items()}


def _counted(networks: int) -> str:
  return f'{networks} network{"s" if networks > 1 else ""}'
