"""How a fresh network is fitted to a distilled set, protocol by protocol.

`krr` is the closed form in a random network; `frepo` and `dc` train the network
as these methods do. A protocol's `Fit` returns a function that scores images,
and the fitted model; always the last step counts.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.core import augment, krr, objective
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


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a network is trained on a distilled set.

  Attributes:
    num_steps: steps for a set of n images and a batch size.
    max_batch: images a step; smaller sets are taken whole.
    optimizer: makes the optimiser for a learning rate and a number of steps.
    learning_rate: the peer's own, of any architecture.
    targets: what the network shall predict for labels `[n, k]`.
    loss: mean loss of logits and targets, both `[n, k]`.
    augment: random augmentation of `(key, images)`.

  Example:
    >>> recipe: Recipe = frepo_recipe(without=('flip',))
    >>> recipe.num_steps(100, 100), recipe.max_batch
    (2000, 500)
  """

  num_steps: Callable[[int, int], int]
  max_batch: int
  optimizer: Callable[[float, int], optax.GradientTransformation]
  targets: Callable[[jax.Array], jax.Array]
  loss: Callable[[jax.Array, jax.Array], jax.Array]
  augment: Callable[[jax.Array, jax.Array], jax.Array]
  learning_rate: float


def frepo_steps(num_images: int, batch_size: int) -> int:
  """FRePo's evaluation length as a rule of |S|.

  It lists 1,000 steps at 10 images, 2,000 at 100, 5,000 at 400 and 500, 10,000
  at 1,000 and 40,000 at 2,000 and 5,000; sizes between take the next larger.
  Its exception for 200 images (20,000) is not followed.

  Example:
    >>> [frepo_steps(n, batch_size=n) for n in (10, 100, 500)]
    [1000, 2000, 5000]
  """
  del batch_size
  for limit, steps in ((10, 1000), (100, 2000), (500, 5000), (1000, 10000)):
    if num_images <= limit:
      return steps
  return 40000


