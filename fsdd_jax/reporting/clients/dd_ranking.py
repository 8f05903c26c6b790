"""Gives the distilled set beside this file to DD-Ranking's evaluation.

  import dd_ranking
  from ddranking.metrics import LabelRobustScoreSoft

  images, soft_labels = dd_ranking.load()
  score = LabelRobustScoreSoft(
    ipc=..., model_name='ConvNet-3', teacher_model_names=['ConvNet-3'],
    **dd_ranking.SETTINGS,
  )
  score.compute_metrics(image_tensor=images, soft_labels=soft_labels)

It needs torch and safetensors. The form is that of DD-Ranking 0.2.
"""

import pathlib
from collections.abc import Sequence

import torch
from safetensors.torch import load_file

# How DD-Ranking normalises the test images of CIFAR-10 and CIFAR-100.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

# The labels were made for a squared error, one for each image; sce and kl would
# take them for logits.
SETTINGS = {
  'soft_label_mode': 'S',
  'soft_label_criterion': 'mse_gt',
  'loss_fn_kwargs': {'mse_weight': 1.0, 'ce_weight': 0.0},
  'use_zca': False,
}


def load(
  mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[torch.Tensor, torch.Tensor]:
  """Images and soft labels as DD-Ranking takes them.

  Args:
    mean: a number a channel, by which DD-Ranking normalises test images.
    std: likewise.

  Returns:
    Images [n, c, h, w], class by class and normalised so, and soft labels
    [n, k].

  Raises:
    ValueError: if the set was distilled from whitened images, as DD-Ranking
      whitens otherwise.
  """
  folder = pathlib.Path(__file__).resolve().parent
  data = load_file(folder / 'distilled_torch.safetensors')
  if 'zca' in data:
    raise ValueError(
      'This set was distilled from images that were whitened otherwise than by '
      'DD-Ranking. Distil one without ZCA.'
    )
  pixels = data['images'] * _by_channel(data['std']) + _by_channel(data['mean'])
  return (pixels - _by_channel(mean)) / _by_channel(std), data['labels']


def _by_channel(values: Sequence[float] | torch.Tensor) -> torch.Tensor:
  return torch.as_tensor(values)[:, None, None]
