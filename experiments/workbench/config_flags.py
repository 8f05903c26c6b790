"""Flags of settings, and settings of flags."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

Config = TypeVar('Config')

# The group of each flag in --help.
GROUPS: dict[str, str] = {}
_TITLES = {
  'BilevelConfig': 'Bi-Level',
  'FrepoConfig': 'FRePo',
  'KipConfig': 'KIP',
  'PretrainingConfig': 'pre-training',
  'RcigConfig': 'RCIG',
  'RfadConfig': 'RFAD',
}

_DEFINE: dict[Any, Callable[..., Any]] = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  tuple[str, ...]: flags.DEFINE_list,
  tuple[int, ...]: flags.DEFINE_list,
}


def define(*config_classes: type, **defaults: Any) -> None:
  """Defines an absl flag for each field of the given dataclasses.

  Args:
    *config_classes: dataclasses of `configs`.
    **defaults: values that replace the dataclass's own default.
  """
  for name in _define(flags.FLAGS, config_classes, defaults):
    # So that --helpshort of the binary lists the flag.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  for config_class in reversed(config_classes):
    title = config_class.__name__
    title = _TITLES.get(title, title.removesuffix('Config').lower())
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
      GROUPS[field.name] = title


def _define(
  values: flags.FlagValues,
  config_classes: Sequence[type],
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Defines flags among others, and yields their names.

  A name that several classes have is one flag; where their defaults differ, it
  has none, and each class takes its own.
  """
  known: dict[str, Any] = {}
  for config_class in config_classes:
    for field in dataclasses.fields(config_class):
      default = defaults.get(field.name, field.default)
      if field.name in known:
        if known[field.name] != default:
          values.set_default(field.name, None)
        continue
      known[field.name] = default
      if isinstance(default, tuple):
        default = [str(part) for part in default]
      _DEFINE[field.type](
        field.name, default, field.metadata['help'], flag_values=values
      )
      yield field.name


def read(
  config_class: type[Config],
  values: flags.FlagValues = flags.FLAGS,
  *,
  known: Mapping[str, Any] | None = None,
) -> Config:
  """Builds a config of parsed flags; its own checks name a bad value.

  Args:
    config_class: a dataclass of `configs`.
    values: the flags.
    known: values in place of the defaults of flags that are not given, as a
      translator's file names them; other fields are passed over.

  Returns:
    The config.
  """
  found, known = {}, known or {}
  for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
    if field.name in known and not values[field.name].present:
      found[field.name] = known[field.name]
      continue
    value = values[field.name].value
    if field.type == tuple[int, ...]:
      value = integers(field.name, values)
    if value is None:  # As other classes have other defaults.
      value = field.default
    found[field.name] = tuple(value) if isinstance(value, list) else value
  return config_class(**found)


def parse(
  arguments: Sequence[str], *config_classes: type, **defaults: Any
) -> tuple[Any, ...]:
  """The configs that a command line makes, without its binary.

  Args:
    arguments: flags, among them `--flagfile`; other flags are passed over.
    *config_classes: dataclasses of `configs`.
    **defaults: as for `define`.

  Returns:
    A config of each class.

  Example:
    >>> from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
    >>> arguments = ['--dataset=cifar10', '--width=32', '--workdir=runs']
    >>> data, network = parse(arguments, DataConfig, NetworkConfig)
    >>> data.dataset, network.width
    ('cifar10', 32)
  """
  values = flags.FlagValues()
  tuple(_define(values, config_classes, defaults))
  values(['', *arguments], known_only=True)
  return tuple(read(kind, values) for kind in config_classes)


def check_known(
  arguments: Sequence[str], *config_classes: type, besides: Sequence[str] = ()
) -> None:
  """Refuses flags of which a command line's configs know nothing.

  Args:
    arguments: flags, among them `--flagfile`.
    *config_classes: dataclasses of `configs`.
    besides: names of further flags, of strings.

  Raises:
    ValueError: naming the flag.
  """
  values = flags.FlagValues()
  tuple(_define(values, config_classes, {}))
  for name in besides:
    flags.DEFINE_string(name, None, '', flag_values=values)
  try:
    values(['', *arguments])
  except flags.Error as error:
    raise ValueError(f'{" ".join(arguments)}: {error}.') from error


def counts(
  name: str, values: flags.FlagValues = flags.FLAGS
) -> tuple[int, ...]:
  """The value of a flag that lists numbers from 1 up, at least one."""
  found = integers(name, values)
  if not found or min(found) < 1:
    raise ValueError(
      f'--{name}={",".join(map(str, found))} must list one or more numbers '
      f'from 1 up, as in --{name}=1,10.'
    )
  return found


def integers(
  name: str, values: flags.FlagValues = flags.FLAGS
) -> tuple[int, ...]:
  """The value of a flag that lists integers."""
  parts: Sequence[str] = values[name].value or ()
  try:
    return tuple(int(part) for part in parts)
  except ValueError as error:
    raise ValueError(
      f'--{name}={",".join(parts)} must list integers, as in --{name}=1,10.'
    ) from error
