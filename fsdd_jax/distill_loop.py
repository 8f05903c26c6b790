"""Optimises one distilled set, watched: what Alg. 3 and Alg. 4 share."""

from collections.abc import Callable
from typing import Any

import jax

from fsdd_jax import distill, krr, objective
from fsdd_jax.configs import DistillationConfig
from fsdd_jax.stage_loop import LoopOptions, StageLoop
from fsdd_jax.types import LabeledSet

LossFn = Callable[..., jax.Array]


def distill_from(
  start: LabeledSet,
  features_of: objective.FeatureFn,
  loss_fn: LossFn,
  inputs_at: Callable[[int], tuple[Any, Any]],
  *,
  num_steps: int,
  config: DistillationConfig,
  options: LoopOptions,
  description: str = 'distil',
) -> LabeledSet:
  """The steps on X_S and Y_S (Alg. 3, lines 10-14; Alg. 4, lines 10-15).

  Args:
    start: the set before the first step.
    features_of: the feature map f.
    loss_fn: `objective.krr_loss` or `objective.krr_loss_from_statistics`.
    inputs_at: a network's variables and the target of step i, as `loss_fn`
      takes them; a pure function of i.
    num_steps: steps in total.
    config: optimiser, learning rates and ridge.
    options: progress, logs, checkpoints.
    description: what the progress bar calls it.

  Returns:
    The set after the last step.

  Raises:
    FloatingPointError: when a loss is not finite; it names the step, the
      norms and the condition number of the kernel.

  Example:
    >>> import jax
    >>> from fsdd_jax import baselines, configs, objective, stage_loop, toy
    >>> network, dataset, transform = toy.problem()
    >>> real = baselines.random_real(
    ...   jax.random.key(0), dataset, transform, ipc=1
    ... )
    >>> distilled = distill_from(
    ...   real,
    ...   objective.feature_fn(network),
    ...   objective.krr_loss,
    ...   lambda step: (toy.theta(0), real),
    ...   num_steps=1,
    ...   config=configs.DistillationConfig(ipc=1),
    ...   options=stage_loop.LoopOptions(),
    ... )
    >>> distilled.images.shape
    (3, 8, 8, 3)
  """
  tx = distill.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
    schedule=lambda rate: distill.SCHEDULES[config.schedule](rate, num_steps),
  )

  def loss(synthetic: LabeledSet, variables: Any, target: Any) -> jax.Array:
    return loss_fn(
      features_of, variables, synthetic, target, ridge=config.ridge
    )

  def diagnose(step: int, state: distill.DistillState) -> str:
    variables, _ = inputs_at(step)
    return _diagnosis(features_of, variables, state.synthetic, config.ridge)

  loop = StageLoop(
    description, num_steps=num_steps, options=options, diagnose=diagnose
  )
  with loop:
    state = distill.distill(
      distill.make_step(loss, tx),
      loop.restore_or(distill.init_state(start, tx)),
      inputs_at,
      num_steps=num_steps,
      on_step=loop.on_step,
    )
    return jax.block_until_ready(state.synthetic)


def _diagnosis(
  features_of: objective.FeatureFn,
  variables: Any,
  synthetic: LabeledSet,
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
