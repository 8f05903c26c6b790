"""The twin of a ConvNet in PyTorch, with the same weights.

PyTorch is no dependency; it is imported where a function needs it.
"""

from typing import Any

import jax
import numpy as np

from fsdd_jax.networks.extractors import ConvNet
from fsdd_jax.runtime import compiler
from fsdd_jax.types import LabeledSet


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
  torch.set_num_threads(compiler.usable_cores())
  return torch


def make(torch: Any, network: ConvNet, variables: Any) -> Any:
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


def tensors(torch: Any, labeled: LabeledSet) -> tuple[Any, Any]:
  """Images `[n, c, h, w]` and labels of a set as tensors."""
  images = np.asarray(labeled.images).transpose(0, 3, 1, 2)
  labels = np.asarray(labeled.labels)
  return torch.tensor(images.copy()), torch.tensor(labels.copy())
