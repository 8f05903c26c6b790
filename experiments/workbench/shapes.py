"""The shapes that a stage works on, known without reading its data."""

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.data import sources
from measures.programs import Problem
from workbench import problems


def problem_of(
  data: DataConfig,
  config: NetworkConfig,
  *,
  split: str = 'train',
  reduced_to: tuple[int, ...] | None = None,
  error: str = 'squared',
) -> Problem:
  """Shapes of a data set and its network.

  Args:
    data: which images.
    config: of the network.
    split: `train` or `test`.
    reduced_to: `(h, w, c)` that images are scaled down to; None: they stay.
    error: a name in `krr_errors.ERRORS`.

  Returns:
    Network, shape of an image, and numbers of classes and images.
  """
  size = sources.size(
    data.dataset,
    split,
    image_size=data.image_size or None,
    data_dir=data.data_dir or None,
  )
  num_classes = len(data.classes) or size.num_classes
  count = size.num_images * num_classes // size.num_classes
  shape: tuple[int, ...] = size.image_shape
  if split == 'train':
    count -= round(data.holdout * count)
    count = min(data.limit or count, count)
  if reduced_to:
    shape = (*(min(a, b) for a, b in zip(shape, reduced_to, strict=True)),)
  network = problems.make_network(config, shape, num_classes)
  return Problem(network, shape, num_classes, count, error=error)
