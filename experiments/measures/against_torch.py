"""Ours beside plain PyTorch, on the same CPU and in turn."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fsdd_jax.algorithms.peers.network_pool import OnlineNetwork, training_step
from fsdd_jax.core import distill_step, krr_errors, losses
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.extractors import ConvNet
from fsdd_jax.types import LabeledSet, centered_one_hot, labeled_set
from measures import torch_network, yardsticks

_NUM_CLASSES = 10
_RATE, _RIDGE = 1e-3, 1e-6

Calls = dict[str, Callable[[], Any]]


def images_of(num_images: int, image_size: int) -> LabeledSet:
  """Noise of ten classes in turn, with centred labels."""
  classes = jnp.arange(num_images) % _NUM_CLASSES
  shape = (num_images, image_size, image_size, 3)
  images = jax.random.normal(jax.random.key(0), shape)
  return labeled_set(images, centered_one_hot(classes, _NUM_CLASSES))


def _statistics(features: Any, labels: Any) -> tuple[Any, Any, Any]:
  return features.T @ features, features.T @ labels, (labels**2).sum()


def distillation_calls(
  network: ConvNet, *, ipc: int, num_real: int, image_size: int
) -> Calls:
  """A step of 1 Net by statistics: regression, its gradient, Adam.

  Args:
    network: f.
    ipc: distilled images per class, of ten.
    num_real: images of the target set, whose statistics are summed before.
    image_size: height and width.

  Returns:
    `ours` and `torch`, each of which takes a step and returns its loss.

  Raises:
    ImportError: without PyTorch.
  """
  torch = torch_network.import_torch()
  shape = (image_size, image_size, 3)
  variables = random_networks.sample(jax.random.key(1), network, shape)
  features_of = losses.feature_fn(network)
  start = images_of(_NUM_CLASSES * ipc, image_size)
  real = images_of(num_real, image_size)
  stats = krr_errors.statistics(
    features_of(variables, real.images), real.labels
  )
  tx = distill_step.make_optimizer('adam', _RATE)
  step_fn = distill_step.make_step(
    lambda labeled, stats: losses.krr_loss_from_statistics(
      features_of, variables, labeled, stats, ridge=_RIDGE
    ),
    tx,
  )
  state = distill_step.init_state(start, tx)

  def ours() -> jax.Array:
    nonlocal state
    state, values = step_fn(state, stats)
    return values['loss']

  module = torch_network.make(torch, network, variables).requires_grad_(False)
  images, labels = torch_network.tensors(torch, start)
  images.requires_grad_()
  labels.requires_grad_()
  with torch.no_grad():
    real_images, real_labels = torch_network.tensors(torch, real)
    sums = _statistics(module(real_images)[1], real_labels)
  adam = torch.optim.Adam([images, labels], lr=_RATE)
  step = functools.partial(
    _torch_step, torch, module, adam, images, labels, sums, num_real
  )
  return {'ours': ours, 'torch': step}


def _torch_step(
  torch: Any,
  module: Any,
  adam: Any,
  images: Any,
  labels: Any,
  sums: tuple[Any, Any, Any],
  num_real: int,
) -> float:
  gram, cross, energy = sums
  adam.zero_grad()
  _, features = module(images)
  n, d = features.shape
  primal = n > d
  kernel = features.T @ features if primal else features @ features.T
  kernel = kernel + _RIDGE * kernel.trace() / n * torch.eye(len(kernel))
  factor = torch.linalg.cholesky(kernel)
  right = features.T @ labels if primal else labels
  weights = torch.cholesky_solve(right, factor)
  if not primal:
    weights = features.T @ weights
  quadratic = (weights * (gram @ weights)).sum()
  loss = quadratic - 2 * (weights * cross).sum() + energy
  loss = loss / num_real
  loss.backward()
  adam.step()
  return loss.item()


def statistics_calls(
  network: ConvNet, *, num_images: int, image_size: int
) -> Calls:
  """The statistics of a batch: forward pass, Gram matrix, products with labels.

  Args:
    network: f.
    num_images: of the batch.
    image_size: height and width.

  Returns:
    `ours` and `torch`, each of which returns the trace of the Gram matrix.

  Raises:
    ImportError: without PyTorch.
  """
  torch = torch_network.import_torch()
  shape = (image_size, image_size, 3)
  variables = random_networks.sample(jax.random.key(1), network, shape)
  features_of = losses.feature_fn(network)
  batch = images_of(num_images, image_size)

  @jax.jit
  def sums(images: jax.Array, labels: jax.Array) -> Any:
    stats = krr_errors.statistics(features_of(variables, images), labels)
    return jnp.trace(stats.gram), stats.cross

  module = torch_network.make(torch, network, variables)
  images, labels = torch_network.tensors(torch, batch)

  def plain() -> float:
    with torch.no_grad():
      gram, _, _ = _statistics(module(images)[1], labels)
      return gram.trace().item()

  return {
    'ours': lambda: sums(batch.images, batch.labels)[0],
    'torch': plain,
  }


def training_calls(network: ConvNet, *, ipc: int, image_size: int) -> Calls:
  """A step of training by `frepo`: half the squared error, Adam.

  Args:
    network: f.
    ipc: distilled images per class, of ten.
    image_size: height and width.

  Returns:
    `ours` and `torch`, each of which takes a step and returns a sum of the
    classifier's biases.

  Raises:
    ImportError: without PyTorch.
  """
  torch = torch_network.import_torch()
  shape = (image_size, image_size, 3)
  variables = random_networks.sample(jax.random.key(1), network, shape)
  labeled = images_of(_NUM_CLASSES * ipc, image_size)
  tx = optax.adam(_RATE)
  train = jax.jit(training_step(network, tx), donate_argnums=0)
  module = torch_network.make(torch, network, variables)
  online = OnlineNetwork(
    jax.tree.map(jnp.array, variables), tx.init(variables['params'])
  )

  def ours() -> jax.Array:
    nonlocal online
    online = train(online, labeled, 0)
    return online.variables['params']['classifier']['bias'].sum()

  images, labels = torch_network.tensors(torch, labeled)
  adam = torch.optim.Adam(module.parameters(), lr=_RATE)

  def plain() -> float:
    adam.zero_grad()
    loss = 0.5 * ((module(images)[0] - labels) ** 2).sum(1).mean()
    loss.backward()
    adam.step()
    return module.head.bias.sum().item()

  return {'ours': ours, 'torch': plain}


def compare(
  network: ConvNet,
  *,
  ipcs: Sequence[int],
  num_real: int,
  image_size: int,
  repeats: int,
) -> dict[str, yardsticks.Pairs]:
  """Times ours and PyTorch in turn.

  Args:
    network: f.
    ipcs: images per class of steps.
    num_real: images of the statistics pass.
    image_size: height and width.
    repeats: timed pairs of each row.

  Returns:
    Seconds of ours and of PyTorch, by the name of the row.

  Raises:
    ImportError: without PyTorch.
  """
  size = {'image_size': image_size}
  rows = {}
  for ipc in ipcs:
    name = f'step of 1 Net, IPC {ipc}'
    rows[name] = distillation_calls(network, ipc=ipc, num_real=100, **size)
  name = f'statistics of {num_real} images'
  rows[name] = statistics_calls(network, num_images=num_real, **size)
  for ipc in ipcs:
    rows[f'training step of frepo, IPC {ipc}'] = training_calls(
      network, ipc=ipc, **size
    )
  return {
    name: yardsticks.time_pairs(calls['ours'], calls['torch'], repeats=repeats)
    for name, calls in rows.items()
  }
