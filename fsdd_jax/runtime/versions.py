"""Versions of what shapes a result."""

import importlib.metadata
import platform


def library_versions() -> dict[str, str]:
  """Versions of Python and of the packages that shape a result."""
  versions = {'python': platform.python_version()}
  for name in ('jax', 'flax', 'optax', 'numpy', 'fsdd-jax'):
    try:
      versions[name.replace('-', '_')] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name.replace('-', '_')] = 'not installed'
  return versions
