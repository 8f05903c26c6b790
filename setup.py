"""Which packages are built; all other metadata lives in pyproject.toml."""

import setuptools

# Beside the library the binaries, as they are: the command fsdd runs their
# files, and they find the workbench and the recipes beside themselves.
setuptools.setup(
  packages=[
    *setuptools.find_packages(include=['fsdd_jax', 'fsdd_jax.*']),
    'fsdd_experiments',
    'fsdd_experiments.benchmarks',
    'fsdd_experiments.measures',
    'fsdd_experiments.workbench',
  ],
  package_dir={'fsdd_experiments': 'experiments'},
)
