"""Steps on one distilled set against a loss: Alg. 4, and Alg. 3 in theta."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from fsdd_jax.algorithms.configs import DistillationConfig, UpdateConfig
from fsdd_jax.core import distill_step, jitter, krr, losses
from fsdd_jax.runtime.loop import Loop, LoopOptions
from fsdd_jax.types import LabeledSet, LossFn

# Says what a set looks like in the network of a step, for an error message.
DiagnoseFn = Callable[[Any, LabeledSet], str]

_JITTER = 2**32 - 1  # Sets its key apart from those of networks and steps.


def optimizer(
  config: UpdateConfig,
  num_steps: int,
  **further: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The optimiser of images and labels that a config asks for.

  Args:
    config: names it, and its rates.
    num_steps: steps of its schedule.
    **further: optimisers of what else a method learns.
  """
  return distill_step.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
    schedule=lambda rate: distill_step.SCHEDULES[config.schedule](
      rate, num_steps
    ),
    further=further,
  )


def distill_from(
  start: LabeledSet,
  loss_fn: LossFn,
  inputs_at: Callable[[int], tuple[Any, Any]],
  *,
  num_steps: int,
  config: DistillationConfig,
  options: LoopOptions,
  diagnose: DiagnoseFn,
  description: str = 'distil',
) -> LabeledSet:
  """The steps on X_S and Y_S (Alg. 3, lines 10-14; Alg. 4, lines 10-15).

  Args:
    start: the set before the first step.
    loss_fn: of a network's variables, the distilled set and a target.
    inputs_at: variables and the target of step i; a pure function of i.
    num_steps: steps in total.
    config: optimiser and learning rates.
    options: progress, logs, checkpoints.
    diagnose: such as `in_features` makes.
    description: what the progress bar calls it.

  Returns:
    The set after the last step, on the first device.

  Raises:
    FloatingPointError: when a loss is not finite; it names the step, and what
      `diagnose` says.
  """
  tx = optimizer(config, num_steps)
  key = jax.random.fold_in(jax.random.key(config.seed), _JITTER)

  def loss(
    synthetic: LabeledSet, variables: Any, target: Any, step: jax.Array
  ) -> jax.Array:
    own = jax.random.fold_in(key, step)
    moved = jitter.move_set(own, synthetic, config.jitter)
    return loss_fn(variables, moved, target)

  def describe(step: int, state: distill_step.DistillState) -> str:
    return diagnose(inputs_at(step)[0], state.synthetic)

  update = distill_step.make_step(loss, tx)
  loop = Loop(
    description,
    distill_step.init_state(start, tx),
    num_steps=num_steps,
    options=options,
    diagnose=describe,
  )
  with loop:
    for step in loop:
      loop.state, loop.metrics = update(loop.state, *inputs_at(step), step)
    return loop.on_first_device().synthetic


def in_features(features_of: losses.FeatureFn, *, ridge: float) -> DiagnoseFn:
  """Norms of a set, and the condition number of its kernel in a network."""
  return functools.partial(_diagnosis, features_of, ridge=ridge)


def _diagnosis(
  features_of: losses.FeatureFn,
  variables: Any,
  synthetic: LabeledSet,
  *,
  ridge: float,
) -> str:
  """Norms and condition number of the set that a step started from."""
  features = features_of(variables, synthetic.images)
  condition = krr.condition_number(features, ridge=ridge, mask=synthetic.mask)
  norms = {
    'images': synthetic.images,
    'labels': synthetic.labels,
    'features': features,
  }
  parts = [
    f'largest absolute value of {name}: {float(abs(value).max()):g}'
    for name, value in norms.items()
  ]
  return '; '.join(
    [*parts, f'condition number of the kernel: {float(condition):g}.']
  )


def check_size(
  labeled: LabeledSet,
  image_shape: tuple[int, ...],
  num_classes: int,
  *,
  ipc: int,
) -> None:
  """Raises a ValueError unless a set has I images of each class.

  Args:
    labeled: the set, unpadded.
    image_shape: `(h, w, c)` that its images are to have.
    num_classes: k.
    ipc: images per class, I.
  """
  count = ipc * num_classes
  expected = (count, *image_shape), (count, num_classes)
  found = labeled.images.shape, labeled.labels.shape
  if found != expected:
    raise ValueError(
      f'The given set has images {found[0]} and labels {found[1]}, but '
      f'{expected[0]} and {expected[1]} are needed for ipc = {ipc} of '
      f'{num_classes} classes. Give a set of this data set, unpadded, and its '
      'ipc.'
    )
