"""Scores of a distilled set in infinitely wide networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax.core import krr
from fsdd_jax.data import passes
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, normalize
from fsdd_jax.networks import infinite
from fsdd_jax.runtime import progress
from fsdd_jax.types import LabeledSet


def check_scores(bad: float, count: int) -> None:
  """Makes sure that no score is NaN or infinite, which would be class 0.

  Args:
    bad: images with a score that is not finite.
    count: all images.

  Raises:
    FloatingPointError: if there are any.
  """
  if bad:
    raise FloatingPointError(
      f'The scores of {bad:.0f} of {count} images are NaN or infinite. '
      'A set whose images are all constant has no features under instance '
      'norm; distil it with a smaller learning rate, or score it in another '
      'network.'
    )


def limit_for(kind: str, network: nn.Module) -> nn.Module:
  """The network whose kernel scores a set, once it is known that it has one.

  Args:
    kind: a name in `infinite.KINDS`.
    network: the architecture asked for; its normalisation is left out.

  Raises:
    ImportError: where neural-tangents is not installed.
    ValueError: if it has no kernel.
  """
  limit = infinite.limit_of(network)
  infinite.kernel_fn(limit, kind)
  return limit


def kernel_accuracy(
  network: nn.Module,
  synthetic: LabeledSet,
  dataset: Dataset,
  normalization: Normalization,
  *,
  kind: str,
  ridge: float = 1e-6,
  float64: bool = False,
) -> float:
  """Accuracy of the closed form in an infinitely wide network, percent."""

  def gram(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    name = f'{kind} kernel'
    with progress.Bar(len(x) * len(y), name, unit='pair') as bar:
      return infinite.gram(
        network, kind, x, y, float64=float64, on_pairs=bar.update
      )

  own = np.asarray(synthetic.images)
  parts = [
    np.asarray(normalize(images, normalization))
    for images, _, mask in passes.batches(dataset.images, dataset.labels)
  ]
  images = np.concatenate(parts)[: len(dataset.images)]
  with jax.enable_x64(float64):
    coefficients = krr.solve_kernel(
      jnp.asarray(gram(own, own)),
      jnp.asarray(synthetic.labels),
      ridge=ridge,
    )
    found = krr.predict(jnp.asarray(gram(images, own)), coefficients)
  check_scores(float((~np.isfinite(found)).any(axis=1).sum()), len(found))
  hits = np.argmax(found, axis=1) == dataset.labels
  return 100.0 * float(hits.mean())
