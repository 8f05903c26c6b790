"""Alg. 2: the translator learns to carry distilled images from theta to Theta.

What is learned is an `Objective`: a loss, and the inputs of an update. Its loss
on held-out subsets, in networks that stay the same, decides when to stop and
which parameters to keep.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from fsdd_jax.algorithms import pretraining_objectives, pretraining_state
from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.algorithms.pretraining_banks import Problem
from fsdd_jax.algorithms.pretraining_objectives import (
  Inputs,
  Objective,
  ScoreFn,
  make_score,
)
from fsdd_jax.algorithms.pretraining_state import (
  PretrainingState,
  is_plateau,
  keep_best,
)
from fsdd_jax.core import distill_step, translator_step
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.target import TargetSet
from fsdd_jax.networks import computation, random_networks
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.layers import choose
from fsdd_jax.networks.translator import MapsFn, translate
from fsdd_jax.runtime import hashes, processes
from fsdd_jax.runtime.devices import Devices, devices_for, local
from fsdd_jax.runtime.loop import Loop, LoopOptions, ProgressFn, with_progress
from fsdd_jax.runtime.workdir import claim_workdir
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache.manifest import check_made_of, facts_of
from fsdd_jax.storage.cache.shards import CacheSource
from fsdd_jax.storage.translators import ThetaTranslator
from fsdd_jax.types import LossFn

UpdateFn = Callable[..., tuple[PretrainingState, dict[str, jax.Array]]]


def pretrain(
  network: nn.Module,
  translator: nn.Module,
  source: CacheSource,
  large: TargetSet,
  *,
  config: PretrainingConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: Mapping[str, Any] | None = None,
  ends: Callable[[], bool] | None = None,
) -> ThetaTranslator:
  """Pre-trains a translator on a cache of distilled subsets (Alg. 2).

  All devices share each batch. The same config on the same machine gives the
  same bytes, also when the run was killed and started again on the same work
  directory.

  Args:
    network: f; its initialisers are Theta, and theta was drawn from them.
    translator: the module G.
    source: D, from `shards.open_cache`.
    large: the large set Z that the cache was made of.
    config: B, eta, the objective and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: instead of that of the options.
    start: variables to go on from, `{'params': omega}`; by default random ones.
    ends: asked after each score; if true, the stage ends as at a plateau.

  Returns:
    The translator with omega_0, the best parameters by held-out loss, of those
    after some updates, so that a given start is not among them; theta;
    and the record of settings, steps, losses and why it ended, which is the
    same for the same config and cache.

  Raises:
    ValueError: if the cache was made of something else, has labels of another
      coding or is too small; if `networks_per_call` does not divide the samples
      of a device, or `start` is of another translator; or if the work directory
      is another run's.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import tempfile
    >>> import toy
    >>> network, _, _ = toy.problem()
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> config = PretrainingConfig(num_steps=1, batch_size=1)
    >>> result = pretrain(
    ...   network,
    ...   toy.translator().translator,
    ...   source,
    ...   toy.target(),
    ...   config=config,
    ... )
    >>> result.record['num_steps'], result.record['ended_by']
    (1, 'step limit')
  """
  options = with_progress(options, progress_fn)
  manifest = source.manifest
  facts = facts_of(network, large, theta_seed=config.theta_seed)
  check_made_of(manifest, facts)
  devices = devices_for(config.batch_size)
  size = config.batch_size // devices.count
  random_networks.check_per_call(config.networks_per_call, size)
  omega_key, network_key, heldout_key = jax.random.split(
    jax.random.key(config.seed), 3
  )
  learned, heldout = cache_batches.split(
    source, config.num_subsets, config.heldout_subsets
  )
  problem = Problem(network, large, network_key, config)
  objective = pretraining_objectives.choose(problem, manifest)
  theta = FixedNetwork(network, manifest.network_seed, manifest.image_shape)
  random = ThetaTranslator(translator, {}, theta)
  tx = _optimizer(config)
  state = pretraining_state.init_state(  # Line 1.
    omega_key,
    translator,
    manifest.image_shape,
    tx,
    num_scores=-(-config.num_steps // config.eval_every),
    maps_of=random.maps_of,
    start=start,
  )
  claim_workdir(  # Not before: what is refused leaves the folder free.
    options,
    config,
    network_fields=computation.named(network, large.image_shape),
    translator_fields=repr(translator),
    cache=manifest.digest.hex(),
    start_sha256=start and hashes.hash_tree(start['params']),
  )
  score = make_score(
    objective,
    jax.random.split(heldout_key, config.heldout_networks),
    cache_batches.read(source, large.dataset, objective.read_fn, rows=heldout),
  )
  update = make_update(
    translator,
    objective.loss_fn,
    tx,
    networks_per_call=config.networks_per_call,
    devices=devices,
    maps_of=random.maps_of,
  )
  inputs = _inputs_fn(source, large.dataset, objective, learned, config)
  state, untranslated = _run(  # Lines 2-12.
    *(devices.replicate(state), update, inputs, score, random, config),
    *(options, ends),
  )
  record = pretraining_state.record_of(
    state, untranslated, manifest, learned, heldout, config
  )
  metadata = pretraining_state.translator_metadata(translator, manifest, record)
  best = {'params': local(dict(state.best_params))}
  return dataclasses.replace(random, variables=best, metadata=metadata)


def _inputs_fn(
  source: CacheSource,
  dataset: Dataset,
  objective: Objective,
  learned: range,
  config: PretrainingConfig,
) -> Callable[[int], Iterator[Inputs]]:
  """Inputs of updates from a step on (Alg. 2, lines 4, 5 and 7)."""

  def inputs_from(step: int) -> Iterator[Inputs]:
    batches = cache_batches.random_batches(
      source,
      dataset,
      objective.read_fn,
      seed=config.seed,
      size=config.batch_size,
      start=step,
      numbers=learned,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    for index, batch in enumerate(batches, step):
      yield objective.inputs(index, batch)

  return inputs_from


def make_update(
  translator: nn.Module,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  networks_per_call: int,
  devices: Devices,
  maps_of: MapsFn | None = None,
) -> UpdateFn:
  """Makes the update (Alg. 2, lines 3-11), which devices share.

  Args:
    translator: the module G.
    loss_fn: of `(variables, set, target)` in one network.
    tx: the optimiser of omega.
    networks_per_call: as for `translator_step.make_step`.
    devices: what shares the batches.
    maps_of: theta's feature maps, for a translator that sees them.

  Returns:
    `update(state, (networks, sets, targets)) -> (state, metrics)`, which
    donates the translator of the state.
  """
  step = translator_step.make_step(
    translator,
    loss_fn,
    tx,
    networks_per_call=networks_per_call,
    spread=devices.mean,
    maps_of=maps_of,
  )

  def update(
    state: PretrainingState, inputs: tuple
  ) -> tuple[PretrainingState, dict[str, jax.Array]]:
    new, values = step(state.translator, *devices.shard(inputs))
    return dataclasses.replace(state, translator=new), values

  return update


def _optimizer(config: PretrainingConfig) -> optax.GradientTransformation:
  tx = choose(distill_step.OPTIMIZERS, config.optimizer, 'optimizer')(
    distill_step.SCHEDULES[config.schedule](
      config.learning_rate, config.num_steps
    )
  )
  if config.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  return tx


def _run(
  state: PretrainingState,
  update: UpdateFn,
  inputs_from: Callable[[int], Iterator[Inputs]],
  score: ScoreFn,
  start: ThetaTranslator,
  config: PretrainingConfig,
  options: LoopOptions,
  ends: Callable[[], bool] | None,
) -> tuple[PretrainingState, float]:
  """Updates until the last step, a plateau or an end (Alg. 2, lines 2-12).

  Returns the state, and the held-out loss without a translator.
  """
  translated = jax.jit(
    lambda params, labeled: translate(
      start.translator, {'params': params}, labeled, start.maps_of
    )
  )
  # Losses are written whenever a score may end the stage.
  log_every = math.gcd(options.log_every, config.eval_every)
  options = dataclasses.replace(options, log_every=log_every)
  steps = config.num_steps
  with Loop('pre-train', state, num_steps=steps, options=options) as loop:
    untranslated = score(lambda labeled: labeled)
    curve = loop.state.curve
    inputs = inputs_from(int(loop.state.step))
    for step in loop:  # Line 2.
      scored = curve and step % config.eval_every == 0
      if ends and scored and processes.any_process(ends()):
        break
      if is_plateau(curve, config.patience):  # Line 12.
        break
      state, values = update(loop.state, next(inputs))  # Lines 3-11.
      done = step + 1
      if done % config.eval_every == 0 or done == steps:
        params = local(state.translator.params)
        # On the host, and the same in all processes, which must end together.
        loss = jax.device_get(
          processes.from_first_process(
            score(functools.partial(translated, params))
          )
        )
        state = keep_best(state, len(curve), loss)
        curve.append(float(loss))
        values |= {'heldout_loss': loss, 'untranslated_loss': untranslated}
      loop.state, loop.metrics = state, values
  return loop.state, float(untranslated)
