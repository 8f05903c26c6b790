"""Options of stages: types, limits, and errors that name the remedy."""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np

SEEDS = 2**32  # Seeds from 0 that differ for JAX.


def option(
  default: Any,
  help_text: str,
  *,
  least: float | None = None,
  above: float | None = None,
  below: float | None = None,
  most: float | None = None,
  choices: Iterable[str] | None = None,
) -> Any:
  """A dataclass field; its help text becomes that of its flag.

  Args:
    default: the value where none is given.
    help_text: what it means, with the source of the default.
    least: the smallest value allowed.
    above: values must be larger than this.
    below: values must be smaller than this.
    most: the largest value allowed.
    choices: the values allowed; of a tuple, those of its parts.

  Returns:
    A field of a `Config`, which checks the limits.

  Example:
    >>> option(0.5, 'Share kept.', above=0, below=1).default
    0.5
  """
  limits = {'least': least, 'above': above, 'below': below, 'most': most}
  names = None if choices is None else tuple(choices)
  return dataclasses.field(
    default=default, metadata={'help': help_text, 'choices': names, **limits}
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """Checks its options on construction.

  Example:
    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Mine(Config):
    ...   rate: float = option(0.1, 'Learning rate.', above=0)
    >>> Mine(rate=0.2)
    Mine(rate=0.2)
  """

  def __post_init__(self) -> None:
    """Raises a ValueError that names the first bad value and the remedy."""
    for field in dataclasses.fields(self):
      value, limits = getattr(self, field.name), field.metadata
      value = _typed(field.name, value, field.type)
      object.__setattr__(self, field.name, value)
      for part in value if isinstance(value, tuple) else (value,):
        if limits['choices'] is not None and part not in limits['choices']:
          raise ValueError(
            f'Unknown {field.name} {part!r}; choose one of '
            f'{", ".join(limits["choices"])}.'
          )
      for name, good in (
        ('least', lambda limit, value=value: value >= limit),
        ('above', lambda limit, value=value: value > limit),
        ('below', lambda limit, value=value: value < limit),
        ('most', lambda limit, value=value: value <= limit),
      ):
        limit = limits[name]
        if limit is not None and not good(limit):
          words = {
            'least': f'{limit} or more',
            'most': f'{limit} or less',
          }.get(name, f'{name} {limit}')
          raise out_of_range(field.name, value, words)


def whole(
  name: str, value: Any, *, least: int = 0, below: int | None = None
) -> int:
  """A whole number of Python, of an argument that has to be one.

  Args:
    name: of the argument.
    value: what was given; NumPy's integers are taken as well.
    least: the smallest value allowed.
    below: values must be smaller than this.

  Raises:
    ValueError: if it is none, or out of range.

  Example:
    >>> whole('ipc', 10, least=1)
    10
    >>> whole('ipc', 1.5)
    Traceback (most recent call last):
    ValueError: ipc = 1.5 must be of type int.
  """
  number = _typed(name, value, int)
  if number < least or (below is not None and number >= below):
    limit = '' if below is None else f' and less than {below}'
    raise out_of_range(name, value, f'{least} or more{limit}')
  return number


def real(name: str, value: Any) -> float:
  """A float of Python, of an argument that has to be a number.

  Args:
    name: of the argument.
    value: what was given; integers and NumPy's numbers are taken as well.

  Raises:
    ValueError: if it is none.

  Example:
    >>> real('holdout', 0)
    0.0
  """
  return _typed(name, value, float)


def seed_option(help_text: str) -> Any:
  """A seed in the range that JAX does not silently wrap to 32 bits.

  Example:
    >>> seed_option('Seed of all.').default
    0
  """
  return option(0, help_text, least=0, below=SEEDS)


def _typed(name: str, value: Any, kind: Any) -> Any:
  """The value in a field's type, where nothing is lost by it."""
  if isinstance(value, np.generic):
    value = value.item()
  if typing.get_origin(kind) is tuple:
    if not isinstance(value, tuple | list):
      raise ValueError(f'{name} = {value!r} must be a tuple.')
    part = typing.get_args(kind)[0]
    parts = (str, int) if name == 'classes' else part
    return tuple(_typed(name, x, parts) for x in value)
  if kind is float and type(value) is int:
    return float(value)
  kinds = kind if isinstance(kind, tuple) else (kind,)
  if type(value) not in kinds:  # A bool is an int, but no number of images.
    names = ' or '.join(x.__name__ for x in kinds)
    raise ValueError(f'{name} = {value!r} must be of type {names}.')
  return value


def out_of_range(name: str, value: Any, remedy: str) -> ValueError:
  """The error for an option whose value cannot be used.

  Example:
    >>> out_of_range('ipc', 0, '1 or more')
    ValueError('ipc = 0 is out of range: use 1 or more.')
  """
  return ValueError(f'{name} = {value!r} is out of range: use {remedy}.')
