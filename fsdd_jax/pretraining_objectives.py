"""What pre-training minimises: the loss of translated images, or of their copy.

An objective is a pair of losses with the inputs they take; `pretraining` knows
nothing else about it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fsdd_jax import krr, objective, random_networks
from fsdd_jax.cache_batches import SubsetBatch
from fsdd_jax.normalization import Normalization, normalize
from fsdd_jax.random_networks import LossFn
from fsdd_jax.types import LabeledSet

Inputs = tuple[Any, LabeledSet, Any]
ScoreFn = Callable[[Callable[[LabeledSet], LabeledSet]], jax.Array]


class Objective(NamedTuple):
  """Losses of `(variables, set, target)` and where these come from.

  Attributes:
    loss_fn: of one translated set in one network.
    inputs: networks, sets and targets of a step, all with a leading axis
      `[b]`, from `[b]` random keys and a batch.
    heldout_loss_fn: as `loss_fn`, for held-out subsets.
    heldout_inputs: a network, set and target for each subset of a batch, from
      the keys of a few networks, which serve the subsets in turn.

  Example:
    >>> goal: Objective = OBJECTIVES['reconstruction'](None, None, ridge=0.0)
    >>> goal._fields
    ('loss_fn', 'inputs', 'heldout_loss_fn', 'heldout_inputs')
  """

  loss_fn: LossFn
  inputs: Callable[[jax.Array, SubsetBatch], Inputs]
  heldout_loss_fn: LossFn
  heldout_inputs: Callable[[jax.Array, SubsetBatch], list[Inputs]]


def translation(
  network: nn.Module,
  normalization: Normalization,
  *,
  ridge: float,
  loss: str = 'squared',
) -> Objective:
  """The loss of Alg. 2, lines 6-9: translated images in fresh networks.

  Held-out subsets are scored by the statistics of their real images, so that
  a score costs no real image again.

  Args:
    network: f; its initialisers are Theta.
    normalization: how uint8 images become network inputs.
    ridge: relative ridge of `krr.solve`.
    loss: a name in `objective.LOSSES`; the paper's by default.

  Returns:
    The objective.

  Example:
    >>> import jax
    >>> import tempfile
    >>> from fsdd_jax import cache_batches, toy
    >>> network, dataset, transform = toy.problem()
    >>> goal = translation(network, transform, ridge=1e-6)
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> batch = cache_batches.read(source, dataset, rows=[0, 1])
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> thetas, sets, targets = goal.inputs(keys, batch)
    >>> sets.images.shape, targets.images.shape
    ((2, 6, 8, 8, 3), (2, 12, 8, 8, 3))
  """
  features_of = objective.feature_fn(network)
  krr_loss = objective.LOSSES[loss]

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    return krr_loss.on_images(
      features_of, variables, labeled, target, ridge=ridge
    )

  def heldout_loss_fn(
    variables: Any, labeled: LabeledSet, target: Any
  ) -> jax.Array:
    return krr_loss.on_statistics(
      features_of, variables, labeled, target, ridge=ridge
    )

  @jax.jit
  def normalized(images: jax.Array, transform: Normalization) -> jax.Array:
    flat = normalize(images.reshape(-1, *images.shape[-3:]), transform)
    return flat.reshape(images.shape)

  def inputs(keys: jax.Array, batch: SubsetBatch) -> Inputs:
    shape = batch.images.shape[-3:]
    networks = random_networks.sample_many(keys, network, shape)
    images = normalized(batch.images, normalization)
    return (
      networks,
      batch.synthetic,
      LabeledSet(images, batch.labels, batch.mask),
    )

  @jax.jit
  def statistics(variables: Any, target: LabeledSet) -> krr.Statistics:
    features = features_of(variables, target.images)
    return krr.statistics(features, target.labels, target.mask)

  def heldout_inputs(keys: jax.Array, batch: SubsetBatch) -> list[Inputs]:
    shape = batch.images.shape[-3:]
    networks = [random_networks.sample(key, network, shape) for key in keys]
    result = []
    for i in range(len(batch.mask)):
      one = jax.tree.map(lambda x, i=i: x[i], batch)
      variables = networks[i % len(networks)]
      images = normalized(one.images, normalization)
      target = LabeledSet(images, one.labels, one.mask)
      result.append((variables, one.synthetic, statistics(variables, target)))
    return result

  return Objective(loss_fn, inputs, heldout_loss_fn, heldout_inputs)


def reconstruction(
  network: nn.Module,
  normalization: Normalization,
  *,
  ridge: float,
  loss: str = 'squared',
) -> Objective:
  """A plain auto-encoder's: G(x) is to be x again (the column `w AE`).

  Takes the same arguments as `translation` and uses none of them. The images
  are those of the cache, which adaptation will translate. As G(x) = x + Delta,
  it teaches Delta to vanish; give the translator a head that is not near zero.

  Returns:
    The objective: mean squared error a value.

  Example:
    >>> import jax.numpy as jnp
    >>> from fsdd_jax import types
    >>> goal = reconstruction(None, None, ridge=0.0)
    >>> labeled = types.labeled_set(jnp.ones((2, 8, 8, 3)), jnp.eye(2))
    >>> goal.loss_fn((), labeled, labeled.images - 2.0).item()
    4.0
  """
  del network, normalization, ridge, loss

  def loss_fn(variables: Any, labeled: LabeledSet, target: Any) -> jax.Array:
    del variables
    errors = jnp.mean((labeled.images - target) ** 2, axis=(1, 2, 3))
    return jnp.sum(errors * labeled.mask) / jnp.maximum(labeled.mask.sum(), 1.0)

  def inputs(keys: jax.Array, batch: SubsetBatch) -> Inputs:
    del keys
    return (), batch.synthetic, batch.synthetic.images

  def heldout_inputs(keys: jax.Array, batch: SubsetBatch) -> list[Inputs]:
    del keys
    sets = [
      jax.tree.map(lambda x, i=i: x[i], batch.synthetic)
      for i in range(len(batch.mask))
    ]
    return [((), one, one.images) for one in sets]

  return Objective(loss_fn, inputs, loss_fn, heldout_inputs)


def make_score(
  objective: Objective, keys: jax.Array, batch: SubsetBatch
) -> ScoreFn:
  """Makes the held-out score of a translator.

  Args:
    objective: what is minimised.
    keys: of a few networks, which serve the subsets in turn; consumed.
    batch: the held-out subsets.

  Returns:
    A function that takes a function of a distilled set (the translator, or the
    identity for reference), and returns the mean loss `[]` of all sets after
    it.

  Example:
    >>> import jax
    >>> import tempfile
    >>> from fsdd_jax import cache_batches, toy
    >>> goal = reconstruction(None, None, ridge=0.0)
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> batch = cache_batches.read(source, toy.problem()[1], rows=[0])
    >>> score = make_score(goal, jax.random.split(jax.random.key(0), 1), batch)
    >>> score(lambda labeled: labeled).item()
    0.0
  """
  every = objective.heldout_inputs(keys, batch)
  loss_fn = jax.jit(objective.heldout_loss_fn)

  def score(change: Callable[[LabeledSet], LabeledSet]) -> jax.Array:
    losses = [
      loss_fn(variables, change(labeled), target)
      for variables, labeled, target in every
    ]
    return jnp.mean(jnp.stack(losses))

  return score


OBJECTIVES: dict[str, Callable[..., Objective]] = {
  'translation': translation,
  'reconstruction': reconstruction,
}
