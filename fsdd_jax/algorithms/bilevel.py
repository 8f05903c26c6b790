"""Bi-Level: a network in which distillation makes sets that work in others.

The alternative that the paper argues against: instead of translating what was
distilled in an arbitrary network, its weights are learned on the large set Z,
through the unrolled steps of distillation, so that the result has a low loss
in fresh networks. Then follows the procedure of 1 Net in that network. Only
the supplement's times tell of it (section B, Table 1), so the details are ours.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms import drawn_subsets
from fsdd_jax.algorithms.drawn_subsets import Draws
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.core import distill_step, krr, krr_errors, losses
from fsdd_jax.data import subsets
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import (
  Normalization,
  describe_normalization,
  normalize,
)
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.runtime import hashes
from fsdd_jax.runtime.loop import (
  Loop,
  LoopOptions,
  ProgressFn,
  with_progress,
)
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.storage import weight_files
from fsdd_jax.types import LabeledSet


@dataclasses.dataclass(frozen=True)
class LearnedNetwork(FixedNetwork):
  """A network with learned weights, in the place of an arbitrary theta.

  Attributes:
    digest: SHA-256 of the weights, by which work directories know it.
    variables: as `network.init` returns them.

  Example:
    >>> import toy
    >>> learned = learned_network(toy.problem()[0], 0, (8, 8, 3), toy.theta(5))
    >>> bool((learned.sample((8, 8, 3))['params']['Conv_0']['kernel']
    ...   == toy.theta(5)['params']['Conv_0']['kernel']).all())
    True
  """

  digest: str
  variables: Any = dataclasses.field(repr=False)

  def sample(self, image_shape: tuple[int, ...]) -> Any:
    """Its variables; of another resolution, the head alone is drawn anew.

    Raises:
      ValueError: if another part has another shape.
    """
    drawn = super().sample(image_shape)
    extractors.check_variables(
      self.variables, drawn, 'The learned network', besides=extractors.HEAD
    )
    return jax.tree.map(
      lambda drawn, own: own if own.shape == drawn.shape else drawn,
      drawn,
      self.variables,
    )


def learned_network(
  network: nn.Module, seed: int, image_shape: tuple[int, ...], variables: Any
) -> LearnedNetwork:
  """Puts weights in the place of those of an arbitrary theta.

  Args:
    network: its module.
    seed: of the weights that learning started from.
    image_shape: `(h, w, c)` that it was learned at.
    variables: the learned ones.

  Example:
    >>> import toy
    >>> learned_network(toy.problem()[0], 0, (8, 8, 3), toy.theta(5)).seed
    0
  """
  digest = hashes.hash_tree(variables)
  return LearnedNetwork(network, seed, image_shape, digest, variables)


def save_learned(
  path: str | os.PathLike[str],
  theta: LearnedNetwork,
  normalization: Normalization,
  *,
  record: Mapping[str, Any],
) -> None:
  """Writes a learned network's file, which `load_learned` reads.

  Args:
    path: the file, usually `*.safetensors`.
    theta: the network.
    normalization: of the images that it was learned on.
    record: how it was learned, JSON values.

  Example:
    >>> import tempfile
    >>> import toy
    >>> network, _, transform = toy.problem()
    >>> theta = learned_network(network, 3, (8, 8, 3), toy.theta(5))
    >>> path = f'{tempfile.mkdtemp()}/network.safetensors'
    >>> save_learned(path, theta, transform, record={})
    >>> load_learned(path).digest == theta.digest
    True
  """
  metadata = {
    'theta_seed': theta.seed,
    'network': extractors.describe_network(theta.network),
    'image_shape': list(theta.image_shape),
    'normalization': describe_normalization(normalization),
    'training': dict(record),
  }
  weight_files.save_network(path, theta.variables, metadata)


def load_learned(
  path: str | os.PathLike[str], *, num_classes: int = 10
) -> LearnedNetwork:
  """Reads a learned network's file and builds its module.

  Args:
    path: what `save_learned` wrote.
    num_classes: logits of the module; features do not depend on it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of an architecture that is not registered
      here.

  Example:
    >>> import tempfile
    >>> import toy
    >>> network, _, transform = toy.problem()
    >>> theta = learned_network(network, 3, (8, 8, 3), toy.theta(5))
    >>> path = f'{tempfile.mkdtemp()}/network.safetensors'
    >>> save_learned(path, theta, transform, record={})
    >>> load_learned(path).seed, load_learned(path).image_shape
    (3, (8, 8, 3))
  """
  variables, metadata = weight_files.load_network(path)
  image_shape, network = weight_files.network_of(path, metadata, num_classes)
  expected = jax.eval_shape(
    lambda key: random_networks.sample(key, network, image_shape),
    jax.random.key(0),
  )
  extractors.check_variables(variables, expected, path, besides=extractors.HEAD)
  return learned_network(
    network, metadata['theta_seed'], image_shape, variables
  )


@flax.struct.dataclass
class BilevelState:
  """What one update maps to the next.

  Attributes:
    step: `[]` int32, updates done.
    params: the network's parameters.
    opt_state: the optimiser's state over them.

  Example:
    >>> import jax.numpy as jnp
    >>> BilevelState(jnp.array(3), {}, ()).step.item()
    3
  """

  step: jax.Array  # []
  params: Any
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class BilevelResult:
  """What `learn_network` returns.

  Attributes:
    theta: the learned network, for `one_network.distill_in_theta`.
    losses: of each update since the last start of the run.

  Example:
    >>> import toy
    >>> config = BilevelConfig(
    ...   min_classes=2,
    ...   max_classes=3,
    ...   max_images=12,
    ...   max_synthetic=6,
    ...   num_steps=1,
    ...   num_updates=1,
    ... )
    >>> result: BilevelResult = learn_network(*toy.problem(), config=config)
    >>> len(result.losses), result.theta.image_shape
    (1, (8, 8, 3))
  """

  theta: LearnedNetwork
  losses: tuple[float, ...]


def unroll(
  features_of: losses.FeatureFn,
  variables: Any,
  start: LabeledSet,
  target: LabeledSet,
  *,
  config: BilevelConfig,
) -> LabeledSet:
  """Distils a set in a network, differentiably by the network's weights.

  Args:
    features_of: maps variables and images to features.
    variables: of the network.
    start: X_S and Y_S before the first step.
    target: X_T and Y_T.
    config: T, alpha, truncation and whether steps are computed again.

  Returns:
    X_S and Y_S after T steps (Alg. 1, lines 14-19, without augmentation).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax import types
    >>> from fsdd_jax.core import losses
    >>> x, y = jax.random.normal(jax.random.key(0), (4, 8, 8, 3)), jnp.eye(4)
    >>> start = types.labeled_set(x[:2], y[:2])
    >>> distilled = unroll(
    ...   losses.feature_fn(toy.problem()[0]),
    ...   toy.theta(0),
    ...   start,
    ...   types.labeled_set(x, y),
    ...   config=BilevelConfig(num_steps=2),
    ... )
    >>> distilled.images.shape
    (2, 8, 8, 3)
  """
  tx = distill_step.make_optimizer(
    config.optimizer,
    config.learning_rate,
    label_learning_rate=config.label_learning_rate,
    schedule=lambda rate: distill_step.SCHEDULES[config.schedule](
      rate, config.num_steps
    ),
  )
  trainable = {'images': start.images, 'labels': start.labels}

  def steps_in(variables: Any, carry: Any, count: int) -> Any:
    target_features = features_of(variables, target.images)

    def loss_of(trainable: dict[str, jax.Array]) -> jax.Array:
      weights = krr.solve(
        features_of(variables, trainable['images']),
        trainable['labels'],
        ridge=config.ridge,
        mask=start.mask,
      )
      return krr_errors.ERRORS[config.loss].on_images(
        weights, target_features, target.labels, target.mask
      )

    def step(carry: Any, _: None) -> tuple[Any, None]:
      trainable, opt_state = carry
      gradient = jax.grad(loss_of)(trainable)
      updates, opt_state = tx.update(gradient, opt_state, trainable)
      return (optax.apply_updates(trainable, updates), opt_state), None

    body = jax.checkpoint(step) if config.remat else step
    # Unlike elsewhere within a compiled loop, as T copies of a step and of its
    # gradient would take minutes to compile.
    return jax.lax.scan(body, carry, length=count)[0]

  carry = trainable, tx.init(trainable)
  through = min(config.truncation or config.num_steps, config.num_steps)
  if through < config.num_steps:
    carry = jax.lax.stop_gradient(
      steps_in(
        jax.lax.stop_gradient(variables), carry, config.num_steps - through
      )
    )
  trainable, _ = steps_in(variables, carry, through)
  return dataclasses.replace(start, **trainable)


def unrolled_loss(
  features_of: losses.FeatureFn, *, config: BilevelConfig
) -> Callable[[Any, Any, LabeledSet, LabeledSet], jax.Array]:
  """The loss, in another network, of what was distilled in one.

  Args:
    features_of: maps variables and images to features.
    config: as for `unroll`.

  Returns:
    `loss(params, other, start, target)` with the parameters to learn and the
    variables of the other network; a scalar, differentiable by `params`.

  Example:
    >>> import jax.numpy as jnp
    >>> import toy
    >>> from fsdd_jax import types
    >>> from fsdd_jax.core import losses
    >>> loss = unrolled_loss(
    ...   losses.feature_fn(toy.problem()[0]),
    ...   config=BilevelConfig(num_steps=1),
    ... )
    >>> one = types.labeled_set(jnp.ones((2, 8, 8, 3)), jnp.eye(2))
    >>> loss(toy.theta(0)['params'], toy.theta(1), one, one).shape
    ()
  """

  def loss(
    params: Any, other: Any, start: LabeledSet, target: LabeledSet
  ) -> jax.Array:
    own = {'params': params}
    distilled = unroll(features_of, own, start, target, config=config)
    return losses.LOSSES[config.loss].on_images(
      features_of, other, distilled, target, ridge=config.ridge
    )

  return loss


def learn_network(
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: BilevelConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
) -> BilevelResult:
  """Learns a network's weights on random subsets of the large set.

  The same arguments on the same machine give the same bytes, also when the
  run was killed and started again on the same work directory.

  Args:
    network: f; its weights start at those of `config.theta_seed`.
    dataset: the large set Z.
    normalization: how its images become network inputs.
    config: subsets, unrolled steps and updates.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.

  Returns:
    The network and the losses.

  Raises:
    ValueError: if the data set cannot serve the config, the network has state
      beside its parameters, or the work directory is another run's.
    FloatingPointError: when a loss or gradient is not finite.

  Example:
    >>> import toy
    >>> config = BilevelConfig(
    ...   min_classes=2,
    ...   max_classes=3,
    ...   max_images=12,
    ...   max_synthetic=6,
    ...   num_steps=1,
    ...   num_updates=2,
    ... )
    >>> len(learn_network(*toy.problem(), config=config).losses)
    2
  """
  options = with_progress(options, progress_fn)
  image_shape = dataset.images.shape[1:]
  theta = FixedNetwork(network, config.theta_seed, image_shape)
  variables = theta.sample(image_shape)
  if extra := variables.keys() - {'params'}:
    raise ValueError(
      f'The network keeps {", ".join(extra)} beside its parameters, which '
      'unrolled steps do not update; take norm instance, group or none.'
    )
  table = subsets.class_table(dataset.labels, dataset.num_classes)
  drawn_subsets.check(table, config)
  claim_workdir(
    options,
    config,
    network_fields=repr(network),
    dataset_fingerprint=dataset.fingerprint(),
    normalization=describe_normalization(normalization),
  )
  network_key = jax.random.fold_in(jax.random.key(config.seed), 2**31)
  gradient_of = _gradient_fn(network, normalization, config)
  tx = optax.adam(
    optax.cosine_decay_schedule(config.update_rate, config.num_updates)
  )
  params = jax.tree.map(jnp.array, variables['params'])  # Donated below.
  state = BilevelState(jnp.zeros((), jnp.int32), params, tx.init(params))
  losses: list[jax.Array] = []
  loop = Loop('bi-level', state, num_steps=config.num_updates, options=options)
  with loop:
    for step in loop:
      first = step * config.batch_size
      results = []
      for number in range(first, first + config.batch_size):
        other = random_networks.sample(
          jax.random.fold_in(network_key, number), network, image_shape
        )
        draws = drawn_subsets.draw(table, [number], config=config)
        results.append(
          gradient_of(loop.state.params, other, *_images(dataset, draws), draws)
        )
      loop.state, loop.metrics = _update(loop.state, results, tx=tx)
      losses.append(loop.metrics['loss'])
  learned = learned_network(
    network, config.theta_seed, image_shape, {'params': loop.state.params}
  )
  return BilevelResult(learned, tuple(map(float, losses)))


def _images(dataset: Dataset, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
  """Real images of X_S before the first step and of X_T, `[1, n, h, w, c]`."""
  initial, target = (
    dataset.images[np.asarray(subset.rows)]
    for subset in (draws.initial, draws.target)
  )
  return initial, target


def _gradient_fn(
  network: nn.Module, normalization: Normalization, config: BilevelConfig
) -> Callable[..., tuple[jax.Array, Any]]:
  """The compiled loss and gradient of one subset."""
  loss = unrolled_loss(losses.feature_fn(network), config=config)

  @jax.jit
  def gradient_of(
    params: Any,
    other: Any,
    initial_images: jax.Array,
    target_images: jax.Array,
    draws: Draws,
  ) -> tuple[jax.Array, Any]:
    sets = []
    for images, subset in (
      (initial_images[0], draws.initial),
      (target_images[0], draws.target),
    ):
      mask = subset.mask[0]
      x = normalize(images, normalization) * mask[:, None, None, None]
      sets.append(LabeledSet(x, subset.labels[0], mask))
    return jax.value_and_grad(loss)(params, other, *sets)

  return gradient_of


@functools.partial(jax.jit, static_argnames='tx', donate_argnums=0)
def _update(
  state: BilevelState,
  results: list[tuple[jax.Array, Any]],
  *,
  tx: optax.GradientTransformation,
) -> tuple[BilevelState, dict[str, jax.Array]]:
  loss, gradient = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *results)
  updates, opt_state = tx.update(gradient, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  values = {'loss': loss, 'gradient_norm': optax.tree.norm(gradient)}
  return BilevelState(state.step + 1, params, opt_state), values
