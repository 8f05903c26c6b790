"""Caching side by side, against one subset after another without padding."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import numpy as np

from fsdd_jax.algorithms import drawn_subsets, subset_step
from fsdd_jax.algorithms.caching import SubsetDistiller
from fsdd_jax.algorithms.method_configs import CachingConfig
from fsdd_jax.data.target import TargetSet
from fsdd_jax.runtime import metrics
from fsdd_jax.storage.cache.records import CacheEntry


@dataclasses.dataclass(frozen=True)
class Pass:
  """Seconds of one pass over all subsets.

  Attributes:
    batched: all seconds of `SubsetDistiller`, compilation included.
    batched_compilation: those of them that it compiled.
    loop: all seconds of the loop.
    loop_compilation: those of them that it compiled.
  """

  batched: float
  batched_compilation: float
  loop: float
  loop_compilation: float


@dataclasses.dataclass(frozen=True)
class CachingComparison:
  """What `compare` returns.

  Attributes:
    passes: the first one compiles.
    num_shapes: pairs (C, I) among the subsets, each of which the loop compiles.
    padded_synthetic: share of the distilled images that passed the network and
      were padding, or in a subset that fills the last batch.
    difference: the largest difference of a loss between both, relative to the
      loss of the loop.
  """

  passes: tuple[Pass, ...]
  num_shapes: int
  padded_synthetic: float
  difference: float


def compare(
  network: nn.Module,
  large: TargetSet,
  *,
  config: CachingConfig,
  repeats: int = 1,
) -> CachingComparison:
  """Distils the same subsets side by side and one after another (Alg. 1).

  The loop does the same steps on the same draws, for one subset at a time cut
  to its actual C and I, and so compiles for each pair of them. Without JAX's
  cache of compiled functions on disk, the first pass shows what both compile.

  Args:
    network: f.
    large: the large set Z.
    config: of the caching stage; subsets 0 to N - 1 are distilled.
    repeats: passes after the first one.

  Returns:
    Seconds of each pass, padding, and how far the losses differ.
  """
  distiller = SubsetDistiller(network, large, config=config)
  passes = []
  for _ in range(1 + repeats):
    batched, *ours = _timed(lambda: _in_batches(distiller, config))
    alone, *loops = _timed(lambda: _one_by_one(distiller, config))
    passes.append(Pass(*ours, *loops))
  losses, expected = ([e.losses for e in es] for es in (batched, alone))
  size = config.subsets_per_batch
  batches = [batched[i : i + size] for i in range(0, len(batched), size)]
  packed = sum(_num_packed(batch, size) for batch in batches)
  synthetic = sum(len(entry.synthetic.mask) for entry in alone)
  return CachingComparison(
    passes=tuple(passes),
    num_shapes=len({(int(e.num_classes), int(e.ipc)) for e in alone}),
    padded_synthetic=1 - synthetic / packed,
    difference=float(np.max(np.abs(np.divide(losses, expected) - 1))),
  )


def _in_batches(
  distiller: SubsetDistiller, config: CachingConfig
) -> list[CacheEntry]:
  """What `caching.build_cache` does, without the files."""
  entries: list[CacheEntry] = []
  for start in range(0, config.num_subsets, config.subsets_per_batch):
    stop = min(start + config.subsets_per_batch, config.num_subsets)
    entries += distiller(range(start, stop))
  return entries


def _num_packed(entries: list[CacheEntry], size: int) -> int:
  """Distilled images of one batch that pass the network."""
  filled = entries + [entries[-1]] * (size - len(entries))
  masks = np.stack([entry.synthetic.mask for entry in filled])
  return len(subset_step.packed_rows(masks))


def _one_by_one(
  distiller: SubsetDistiller, config: CachingConfig
) -> list[CacheEntry]:
  """The obvious loop: each subset alone, at its own size."""
  return [
    distiller.distil(drawn_subsets.unpad(distiller.draw([number])))[0]
    for number in range(config.num_subsets)
  ]


def _timed(
  call: Callable[[], list[CacheEntry]],
) -> tuple[list[CacheEntry], float, float]:
  """Entries, all seconds, and those of them that compiled."""
  clock = metrics.StageClock()
  with clock.part('run'):
    entries = call()
  seconds = clock.seconds()
  return entries, sum(seconds.values()), seconds.get('compilation', 0.0)
