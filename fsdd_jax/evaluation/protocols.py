"""How a fresh network is fitted to a distilled set, protocol by protocol.

`krr` is the closed form in a random network; `frepo` and `dc` train the network
as these methods do. A protocol's `Fit` returns a function that scores images,
and the fitted model; always the last step counts.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.core import krr, losses
from fsdd_jax.evaluation import trainings
from fsdd_jax.evaluation.trainings import Training
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.runtime import progress
from fsdd_jax.types import LabeledSet

# Maps a fitted model and normalised images [n, h, w, c] to scores [n, k].
ScoreFn = Callable[[Any, jax.Array], jax.Array]
Fit = Callable[[jax.Array, nn.Module, LabeledSet], tuple[ScoreFn, Any]]

# Features below this share of those of noise are rounding errors.
_ROUNDING = 1e-4
# Data sets whose mirror images are of another class or of none.
_CHIRAL = ('digits', 'emnist', 'kmnist', 'mnist', 'svhn_cropped')


def unsuitable_augmentation(dataset: str) -> tuple[str, ...]:
  """Operations that change a class: digits do without the flip.

  Args:
    dataset: the name that it is loaded by, or a path whose end has the name.

  Example:
    >>> unsuitable_augmentation('npz:/data/mnist.npz')
    ('flip',)
    >>> unsuitable_augmentation('cifar10')
    ()
  """
  # Such as /data/mnist/3.0.1, npz:mnist/train.npz and mnist:3.0.1.
  parts = re.split(r'[:/\\]', dataset)[-3:]
  names = {part.partition('.')[0] for part in parts}
  return ('flip',) if names.intersection(_CHIRAL) else ()


@functools.cache
def _krr_scores(network: nn.Module) -> ScoreFn:
  features_of = losses.feature_fn(network)

  def scores(model: Any, images: jax.Array) -> jax.Array:
    variables, weights = model
    return krr.predict(features_of(variables, images), weights)

  return scores


def fit_krr_in(
  variables: Any,
  network: nn.Module,
  synthetic: LabeledSet,
  *,
  ridge: float = 1e-6,
) -> tuple[ScoreFn, Any]:
  """Fits the closed form to a distilled set in one given network.

  Constant images have no features under instance norm but rounding errors; the
  weights are then NaN, as where `krr.solve` sees features of zero.
  """
  features_of = jax.jit(losses.feature_fn(network))
  features = features_of(variables, synthetic.images)
  noise = jax.random.normal(
    jax.random.key(0), synthetic.images.shape, jnp.float32
  )
  usual = jnp.abs(features_of(variables, noise)).max()
  is_rounding = jnp.abs(features).max() < _ROUNDING * usual
  weights = krr.solve(
    jnp.where(is_rounding, 0.0, features),
    synthetic.labels,
    ridge=ridge,
    mask=synthetic.mask,
  )
  return _krr_scores(network), (variables, weights)


def fit_krr(
  key: jax.Array, network: nn.Module, synthetic: LabeledSet
) -> tuple[ScoreFn, Any]:
  """Protocol `krr`: the closed form in a fresh random network."""
  image_shape = synthetic.images.shape[1:]
  variables = random_networks.sample(key, network, image_shape)
  return fit_krr_in(variables, network, synthetic)


@functools.cache
def _logits(network: nn.Module) -> ScoreFn:
  return lambda variables, images: extractors.outputs(
    network.apply(variables, images), images
  )[0]


@functools.cache
def _training_step(
  training: Training,
  network: nn.Module,
  learning_rate: float,
  num_steps: int,
  batch_size: int,
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
  tx = training.optimizer(learning_rate, num_steps)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(
    variables: Any, opt_state: Any, key: jax.Array, synthetic: LabeledSet
  ) -> tuple[Any, Any, jax.Array]:
    row_key, augment_key = jax.random.split(key)
    images, targets = synthetic.images, training.targets(synthetic.labels)
    if batch_size < len(images):
      rows = jax.random.permutation(row_key, len(images))[:batch_size]
      images, targets = images[rows], targets[rows]
    images = training.augment(augment_key, images)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
      found, changed = network.apply(
        {**variables, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      logits, _ = extractors.outputs(
        found, images, num_classes=targets.shape[1]
      )
      return training.loss(logits, targets), changed

    params = variables['params']
    (loss, changed), gradient = jax.value_and_grad(loss_of, has_aux=True)(
      params
    )
    updates, opt_state = tx.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
    return {**variables, **changed, 'params': params}, opt_state, loss

  return tx, step


def train(
  key: jax.Array,
  network: nn.Module,
  synthetic: LabeledSet,
  *,
  training: Training,
  learning_rate: float | None = None,
) -> tuple[ScoreFn, Any]:
  """Trains a fresh network on a distilled set, to the last step.

  Args:
    key: consumed: initial weights, batches and augmentation.
    network: the architecture.
    synthetic: the distilled set, without padding.
    training: optimiser, length, loss and augmentation.
    learning_rate: by default that of the training.

  Returns:
    The function that scores images, and the trained variables.

  Raises:
    FloatingPointError: if the loss is not finite at the end.
  """
  init_key, step_key = jax.random.split(key)
  num_images = len(synthetic.images)
  batch_size = min(num_images, training.max_batch)
  num_steps = training.num_steps(num_images, batch_size)
  rate = training.learning_rate if learning_rate is None else learning_rate
  tx, step = _training_step(training, network, rate, num_steps, batch_size)
  variables = random_networks.sample(
    init_key, network, synthetic.images.shape[1:]
  )
  opt_state = tx.init(variables['params'])
  bar = progress.Bar(
    num_steps, 'train on the distilled set', unit='step', leave=False
  )
  with bar:
    for index in range(num_steps):
      variables, opt_state, loss = step(
        variables, opt_state, jax.random.fold_in(step_key, index), synthetic
      )
      bar.update()
  if not np.isfinite(loss):
    raise FloatingPointError(
      f'Training on the distilled set ended after {num_steps} steps with a '
      f'loss of {float(loss)}; the set has pixels up to '
      f'{float(abs(synthetic.images).max()):g}. Distil it with a smaller '
      'learning rate, or score it by another protocol.'
    )
  return _logits(network), variables


class Settings(NamedTuple):
  """What a protocol leaves open.

  Attributes:
    without: augmentations to leave out, from `unsuitable_augmentation`.
    learning_rate: of training; None: the protocol's own.
    float64: whether kernels are computed in double precision.

  Example:
    >>> Settings(without=unsuitable_augmentation('digits')).without
    ('flip',)
  """

  without: tuple[str, ...] = ()
  learning_rate: float | None = None
  float64: bool = False


def _training(
  settings: Settings, training_fn: Callable[[tuple[str, ...]], Training]
) -> Fit:
  return functools.partial(
    train,
    training=training_fn(settings.without),
    learning_rate=settings.learning_rate,
  )


FITS: dict[str, Callable[[Settings], Fit]] = {
  'krr': lambda settings: fit_krr,
  'frepo': lambda settings: _training(settings, trainings.frepo_training),
  'dc': lambda settings: _training(settings, trainings.dc_training),
}
