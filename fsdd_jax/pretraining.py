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
import jax.numpy as jnp

from fsdd_jax import (
  artifacts,
  cache_batches,
  caching,
  distill,
  pretraining_state,
  processes,
)
from fsdd_jax.cache import CacheSource
from fsdd_jax.cache_manifest import Manifest
from fsdd_jax.datasets import Dataset
from fsdd_jax.devices import devices_for, local
from fsdd_jax.layers import choose
from fsdd_jax.method_configs import PretrainingConfig
from fsdd_jax.normalization import Normalization
from fsdd_jax.one_network import FixedNetwork
from fsdd_jax.pretrained import Pretrained
from fsdd_jax.pretraining_objectives import (
  OBJECTIVES,
  Inputs,
  ScoreFn,
  make_score,
)
from fsdd_jax.pretraining_state import (
  PretrainingState,
  UpdateFn,
  is_plateau,
  keep_best,
)
from fsdd_jax.stage_loop import (
  LoopOptions,
  ProgressFn,
  StageLoop,
  claim_workdir,
  with_progress,
)
from fsdd_jax.translator import translate


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
    >>> from fsdd_jax import toy
    >>> source = toy.build_cache(tempfile.mkdtemp())
    >>> check_cache(source.manifest, *toy.problem(), theta_seed=0)
  """
  ours = {
    'dataset_fingerprint': dataset.fingerprint(),
    'image_shape': dataset.images.shape[1:],
    'network': networks.describe_network(network),
    'network_seed': theta_seed,
    'normalization': artifacts.describe_normalization(normalization),
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
) -> Pretrained:
  """Pre-trains a translator on a cache of distilled subsets (Alg. 2).

  All devices share each batch. The same config on the same machine gives the
  same bytes, also when the run was killed and started again on the same work
  directory.

  Args:
    network: f; its initialisers are Theta, and theta was drawn from them.
    translator: the module G.
    source: D, as of `cache.open_cache`.
    dataset: the large set Z that the cache was made of.
    normalization: how its images become network inputs.
    config: B, eta, the objective and the rest.
    options: progress, logs, checkpoints; by default only a progress bar.
    progress_fn: in place of that of the options.

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
    >>> from fsdd_jax import toy
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
  )
  omega_key, network_key, heldout_key = jax.random.split(
    jax.random.key(config.seed), 3
  )
  train_count, heldout = _split(manifest.num_subsets, config)
  objective = OBJECTIVES[config.objective](
    network, normalization, ridge=config.ridge, loss=config.loss
  )
  score = make_score(
    objective,
    jax.random.split(heldout_key, config.heldout_networks),
    cache_batches.read(source, dataset, rows=heldout),
  )
  tx = choose(distill.OPTIMIZERS, config.optimizer, 'optimizer')(
    distill.SCHEDULES[config.schedule](config.learning_rate, config.num_steps)
  )
  devices = devices_for(config.batch_size)
  update = pretraining_state.make_update(
    translator,
    objective.loss_fn,
    tx,
    networks_per_call=config.networks_per_call,
    devices=devices,
  )
  num_scores = -(-config.num_steps // config.eval_every)
  state = pretraining_state.init_state(
    omega_key, translator, manifest.image_shape, tx, num_scores
  )

  def inputs_from(step: int) -> Iterator[Inputs]:
    batches = cache_batches.random_batches(
      source,
      dataset,
      seed=config.seed,
      size=config.batch_size,
      start=step,
      count=train_count,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    for index, batch in enumerate(batches, step):
      keys = _sample_keys(network_key, index, config.batch_size)
      yield objective.inputs(keys, batch)

  with _stage_loop(options, config) as loop:
    state = loop.restore_or(devices.replicate(state))
    state, untranslated = _run(
      state, update, inputs_from, score, translator, config, loop
    )
  record = _record(state, untranslated, manifest, heldout, config)
  return Pretrained(
    translator,
    {'params': local(dict(state.best_params))},
    FixedNetwork(network, manifest.network_seed, manifest.image_shape),
    translator_metadata(translator, manifest, record),
  )


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
  translator: nn.Module,
  config: PretrainingConfig,
  loop: StageLoop,
) -> tuple[PretrainingState, float]:
  """Updates until the step limit or a plateau; returns also the reference."""
  translated = jax.jit(
    lambda params, labeled: translate(translator, {'params': params}, labeled)
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
  heldout: range,
  config: PretrainingConfig,
) -> dict[str, Any]:
  done = int(state.step)
  return {
    'config': dataclasses.asdict(config),
    'cache': manifest.digest.hex(),
    'num_steps': done,
    'ended_by': 'step limit' if done == config.num_steps else 'plateau',
    'heldout_subsets': list(heldout),
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
    >>> from fsdd_jax import toy
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
    'translator': networks.describe_network(translator),
    'normalization': dict(manifest.normalization),
    'image_shape': list(manifest.image_shape),
    'dataset': manifest.dataset,
    'caching': dict(manifest.configuration),
    'training': dict(record),
  }


def _split(num_subsets: int, config: PretrainingConfig) -> tuple[int, range]:
  """How many entries are learned from, and which of the others are scored."""
  held = max(1, round(config.heldout_share * num_subsets))
  count = num_subsets - held
  if count < 1:
    raise ValueError(
      f'A cache of {num_subsets} subsets has none to learn from beside '
      f'{held} held-out ones; cache more, or lower heldout_share.'
    )
  return count, range(count, count + min(held, config.heldout_subsets))


@functools.partial(jax.jit, static_argnums=2)
def _keys_of(key: jax.Array, first: int, numbers: range) -> jax.Array:
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  return fold_in(key, first + jnp.asarray(numbers))


def _sample_keys(key: jax.Array, step: int, size: int) -> jax.Array:
  """Keys of this process's samples of a step, one network each."""
  return _keys_of(key, step * size, processes.own_places(size))
