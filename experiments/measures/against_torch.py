"""Ours beside plain PyTorch, on the same CPU and in turn.

PyTorch is no dependency; it is imported where a function needs it.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsdd_jax.algorithms.peers.network_pool import OnlineNetwork, training_step
from fsdd_jax.core import distill_step, krr_errors, losses
from fsdd_jax.networks import random_networks
from fsdd_jax.networks.extractors import ConvNet
from fsdd_jax.types import LabeledSet, centered_one_hot, labeled_set
from measures import yardsticks

_NUM_CLASSES = 10
_RATE, _RIDGE = 1e-3, 1e-6

Calls = dict[str, Callable[[], Any]]


def import_torch() -> Any:
  """PyTorch, with as many threads as this process may use cores.

  Raises:
    ImportError: where it is not installed; the message says how to get it.
  """
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      'The benchmark against PyTorch needs it: pip install torch.'
    ) from error
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  return torch


def images_of(num_images: int, image_size: int) -> LabeledSet:
  """Noise of ten classes in turn, with centred labels."""
  classes = jnp.arange(num_images) % _NUM_CLASSES
  shape = (num_images, image_size, image_size, 3)
  images = jax.random.normal(jax.random.key(0), shape)
  return labeled_set(images, centered_one_hot(classes, _NUM_CLASSES))


def torch_network(torch: Any, network: ConvNet, variables: Any) -> Any:
  """The same ConvNet with the same weights as a `torch.nn.Module`.

  Args:
    torch: the module.
    network: with instance norm or none, of a constant or growing width.
    variables: its weights, for images whose size its poolings divide.

  Returns:
    A module that maps images `[n, c, h, w]` to logits and flat features, whose
    order is that of PyTorch.
  """
  params = jax.tree.map(np.asarray, variables['params'])
  blocks, classifier = [], params['classifier']
  for block in range(network.depth):
    kernel, bias = (
      params[f'Conv_{block}']['kernel'],
      params[f'Conv_{block}']['bias'],
    )
    conv = torch.nn.Conv2d(*kernel.shape[2:], 3, padding=1)
    conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    conv.bias.data = torch.tensor(bias)
    norm = []
    if network.norm == 'instance':
      norm = [torch.nn.InstanceNorm2d(kernel.shape[-1], affine=True)]
    blocks += [conv, *norm, torch.nn.ReLU(), torch.nn.AvgPool2d(2)]
  body = torch.nn.Sequential(*blocks, torch.nn.Flatten())
  features, classes = classifier['kernel'].shape
  head = torch.nn.Linear(features, classes)
  # Flax flattens h, w, c and PyTorch c, h, w.
  side = round((features // kernel.shape[-1]) ** 0.5)
  weight = classifier['kernel'].reshape(side, side, -1, classes)
  weight = weight.transpose(3, 2, 0, 1).reshape(classes, features)
  head.weight.data = torch.tensor(weight.copy())
  head.bias.data = torch.tensor(classifier['bias'])

  class Both(torch.nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.body, self.head = body, head

    def forward(self, images: Any) -> tuple[Any, Any]:
      features = self.body(images)
      return self.head(features), features

  return Both()


def _to_torch(torch: Any, labeled: LabeledSet) -> tuple[Any, Any]:
  images = np.asarray(labeled.images).transpose(0, 3, 1, 2)
  labels = np.asarray(labeled.labels)
  return torch.tensor(images.copy()), torch.tensor(labels.copy())


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
  torch = import_torch()
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

  module = torch_network(torch, network, variables).requires_grad_(False)
  images, labels = (x.requires_grad_() for x in _to_torch(torch, start))
  with torch.no_grad():
    real_images, real_labels = _to_torch(torch, real)
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
  torch = import_torch()
  shape = (image_size, image_size, 3)
  variables = random_networks.sample(jax.random.key(1), network, shape)
  features_of = losses.feature_fn(network)
  batch = images_of(num_images, image_size)

  @jax.jit
  def sums(images: jax.Array, labels: jax.Array) -> Any:
    stats = krr_errors.statistics(features_of(variables, images), labels)
    return jnp.trace(stats.gram), stats.cross

  module = torch_network(torch, network, variables)
  images, labels = _to_torch(torch, batch)

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
  torch = import_torch()
  shape = (image_size, image_size, 3)
  variables = random_networks.sample(jax.random.key(1), network, shape)
  labeled = images_of(_NUM_CLASSES * ipc, image_size)
  tx = optax.adam(_RATE)
  train = jax.jit(training_step(network, tx), donate_argnums=0)
  module = torch_network(torch, network, variables)
  online = OnlineNetwork(
    jax.tree.map(jnp.array, variables), tx.init(variables['params'])
  )

  def ours() -> jax.Array:
    nonlocal online
    online = train(online, labeled, 0)
    return online.variables['params']['classifier']['bias'].sum()

  images, labels = _to_torch(torch, labeled)
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
