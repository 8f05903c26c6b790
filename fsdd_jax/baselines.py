"""Alg. 4: distillation over R networks, one after another or as a pool.

R = 1 is the column `1 Net` of the paper's tables, R = T the column `Baseline`.
`Pool(R)` is ours: it keeps the statistics of all R networks and visits them in
random order, so that R passes over the target images pay for all T steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fsdd_jax import (
  distill,
  krr,
  metrics,
  objective,
  random_networks,
  subsets,
)
from fsdd_jax.configs import DistillationConfig
from fsdd_jax.datasets import Dataset
from fsdd_jax.normalization import Normalization, normalize
from fsdd_jax.stage_loop import LoopOptions, StageLoop, claim_workdir
from fsdd_jax.types import LABEL_CODINGS, LabeledSet, labeled_set

# Seen networks a report scores in: the last of a long sequence say enough.
_MAX_SEEN = 5


@dataclasses.dataclass(frozen=True)
class DistillationResult:
  """What `distill_over_networks` returns.

  Attributes:
    synthetic: the distilled set (X_S, Y_S).
    seen: variables of (at most five of) the networks it was distilled in.
    seconds: seconds a part: statistics, distillation, compilation.
  """

  synthetic: LabeledSet
  seen: list[Any]
  seconds: dict[str, float]


def method_name(config: DistillationConfig) -> str:
  """The row of a table that a config makes."""
  if config.num_networks == 1:
    return '1 Net'
  if config.revisit:
    return f'Pool({config.num_networks})'
  if config.num_networks == config.num_steps:
    return 'Baseline'
  return f'Baseline(R={config.num_networks})'


def random_real(
  key: jax.Array,
  dataset: Dataset,
  normalization: Normalization,
  *,
  ipc: int,
  label_coding: str = 'centered',
) -> LabeledSet:
  """Random images of each class: the start of Alg. 4 (lines 1-6), and a row.

  Args:
    key: consumed.
    dataset: the target set.
    normalization: how its images become network inputs.
    ipc: images per class, I.
    label_coding: a name in `LABEL_CODINGS`.

  Returns:
    `ipc * k` images, class by class.

  Raises:
    ValueError: if a class has fewer than `ipc` images.
  """
  num_classes = dataset.num_classes
  table = subsets.class_table(dataset.labels, num_classes)
  rows = np.asarray(subsets.sample_ipc(key, table, ipc))
  labels = LABEL_CODINGS[label_coding](
    jnp.asarray(dataset.labels[rows]), num_classes
  )
  return labeled_set(normalize(dataset.images[rows], normalization), labels)


def network_order(
  key: jax.Array, num_networks: int, num_steps: int, *, revisit: bool
) -> np.ndarray:
  """Which network each step uses.

  Args:
    key: consumed; only a pool draws from it.
    num_networks: R.
    num_steps: T.
    revisit: visit all networks in a new random order each round (Pool),
      instead of floor(T/R) steps in one after another (Alg. 4, lines 7-10).

  Returns:
    `[steps]` int array; R * floor(T/R) steps without `revisit`, else T.
  """
  if not revisit:
    return np.repeat(np.arange(num_networks), num_steps // num_networks)
  rounds = -(-num_steps // num_networks)
  shuffle = jax.vmap(lambda key: jax.random.permutation(key, num_networks))
  return np.asarray(shuffle(jax.random.split(key, rounds))).ravel()[:num_steps]


def distill_over_networks(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: DistillationConfig,
  options: LoopOptions | None = None,
) -> DistillationResult:
  """Distils a target set in R random networks (Alg. 4).

  The same config on the same machine gives the same bytes, also when the run
  was killed and started again on the same work directory.

  Args:
    network: f, whose weights are drawn anew for each of the R networks.
    dataset: the target set (X_T, Y_T).
    normalization: how its images become network inputs.
    config: R, T, alpha and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.

  Returns:
    The distilled set, the networks seen last, and seconds.

  Raises:
    ValueError: for a config that the data set cannot serve, or a work
      directory of another run.
    FloatingPointError: when a loss is not finite; it names the step, the
      norms and the condition number of the kernel.
  """
  options = options or LoopOptions()
  if options.workdir is not None:
    claim_workdir(
      options.workdir,
      {
        **dataclasses.asdict(config),
        'network_fields': repr(network),
        'dataset_fingerprint': dataset.fingerprint(),
      },
    )
  clock = metrics.StageClock()
  initial_key, network_key, order_key, batch_key = jax.random.split(
    jax.random.key(config.seed), 4
  )
  order = network_order(
    order_key, config.num_networks, config.num_steps, revisit=config.revisit
  )
  features_of = objective.feature_fn(network)
  image_shape = (1, *dataset.images.shape[1:])

  def draw(index: int) -> Any:
    key = jax.random.fold_in(network_key, index)
    return random_networks.sample(key, network, image_shape[1:])

  if config.real_batch:
    loss_fn = functools.partial(_loss, objective.krr_loss, features_of, config)
    inputs_of = _sampled_inputs(batch_key, draw, dataset, normalization, config)
  else:
    loss_fn = functools.partial(
      _loss, objective.krr_loss_from_statistics, features_of, config
    )
    inputs_of = _statistics_inputs(
      features_of, draw, dataset, normalization, config, clock
    )
  tx = distill.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
  )
  state = distill.init_state(
    random_real(
      initial_key,
      dataset,
      normalization,
      ipc=config.ipc,
      label_coding=config.label_coding,
    ),
    tx,
  )

  def diagnose(step: int, state: distill.DistillState) -> str:
    variables = draw(int(order[step]))
    return _diagnosis(features_of, variables, state.synthetic, config.ridge)

  loop = StageLoop(
    'distil', num_steps=len(order), options=options, diagnose=diagnose
  )
  with loop, clock.part('distillation'):
    state = distill.distill(
      distill.make_step(loss_fn, tx),
      loop.restore_or(state),
      lambda step: inputs_of(int(order[step]), step),
      num_steps=len(order),
      on_step=loop.on_step,
    )
    jax.block_until_ready(state)
  last_seen = list(dict.fromkeys(order[::-1].tolist()))[:_MAX_SEEN]
  return DistillationResult(
    state.synthetic, [draw(index) for index in last_seen], clock.seconds()
  )


InputsFn = Callable[[int, int], tuple]


def _loss(
  loss_fn: Callable[..., jax.Array],
  features_of: objective.FeatureFn,
  config: DistillationConfig,
  synthetic: LabeledSet,
  variables: Any,
  target: Any,
) -> jax.Array:
  """Puts the distilled set first, as `distill.make_step` wants it."""
  return loss_fn(features_of, variables, synthetic, target, ridge=config.ridge)


def _statistics_inputs(
  features_of: objective.FeatureFn,
  draw: Callable[[int], Any],
  dataset: Dataset,
  normalization: Normalization,
  config: DistillationConfig,
  clock: metrics.StageClock,
) -> InputsFn:
  """Inputs of a step: a network and the whole target set's statistics."""
  labels = _coded_labels(dataset, config)

  # A pool keeps every network; a sequence never returns to an earlier one.
  @functools.lru_cache(maxsize=config.num_networks if config.revisit else 1)
  def inputs(index: int) -> tuple[Any, krr.Statistics]:
    variables = draw(index)
    name = f'statistics of network {index + 1}/{config.num_networks}'
    bar = metrics.progress_bar(len(labels), name, unit='image', leave=False)
    with clock.part('statistics'), bar:
      stats = objective.target_statistics(
        features_of,
        variables,
        dataset.images,
        labels,
        normalization,
        on_batch=bar.update,
      )
      return variables, jax.block_until_ready(stats)

  return lambda index, step: inputs(index)


def _sampled_inputs(
  key: jax.Array,
  draw: Callable[[int], Any],
  dataset: Dataset,
  normalization: Normalization,
  config: DistillationConfig,
) -> InputsFn:
  """Inputs of a step: a network and a class-balanced batch of real images."""
  labels = _coded_labels(dataset, config)
  table = subsets.class_table(dataset.labels, dataset.num_classes)
  draw_cached = functools.lru_cache(
    maxsize=config.num_networks if config.revisit else 1
  )(draw)
  sample_rows = jax.jit(subsets.balanced_batch, static_argnums=2)

  def inputs(index: int, step: int) -> tuple[Any, LabeledSet]:
    row_key = jax.random.fold_in(key, step)
    rows = np.asarray(sample_rows(row_key, table, config.real_batch))
    images = normalize(dataset.images[rows], normalization)
    return draw_cached(index), labeled_set(images, jnp.asarray(labels[rows]))

  return inputs


def _coded_labels(dataset: Dataset, config: DistillationConfig) -> np.ndarray:
  encode = LABEL_CODINGS[config.label_coding]
  return np.asarray(encode(jnp.asarray(dataset.labels), dataset.num_classes))


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
