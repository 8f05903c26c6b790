"""Speed as ratios to a yardstick in the same process.

  python experiments/benchmark.py step --num_real=1000,50000 --ipc=10

`step`: one distillation step in a fixed network by statistics, over the forward
and backward pass of the distilled images alone.
"""

import functools
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fsdd_jax import (
  cli,
  distill,
  normalization,
  objective,
  random_networks,
  report,
)
from fsdd_jax.configs import NetworkConfig
from fsdd_jax.types import labeled_set

_IPC = flags.DEFINE_integer('ipc', 10, 'Images per class, of 10 classes.')
_NUM_REAL = flags.DEFINE_list(
  'num_real', ['1000', '50000'], 'Sizes of the target set.'
)
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Timed pairs.')


def _seconds(call: Callable[[], Any]) -> float:
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def _pairs(
  measured: Callable[[], Any], yardstick: Callable[[], Any]
) -> tuple[list[float], list[float]]:
  """Seconds of both, in turn, after a warm-up that compiles."""
  for call in (measured, yardstick, measured, yardstick):
    jax.block_until_ready(call())
  pairs = [
    (_seconds(measured), _seconds(yardstick)) for _ in range(_REPEATS.value)
  ]
  first, second = zip(*pairs, strict=True)
  return list(first), list(second)


def _stepping(
  step_fn: distill.StepFn, state: distill.DistillState, *inputs: Any
) -> Callable[[], Any]:
  """A call that runs the next step, as each step donates its state."""

  def call() -> Any:
    nonlocal state
    state, metrics = step_fn(state, *inputs)
    return metrics

  return call


def _quartiles(values: Sequence[float]) -> str:
  low, middle, high = np.percentile(values, [25, 50, 75])
  return f'{middle:.3g} [{low:.3g}-{high:.3g}]'


def step() -> report.Table:
  """A step by statistics against the forward and backward of X_S alone."""
  rng = np.random.default_rng(0)
  size, num_synthetic = _IMAGE_SIZE.value, 10 * _IPC.value
  network = cli.make_network(cli.from_flags(NetworkConfig), (size, size, 3), 10)
  features_of = objective.feature_fn(network)
  variables = random_networks.sample(
    jax.random.key(0), network, (size, size, 3)
  )
  synthetic = labeled_set(
    jnp.asarray(
      rng.standard_normal((num_synthetic, size, size, 3)), jnp.float32
    ),
    jnp.tile(jnp.eye(10) - 0.1, (_IPC.value, 1)),
  )
  features = features_of(variables, synthetic.images)
  cotangent = jnp.ones_like(features)

  @jax.jit
  def yardstick(images: jax.Array) -> jax.Array:
    _, pull_back = jax.vjp(lambda x: features_of(variables, x), images)
    return pull_back(cotangent)[0]

  tx = distill.make_optimizer('adam', 1e-3)
  run_step = distill.make_step(
    lambda s, v, stats: objective.krr_loss_from_statistics(
      features_of, v, s, stats, ridge=1e-6
    ),
    tx,
  )
  rows = []
  for num_real in map(int, _NUM_REAL.value):
    images = rng.integers(0, 256, (num_real, size, size, 3), dtype=np.uint8)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, num_real)] - 0.1
    stats = objective.target_statistics(
      features_of,
      variables,
      images,
      labels,
      normalization.standardization(images[:1000]),
    )
    measured = _stepping(
      run_step, distill.init_state(synthetic, tx), variables, stats
    )
    ours, base = _pairs(
      measured, functools.partial(yardstick, synthetic.images)
    )
    ratios = [a / b for a, b in zip(ours, base, strict=True)]
    rows.append(
      [str(num_real), _quartiles(ours), _quartiles(base), _quartiles(ratios)]
    )
  return report.Table(
    'One distillation step over forward and backward of its images',
    ['target images', 'step s', 'forward + backward s', 'ratio'],
    rows,
    f'{num_synthetic} images of {size} x {size}; median [quartiles] of '
    f'{_REPEATS.value} pairs; jax {jax.__version__}, '
    f'{jax.devices()[0].device_kind}, Python {platform.python_version()}.',
  )


BENCHMARKS = {'step': step}


def main(arguments: list[str]) -> None:
  """Runs the benchmark that the first argument names."""
  if len(arguments) != 2 or arguments[1] not in BENCHMARKS:
    raise ValueError(
      f'Name one benchmark among {", ".join(BENCHMARKS)}; got '
      f'{" ".join(arguments[1:]) or "none"}.'
    )
  print(report.to_markdown(BENCHMARKS[arguments[1]]()))


if __name__ == '__main__':
  cli.define_flags(NetworkConfig)
  cli.run(main)