def _frepo_optimizer(
  learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=learning_rate,
    warmup_steps=min(500, num_steps // 2),
    decay_steps=num_steps,
    end_value=learning_rate / 100,
  )
  return optax.adam(schedule)


def _half_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
  return 0.5 * jnp.sum((logits - targets) ** 2, axis=1).mean()


def _dc_steps(num_images: int, batch_size: int) -> int:
  return 1000 * math.ceil(num_images / batch_size)


def _dc_optimizer(
  learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
  rate = optax.piecewise_constant_schedule(
    learning_rate, {num_steps // 2 + 1: 0.1}
  )
  return optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9)
  )


def _hard(labels: jax.Array) -> jax.Array:
  return jax.nn.one_hot(jnp.argmax(labels, axis=1), labels.shape[1])


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy(logits, targets).mean()


@functools.cache
def frepo_recipe(without: tuple[str, ...] = ()) -> Recipe:
  """FRePo's `eval.py`: soft labels, squared error, Adam, mild augmentation.

  Example:
    >>> frepo_recipe().num_steps(10, 10)
    1000
  """
  operations = augment.select('frepo', without=without)
  return Recipe(
    num_steps=frepo_steps,
    max_batch=500,
    optimizer=_frepo_optimizer,
    learning_rate=3e-4,
    targets=lambda labels: labels,
    loss=_half_squared_error,
    augment=functools.partial(
      augment.augment, operations=operations, siamese=False
    ),
  )


@functools.cache
def dc_recipe(without: tuple[str, ...] = ()) -> Recipe:
  """DC and DSA: hard labels, cross-entropy, SGD, DSA, 1000 epochs.

  Example:
    >>> dc_recipe().num_steps(512, 256)
    2000
  """
  operations = augment.select('dsa', without=without)
  return Recipe(
    num_steps=_dc_steps,
    max_batch=256,
    optimizer=_dc_optimizer,
    learning_rate=0.01,
    targets=_hard,
    loss=_cross_entropy,
    augment=functools.partial(
      augment.augment, operations=operations, siamese=False
    ),
  )


def unsuitable_augmentation(dataset: str) -> tuple[str, ...]:
  """Operations that change a class: digits do without the flip.

  Example:
    >>> unsuitable_augmentation('mnist'), unsuitable_augmentation('cifar10')
    (('flip',), ())
  """
  name = dataset.partition(':')[0].partition('/')[0]
  return ('flip',) if name in _CHIRAL else ()


@functools.cache
def _krr_scores(network: nn.Module) -> ScoreFn:
  features_of = objective.feature_fn(network)

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

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> score, model = fit_krr_in(toy.theta(0), network, real)
    >>> score(model, real.images).argmax(axis=1).tolist()
    [0, 1, 2]
  """
  features_of = jax.jit(objective.feature_fn(network))
  features = features_of(variables, synthetic.images)
  noise = jax.random.normal(jax.random.key(0), synthetic.images.shape)
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
  """Protocol `krr`: the closed form in a fresh random network.

  Example:
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> score, model = fit_krr(jax.random.key(1), network, real)
    >>> score(model, real.images).argmax(axis=1).tolist()
    [0, 1, 2]
  """
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
  recipe: Recipe,
  network: nn.Module,
  learning_rate: float,
  num_steps: int,
  batch_size: int,
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
  tx = recipe.optimizer(learning_rate, num_steps)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(
    variables: Any, opt_state: Any, key: jax.Array, synthetic: LabeledSet
  ) -> tuple[Any, Any, jax.Array]:
    row_key, augment_key = jax.random.split(key)
    images, targets = synthetic.images, recipe.targets(synthetic.labels)
    if batch_size < len(images):
      rows = jax.random.permutation(row_key, len(images))[:batch_size]
      images, targets = images[rows], targets[rows]
    images = recipe.augment(augment_key, images)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
      found, changed = network.apply(
        {**variables, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      logits, _ = extractors.outputs(found, images)
      return recipe.loss(logits, targets), changed

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
  recipe: Recipe,
  learning_rate: float | None = None,
) -> tuple[ScoreFn, Any]:
  """Trains a fresh network on a distilled set, to the last step.

  Args:
    key: consumed: initial weights, batches and augmentation.
    network: the architecture.
    synthetic: the distilled set, without padding.
    recipe: optimiser, length, loss and augmentation.
    learning_rate: by default that of the recipe.

  Returns:
    The function that scores images, and the trained variables.

  Raises:
    FloatingPointError: if the loss is not finite at the end.

  Example:
    >>> import dataclasses
    >>> import jax
    >>> import toy
    >>> from fsdd_jax.algorithms import baselines
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> short = dataclasses.replace(
    ...   frepo_recipe(), num_steps=lambda n, size: 2, augment=lambda key, x: x
    ... )
    >>> score, model = train(jax.random.key(1), network, real, recipe=short)
    >>> score(model, real.images).shape
    (3, 3)
  """
  init_key, step_key = jax.random.split(key)
  num_images = len(synthetic.images)
  batch_size = min(num_images, recipe.max_batch)
  num_steps = recipe.num_steps(num_images, batch_size)
  rate = recipe.learning_rate if learning_rate is None else learning_rate
  tx, step = _training_step(recipe, network, rate, num_steps, batch_size)
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
    without: augmentations to leave out, as of `unsuitable_augmentation`.
    learning_rate: of training; None: the protocol's own.
    float64: whether kernels are computed in double precision.

  Example:
    >>> Settings(without=('flip',)).learning_rate is None
    True
  """

  without: tuple[str, ...] = ()
  learning_rate: float | None = None
  float64: bool = False


def _training(make: str) -> Callable[[Settings], Fit]:
  # By its name, so that a test can shorten a recipe.
  return lambda settings: functools.partial(
    train,
    recipe=globals()[make](settings.without),
    learning_rate=settings.learning_rate,
  )


FITS: dict[str, Callable[[Settings], Fit]] = {
  'krr': lambda settings: fit_krr,
  'frepo': _training('frepo_recipe'),
  'dc': _training('dc_recipe'),
}
