"""Pictures of several sets, a row each."""

from collections.abc import Sequence

import numpy as np
from matplotlib import figure as mpl_figure

from fsdd_jax.reporting import exports, pictures
from fsdd_jax.storage.distilled_set import DistilledSet


def check(sets: Sequence[DistilledSet]) -> None:
  """Raises a ValueError unless all sets have the same classes."""
  names = {distilled.metadata.class_names for distilled in sets}
  if len(names) > 1:
    raise ValueError(
      'The sets have different classes: '
      f'{" and ".join(d.metadata.dataset for d in sets)}. Give sets of one '
      'data set.'
    )


def draw(sets: Sequence[DistilledSet], most: int) -> mpl_figure.Figure:
  """A row a set, named by its method; the first image of each class."""
  classes = sets[0].metadata.class_names[:most]
  figure = mpl_figure.Figure(
    figsize=(0.9 * len(classes) + 1.5, 0.9 * len(sets) + 0.3),
    layout='constrained',
  )
  grid = figure.subplots(len(sets), 1, squeeze=False)[:, 0]
  for axes, distilled in zip(grid, sets, strict=True):
    pixels, _ = exports.to_pixels(distilled)
    first = pixels[:: distilled.metadata.ipc][: len(classes)]
    row = pictures.image_grid(first, columns=len(classes))
    axes.imshow(row, cmap='gray', interpolation='nearest')
    method = (distilled.metadata.recipe or {}).get('method', 'distilled')
    axes.set_ylabel(method, rotation=0, ha='right', va='center')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
  width = grid[0].images[0].get_array().shape[1] / len(classes)
  grid[0].xaxis.tick_top()
  grid[0].set_xticks((np.arange(len(classes)) + 0.5) * width, classes)
  grid[0].tick_params(length=0, labelsize=8)
  return figure
