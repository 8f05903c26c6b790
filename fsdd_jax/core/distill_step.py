"""T optimiser steps on synthetic images and labels against a given loss.

The caller says what is minimised by a pure function
`loss_fn(synthetic, *inputs) -> scalar`; Algs. 1, 3 and 4 differ in that
function and in the inputs of each step alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fsdd_jax.types import LabeledSet

# Of what is optimised, the set, and then of the inputs of a step.
SetLossFn = Callable[..., jax.Array]
Metrics = dict[str, jax.Array]
StepFn = Callable[..., tuple['DistillState', Metrics]]
Tree = TypeVar('Tree')

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'adabelief': optax.adabelief,
  # As optax.adabelief: an update by a gradient of zero is differentiable.
  'adam': functools.partial(optax.adam, eps_root=1e-16),
  'lamb': optax.lamb,
  'sgd': optax.sgd,
}

# Of a learning rate and a number of steps.
SCHEDULES: dict[str, Callable[[float, int], optax.ScalarOrSchedule]] = {
  'constant': lambda rate, num_steps: rate,
  'cosine': lambda rate, num_steps: optax.cosine_decay_schedule(
    rate, num_steps
  ),
  'warmup_cosine': lambda rate, num_steps: optax.warmup_cosine_decay_schedule(
    0.0, rate, num_steps // 20, num_steps
  ),
}


@flax.struct.dataclass
class DistillState:
  """What one optimiser step maps to the next.

  Attributes:
    step: `[]` int32, steps done.
    synthetic: the distilled set (X_S, Y_S).
    opt_state: the optimiser's state over its images and labels.
  """

  step: jax.Array  # []
  synthetic: LabeledSet
  opt_state: optax.OptState


def make_optimizer(
  name: str,
  learning_rate: float,
  *,
  label_learning_rate: float | None = None,
  schedule: Callable[[float], optax.ScalarOrSchedule] = float,
  further: Mapping[str, optax.GradientTransformation] | None = None,
) -> optax.GradientTransformation:
  """An optimiser over `{'images', 'labels'}` with a rate for each.

  Args:
    name: a key of `OPTIMIZERS`; `sgd` is the literal update of the paper.
    learning_rate: alpha for images (Alg. 1, line 17).
    label_learning_rate: alpha for labels (line 18); 0 keeps them fixed, None
      takes that of the images.
    schedule: makes a schedule of each rate; constant by default.
    further: optimisers of what else a method learns, by name.

  Returns:
    An optax transformation.

  Raises:
    ValueError: if the name is unknown or a rate is out of range.
  """
  if name not in OPTIMIZERS:
    raise ValueError(
      f'Unknown optimizer {name!r}; choose one of {", ".join(OPTIMIZERS)}.'
    )
  if label_learning_rate is None:
    label_learning_rate = learning_rate
  if learning_rate <= 0 or label_learning_rate < 0:
    raise ValueError(
      'Learning rates must be positive (0 is allowed for labels, which keeps '
      f'them fixed); got {learning_rate} and {label_learning_rate}.'
    )
  make = OPTIMIZERS[name]
  labels = optax.set_to_zero()
  if label_learning_rate > 0:
    labels = make(schedule(label_learning_rate))
  each = {'images': make(schedule(learning_rate)), 'labels': labels}
  each |= further or {}
  return optax.partition(each, {name: name for name in each})


def init_state(
  synthetic: LabeledSet, tx: optax.GradientTransformation
) -> DistillState:
  """State before the first step.

  The images are copied, as the first step donates them.
  """
  synthetic = jax.tree.map(jnp.array, synthetic)
  opt_state = tx.init(_trainable(synthetic))
  return DistillState(jnp.zeros((), jnp.int32), synthetic, opt_state)


def update(
  tx: optax.GradientTransformation,
  values: Tree,
  opt_state: optax.OptState,
  loss: jax.Array,
  gradient: Tree,
) -> tuple[Tree, optax.OptState, Metrics]:
  """One update of an optimiser, or none where loss or gradient are not finite.

  So the state still shows what went wrong; the caller sees it in the metrics
  and stops.

  Args:
    tx: the optimiser.
    values: what it optimises.
    opt_state: its state.
    loss: `[]`.
    gradient: of the loss by the values.

  Returns:
    Values, the optimiser's state, and the metrics `loss` and `gradient_norm`,
    both `[]`.
  """
  norm = optax.tree.norm(gradient)
  updates, new_state = tx.update(gradient, opt_state, values)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  values, opt_state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old),
    (optax.apply_updates(values, updates), new_state),
    (values, opt_state),
  )
  return values, opt_state, {'loss': loss, 'gradient_norm': norm}


def make_step(loss_fn: SetLossFn, tx: optax.GradientTransformation) -> StepFn:
  """Builds the jitted update of X_S and Y_S (Alg. 1, lines 15-18).

  A step whose loss or gradient is not finite leaves all as it was, see
  `update`.

  Args:
    loss_fn: `loss_fn(synthetic, *inputs) -> []`.
    tx: an optimiser over `{'images', 'labels'}`, from `make_optimizer`.

  Returns:
    `step(state, *inputs) -> (state, metrics)`; the state is donated, and the
    metrics are `loss` and `gradient_norm`, both `[]`.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state: DistillState, *inputs: Any) -> tuple[DistillState, Metrics]:
    def loss_of(trainable: dict[str, jax.Array]) -> jax.Array:
      return loss_fn(dataclasses.replace(state.synthetic, **trainable), *inputs)

    trainable = _trainable(state.synthetic)
    loss, gradient = jax.value_and_grad(loss_of)(trainable)
    trainable, opt_state, metrics = update(
      tx, trainable, state.opt_state, loss, gradient
    )
    synthetic = dataclasses.replace(state.synthetic, **trainable)
    return DistillState(state.step + 1, synthetic, opt_state), metrics

  return step


def _trainable(synthetic: LabeledSet) -> dict[str, jax.Array]:
  return {'images': synthetic.images, 'labels': synthetic.labels}
