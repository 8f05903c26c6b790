"""Alg. 2: the translator learns to carry distilled images from theta to Theta.

What is learned is an `Objective`: a loss, and the inputs of a step. Its loss on
held-out subsets, in networks that stay the same, decides when to stop and which
parameters to keep.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from fsdd_jax.algorithms import pretraining_state
from fsdd_jax.algorithms.method_configs import PretrainingConfig
from fsdd_jax.algorithms.pretraining_banks import translation_in_banks
from fsdd_jax.algorithms.pretraining_objectives import (
  Inputs,
  Objective,
  Problem,
  ScoreFn,
  make_score,
  reconstruction,
  translation,
)
from fsdd_jax.algorithms.pretraining_state import (
  PretrainingState,
  UpdateFn,
  is_plateau,
  keep_best,
)
from fsdd_jax.core import distill_step
from fsdd_jax.data.datasets import Dataset
from fsdd_jax.data.normalization import Normalization, describe_normalization
from fsdd_jax.networks import extractors
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.layers import choose
from fsdd_jax.networks.translator import translate
from fsdd_jax.runtime import hashes, processes
from fsdd_jax.runtime.devices import devices_for, local
from fsdd_jax.runtime.stage_loop import (
  LoopOptions,
  ProgressFn,
  StageLoop,
  claim_workdir,
  with_progress,
)
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.storage.cache.manifest import Manifest
from fsdd_jax.storage.cache.shards import CacheSource
from fsdd_jax.storage.translators import ThetaTranslator


def check_cache(
  manifest: Manifest,
  network: nn.Module,
  dataset: Dataset,
  normalization: Normalization,
  *,
  theta_seed: int,
) -> None:
  """Makes sure that a cache was made of what pre-training is given.

  Args:
    manifest: of the cache.
    network: f.
    dataset: the large set Z.
    normalization: how its images become network inputs.
    theta_seed: seed of theta.

  Raises:
    ValueError: naming all that differs.

  Example:
    >>> import tempfile
    >>> import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> check_cache(source.manifest, *toy.problem(), theta_seed=0)
  """
  ours = {
    'dataset_fingerprint': dataset.fingerprint(),
    'image_shape': dataset.images.shape[1:],
    'network': extractors.describe_network(network),
    'network_seed': theta_seed,
    'normalization': describe_normalization(normalization),
  }
  different = [
    f'{name}: {getattr(manifest, name)!r} in the cache, {value!r} now'
    for name, value in json.loads(json.dumps(ours)).items()
    if json.loads(json.dumps(getattr(manifest, name))) != value
  ]
  if different:
    raise ValueError(
      f'The cache was made of something else ({"; ".join(different)}). Load '
      f'Z ({manifest.dataset or "its name is unknown"}) and make the network '
      'as the caching stage did, or build another cache.'
    )


def pretrain(
  network: nn.Module,
  translator: nn.Module,
  source: CacheSource,
  dataset: Dataset,
  normalization: Normalization,
  *,
  config: PretrainingConfig,
  options: LoopOptions | None = None,
  progress_fn: ProgressFn | None = None,
  start: Mapping[str, Any] | None = None,
) -> ThetaTranslator:
  """Pre-trains a translator on a cache of distilled subsets (Alg. 2).

  All devices share each batch. The same config on the same machine gives the
  same bytes, also when the run was killed and started again on the same work
  directory.

  Args:
    network: f; its initialisers are Theta, and theta was drawn from them.
    translator: the module G.
    source: D, as of `shards.open_cache`.
    dataset: the large set Z that the cache was made of.
    normalization: how its images become network inputs.
    config: B, eta, the objective and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.
    start: variables of the translator to go on from, `{'params': omega}`, such
      as those learned from fewer subsets; by default random ones.

  Returns:
    The translator with omega_0, the best parameters by held-out loss; theta;
    and the record of settings, steps, losses and why it ended, which is the
    same for the same config and cache.

  Raises:
    ValueError: if the cache was made of something else or is too small, or
      the work directory is another run's.
    FloatingPointError: when a loss is not finite.

  Example:
    >>> import tempfile
    >>> import toy
    >>> network, dataset, transform = toy.problem()
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> config = PretrainingConfig(num_steps=1, batch_size=1)
    >>> result = pretrain(
    ...   network,
    ...   toy.translator().translator,
    ...   source,
    ...   dataset,
    ...   transform,
    ...   config=config,
    ... )
    >>> result.record['num_steps'], result.record['ended_by']
    (1, 'step limit')
  """
  options = with_progress(options, progress_fn)
  manifest = source.manifest
  check_cache(
    manifest, network, dataset, normalization, theta_seed=config.theta_seed
  )
  claim_workdir(
    options,
    config,
    network_fields=repr(network),
    translator_fields=repr(translator),
    cache=manifest.digest.hex(),
    start_sha256=start and hashes.hash_tree(start['params']),
  )
  omega_key, network_key, heldout_key = jax.random.split(
    jax.random.key(config.seed), 3
  )
  learned, heldout = _split(source, config)
  objective = _objective(
    Problem(network, dataset, normalization, network_key, config), manifest
  )
  score = make_score(
    objective,
    jax.random.split(heldout_key, config.heldout_networks),
    cache_batches.read(source, dataset, objective.read_fn, rows=heldout),
  )
  theta = FixedNetwork(network, manifest.network_seed, manifest.image_shape)
  random = ThetaTranslator(translator, {}, theta)
  tx = _optimizer(config)
  devices = devices_for(config.batch_size)
  update = pretraining_state.make_update(
    translator,
    objective.loss_fn,
    tx,
    networks_per_call=config.networks_per_call,
    devices=devices,
    maps_of=random.maps_of,
  )
  num_scores = -(-config.num_steps // config.eval_every)
  state = pretraining_state.init_state(
    omega_key, translator, manifest.image_shape, tx, num_scores, random.maps_of
  )
  if start is not None:
    state = pretraining_state.go_on_from(state, start['params'])

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

  with _stage_loop(options, config) as loop:
    state = loop.restore_or(devices.replicate(state))
    state, untranslated = _run(
      state, update, inputs_from, score, random, config, loop
    )
  record = _record(state, untranslated, manifest, learned, heldout, config)
  return dataclasses.replace(
    random,
    variables={'params': local(dict(state.best_params))},
    metadata=translator_metadata(translator, manifest, record),
  )


def _optimizer(config: PretrainingConfig) -> optax.GradientTransformation:
  tx = choose(distill_step.OPTIMIZERS, config.optimizer, 'optimizer')(
    distill_step.SCHEDULES[config.schedule](
      config.learning_rate, config.num_steps
    )
  )
  if config.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  return tx


def _objective(problem: Problem, manifest: Manifest) -> Objective:
  """What the config asks for, if the cache can serve it."""
  config = problem.config
  if config.objective == 'reconstruction':
    return reconstruction(problem)
  if config.bank_networks:
    return translation_in_banks(problem)
  if not manifest.target_size:
    raise ValueError(
      'The subsets of this cache are scored on all images of their classes '
      '(max_images=0), which cannot pass fresh networks at each update; set '
      'bank_networks to 1 or more.'
    )
  return translation(problem)


def _stage_loop(options: LoopOptions, config: PretrainingConfig) -> StageLoop:
  # Losses are written whenever a score may end the stage.
  log_every = math.gcd(options.log_every, config.eval_every)
  options = dataclasses.replace(options, log_every=log_every)
  return StageLoop('pre-train', num_steps=config.num_steps, options=options)


def _run(
  state: PretrainingState,
  update: UpdateFn,
  inputs_from: Callable[[int], Iterator[Inputs]],
  score: ScoreFn,
  start: ThetaTranslator,
  config: PretrainingConfig,
  loop: StageLoop,
) -> tuple[PretrainingState, float]:
  """Updates until the step limit or a plateau; returns also the reference."""
  translated = jax.jit(
    lambda params, labeled: translate(
      start.translator, {'params': params}, labeled, start.maps_of
    )
  )
  untranslated = score(lambda labeled: labeled)
  done, curve = int(state.step), state.curve
  inputs = inputs_from(done)
  while done < config.num_steps and not is_plateau(curve, config.patience):
    state, values = update(state, next(inputs))
    done += 1
    if done % config.eval_every == 0 or done == config.num_steps:
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
    loop.on_step(done, state, values)
  return state, float(untranslated)


def _record(
  state: PretrainingState,
  untranslated: float,
  manifest: Manifest,
  learned: range,
  heldout: range,
  config: PretrainingConfig,
) -> dict[str, Any]:
  done = int(state.step)
  return {
    'config': dataclasses.asdict(config),
    'cache': manifest.digest.hex(),
    'num_steps': done,
    'ended_by': 'step limit' if done == config.num_steps else 'plateau',
    'learned_subsets': [learned.start, learned.stop],
    'heldout_subsets': [heldout.start, heldout.stop],
    'heldout_losses': state.curve,
    'best_heldout_loss': min(state.curve),
    'untranslated_loss': untranslated,
  }


def translator_metadata(
  translator: nn.Module, manifest: Manifest, record: Mapping[str, Any]
) -> dict[str, Any]:
  """What `artifacts.save_translator` writes beside omega_0.

  Args:
    translator: the module G.
    manifest: of the cache it was pre-trained on; tells theta's seed and
      network, the normalisation and the resolution.
    record: of `pretrain`.

  Returns:
    JSON values.

  Example:
    >>> import tempfile
    >>> import toy
    >>> manifest = toy.build_cache(tempfile.mkdtemp()).manifest
    >>> metadata = translator_metadata(
    ...   toy.translator().translator, manifest, {}
    ... )
    >>> metadata['dataset'], metadata['image_shape']
    ('toy', [8, 8, 3])
  """
  return {
    'theta_seed': manifest.network_seed,
    'network': dict(manifest.network),
    'translator': extractors.describe_network(translator),
    'normalization': dict(manifest.normalization),
    'image_shape': list(manifest.image_shape),
    'dataset': manifest.dataset,
    'caching': dict(manifest.configuration),
    'training': dict(record),
  }


def _split(
  source: CacheSource, config: PretrainingConfig
) -> tuple[range, range]:
  """The entries that are learned from, and those that are scored."""
  held = source.manifest.num_heldout
  stop = held + config.num_subsets if config.num_subsets else None
  learned = range(len(source))[held:stop]
  if len(learned) < max(1, config.num_subsets):
    raise ValueError(
      f'A cache of {len(source)} subsets has {len(learned)} to learn '
      f'from beside {held} held-out ones; cache more, or lower num_subsets.'
    )
  return learned, range(min(held, config.heldout_subsets))
