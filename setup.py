"""Legacy entry point; all metadata lives in pyproject.toml."""

import setuptools

setuptools.setup()
