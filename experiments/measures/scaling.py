"""What devices compute and send each other, by their compiled programs.

On forced host devices, seconds say nothing; the programs that XLA makes for
them do: each device runs the same one, so its operations are those of a device,
and its collectives are all that crosses between devices.
"""

import functools
import math
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

from fsdd_jax.core import krr_errors, translator_step
from fsdd_jax.networks.fixed import FixedNetwork, maps_for
from fsdd_jax.runtime.devices import Devices, split_sharding, whole_sharding
from fsdd_jax.types import LabeledSet
from measures import programs
from measures.programs import Problem

_COLLECTIVE = re.compile(
  r' = (.*?) (?:all-reduce|all-gather|all-to-all|reduce-scatter|'
  r'collective-permute)(?:-start)?\('
)
_ARRAY = re.compile(r'\b([a-z]+\d+)\[([\d,]*)\]')


class Cost(NamedTuple):
  """Of one step on one device.

  Attributes:
    flops: floating point operations.
    accessed: bytes of memory read and written, as the compiler counts.
    held: bytes held at once: arguments, results and temporaries.
    communicated: bytes of the results of all collectives.
    collectives: how many there are.
  """

  flops: float
  accessed: float
  held: float
  communicated: float
  collectives: int


def cost(compiled: Any) -> Cost:
  """The cost of what `jax.jit(...).lower(...).compile()` returns."""
  costs, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
  held = math.nan
  if memory is not None:  # Which not every platform knows.
    held = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )
  shapes = _COLLECTIVE.findall(compiled.as_text())
  return Cost(
    costs.get('flops', math.nan),
    costs.get('bytes accessed', math.nan),
    held,
    sum(_num_bytes(shape) for shape in shapes),
    len(shapes),
  )


def _num_bytes(shape: str) -> int:
  """Bytes of an array, or a tuple of them, as HLO writes it."""
  total = 0
  for kind, sizes in _ARRAY.findall(shape):
    bits = int(re.sub(r'\D', '', kind))
    total += (
      bits // 8 * math.prod(int(size) for size in sizes.split(',') if size)
    )
  return total


def statistics(problem: Problem, devices: Devices) -> Cost:
  """A pass over all real images in one network (Alg. 3 and 4, line 9).

  Args:
    problem: network and number of real images.
    devices: what shares the images.

  Returns:
    Its cost, as if all images of a device were one batch.
  """
  size = problem.num_real + -problem.num_real % devices.count
  program = programs.real_batch(problem, size)

  def work(variables: Any, images: LabeledSet) -> krr_errors.Statistics:
    return devices.sum_of_each(devices.each(program.work)(variables, images))

  variables, images = jax.eval_shape(program.make_arguments)
  arguments = _whole(devices, variables), _split(devices, images)
  return cost(jax.jit(work).lower(*arguments).compile())


def update(
  problem: Problem,
  translator: nn.Module,
  devices: Devices,
  *,
  batch_size: int,
  num_synthetic: int,
  num_target: int = 0,
) -> Cost:
  """A step of pre-training, or of adaptation by statistics.

  Alg. 2, lines 3-11; Alg. 3, lines 19-26.

  Args:
    problem: the networks.
    translator: the module G.
    devices: what shares the samples.
    batch_size: B, over all devices.
    num_synthetic: distilled images a sample.
    num_target: real images a sample; 0: the statistics of all.
  """
  loss_fn = programs.loss_in(
    problem, 'squared', ridge=1e-6, on_images=bool(num_target)
  )
  program = programs.update(
    problem,
    translator,
    loss_fn,
    num_synthetic,
    batch_size=batch_size,
    num_target=num_target,
  )
  _, batch = jax.eval_shape(program.make_arguments)
  tx = optax.adam(1e-3)
  theta = FixedNetwork(problem.network, 0, problem.image_shape)
  maps_of = maps_for(translator, theta)
  state = jax.eval_shape(
    lambda: translator_step.init_state(
      jax.random.key(0), translator, problem.image_shape, tx, maps_of
    )
  )
  step = translator_step.make_step(
    translator, loss_fn, tx, spread=devices.mean, maps_of=maps_of
  )
  arguments = _whole(devices, state), *_split(devices, batch)
  return cost(step.lower(*arguments).compile())  # type: ignore[attr-defined]


def steps(
  problem: Problem,
  translator: nn.Module,
  devices: Devices,
  *,
  batch_size: int,
  num_distilled: int,
  cached: tuple[int, int],
) -> dict[str, Cost]:
  """The steps of all stages.

  Args:
    problem: networks and real images.
    translator: the module G.
    devices: what shares a step; a subset of a cache and a step on X_S are the
      work of one device.
    batch_size: sets of a step of pre-training or adaptation.
    num_distilled: images of a distilled set of the target set.
    cached: distilled and real images of a subset.

  Returns:
    Costs by the name of the step.
  """
  synthetic, target = cached

  def distillation(num_synthetic: int, *, num_target: int = 0) -> Cost:
    """A step on X_S, which is the work of one device."""
    program = programs.step(
      problem,
      num_synthetic,
      loss='squared',
      ridge=1e-6,
      num_target=num_target,
    )
    return cost(program.compiled())

  shared = functools.partial(
    update, problem, translator, devices, batch_size=batch_size
  )
  return {
    'caching': distillation(synthetic, num_target=target),
    'pre-training': shared(num_synthetic=synthetic, num_target=target),
    'statistics': statistics(problem, devices),
    'distillation': distillation(num_distilled),
    'adaptation': shared(num_synthetic=num_distilled),
  }


def _whole(devices: Devices, tree: Any) -> Any:
  return _placed(tree, devices.mesh and whole_sharding(devices.mesh))


def _split(devices: Devices, tree: Any) -> Any:
  return _placed(tree, devices.mesh and split_sharding(devices.mesh))


def _placed(tree: Any, sharding: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
