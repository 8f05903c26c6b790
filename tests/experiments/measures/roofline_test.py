"""Operations are counted, and held against the right ceiling."""

import jax
import jax.numpy as jnp
import pytest

from fsdd_jax.networks import extractors
from fsdd_jax.runtime import operations
from measures import programs, roofline
from measures.programs import Problem, Program


def test_gradients_of_kernels_count_in_full():
  """On the CPU they are a loop, of which the compiler counts one turn."""
  network = extractors.make(
    'convnet', image_shape=(16, 16, 8), num_classes=2, width=8, depth=1
  )
  problem = Problem(network, (16, 16, 8), 2, num_real=4)
  program = programs.training_step(problem, 4)
  shapes = jax.eval_shape(program.make_arguments)
  flops = operations.count(program.work, *shapes)
  # Forward and the gradients of kernel and bias, but none of the images.
  # XLA leaves out products with the padding: 46 of 48 rows and columns each.
  inside = (46 / 48) ** 2
  products = 2 * 2 * 4 * 16 * 16 * 9 * 8 * 8 * inside
  assert products < flops < 1.2 * products


def test_shares_are_of_each_ceiling():
  most = roofline.Ceilings({'float32': 2e12, 'TF32': 4e12}, num_bytes=1e12)
  found = roofline.Reached(seconds=0.5, flops=1e11, num_bytes=1e11)
  assert found.shares(most) == pytest.approx(
    {'float32': 0.1, 'TF32': 0.05, 'memory': 0.2}
  )


def test_a_program_is_run_and_counted():
  product = Program(lambda x: x @ x, lambda: (jnp.ones((32, 32)),))
  found = roofline.reached(product, repeats=2)
  assert found.flops == 2 * 32**3
  assert found.num_bytes >= 2 * 4 * 32**2
  assert found.seconds > 0
