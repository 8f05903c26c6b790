"""Trains ConvNets on the distilled set beside this file, in plain PyTorch.

  python train_torch.py --test cifar10 --data PATH
  python train_torch.py --test test.npz

It needs torch and safetensors, and for `--test cifar10` torchvision, which
finds CIFAR-10 below PATH or downloads it. An npz file holds `images`
[n, h, w, c], uint8 in [0, 255], and `labels` [n], numbers of classes.

The recipe is FRePo's, protocol `frepo` of fsdd_jax: soft labels, half a squared
error, Adam, warm-up and cosine decay, and one random operation a step, with
parameters of its own for each image. The last step counts.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional

LEARNING_RATE = 3e-4
MAX_BATCH = 500
WARM_UP = 500
# Steps of training for sets of at most so many images.
STEPS = ((10, 1000), (100, 2000), (500, 5000), (1000, 10000))
MOST_STEPS = 40000


def load(folder: pathlib.Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
  """Tensors of an exported set by name, and what it is a set of."""
  path = folder / 'distilled_torch.safetensors'
  with safetensors.safe_open(path, framework='pt') as file:
    # `file` is no mapping: it offers keys() but no iteration.
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    about = json.loads(file.metadata()['fsdd_jax'])['metadata']
  if about.get('convnet') is None:
    raise ValueError(
      f'{path} was not distilled in a ConvNet with weights as PyTorch draws '
      'them; train it with fsdd_jax.'
    )
  return tensors, about


def normalize(pixels: Tensor, tensors: dict[str, Tensor]) -> Tensor:
  """uint8 pixels [n, c, h, w] as the distilled images were normalised."""
  x = pixels.float() / 255
  x = (x - tensors['mean'][:, None, None]) / tensors['std'][:, None, None]
  if 'zca' in tensors:
    n, c, h, w = x.shape  # The matrix counts pixels in the order h, w, c.
    flat = x.permute(0, 2, 3, 1).reshape(n, -1) - tensors['zca_mean']
    x = (flat @ tensors['zca']).reshape(n, h, w, c).permute(0, 3, 1, 2)
  return x


class ConvNet(nn.Module):
  """Blocks of 3 x 3 convolution, norm, ReLU and 2 x 2 average pooling."""

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int,
    depth: int,
    width_multiplier: int,
    norm: str,
  ) -> None:
    """Draws the weights; `image_shape` is (c, h, w)."""
    super().__init__()
    channels, *size = image_shape
    # Zeros on all sides, so that pooling divides evenly.
    down, right = (-side % 2**depth for side in size)
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    layers: list[nn.Module] = [nn.ZeroPad2d(padding)]
    for block in range(depth):
      wider = width * width_multiplier**block
      layers += [
        nn.Conv2d(channels, wider, 3, padding=1),
        NORMS[norm](wider),
        nn.ReLU(),
        nn.AvgPool2d(2),
      ]
      channels = wider
    left = math.prod(math.ceil(side / 2**depth) for side in size)
    layers += [nn.Flatten(), nn.Linear(channels * left, num_classes)]
    self.layers = nn.Sequential(*layers)

  def forward(self, images: Tensor) -> Tensor:
    """Logits [n, k] of images [n, c, h, w]."""
    return self.layers(images)


NORMS: dict[str, Callable[[int], nn.Module]] = {
  'none': lambda width: nn.Identity(),
  'instance': lambda width: nn.InstanceNorm2d(width, affine=True),
  'batch': nn.BatchNorm2d,
  'group': lambda width: nn.GroupNorm(4, width),
}


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
  """A number in [low, high) for each image, [n, 1, 1]."""
  drawn = torch.rand(len(images), 1, 1, device=images.device)
  return low + (high - low) * drawn


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
  """Bilinear values at positions counted from the centre; edges go on."""
  n, _, h, w = images.shape
  # grid_sample counts from -1 to 1, x before y.
  y = (rows * 2 / max(h - 1, 1)).expand(n, h, w)
  x = (columns * 2 / max(w - 1, 1)).expand(n, h, w)
  return functional.grid_sample(
    images,
    torch.stack([x, y], dim=-1),
    padding_mode='border',
    align_corners=True,
  )


def _positions(images: Tensor) -> tuple[Tensor, Tensor]:
  """Rows [h, 1] and columns [w] of pixels, counted from the centre."""
  h, w = images.shape[2:]
  rows = torch.arange(h, device=images.device) - (h - 1) / 2
  return rows[:, None], torch.arange(w, device=images.device) - (w - 1) / 2


def color(images: Tensor) -> Tensor:
  """Random brightness, saturation and contrast."""
  low, high = -0.25, 0.25
  x = images + _uniform(images, low, high)[..., None]
  grey = x.mean(1, keepdim=True)
  x = grey + (x - grey) * _uniform(images, low, high).exp()[..., None]
  mean = x.mean((1, 2, 3), keepdim=True)
  return mean + (x - mean) * _uniform(images, low, high).exp()[..., None]


def zoom(images: Tensor) -> Tensor:
  """Enlarges by 0.8 to 1.25, and moves the window within the result."""
  limit = math.log(1.25)
  factor = _uniform(images, -limit, limit).exp()
  rows, columns = _positions(images)
  h, w = images.shape[2:]
  down, right = (
    _uniform(images, -1, 1) * (factor - 1).abs() * side / 2 for side in (h, w)
  )
  return _resample(images, (rows + down) / factor, (columns + right) / factor)


def rotate(images: Tensor) -> Tensor:
  """Turns by up to 15 degrees either way."""
  angle = _uniform(images, -math.radians(15), math.radians(15))
  y, x = _positions(images)
  rows = angle.cos() * y + angle.sin() * x
  return _resample(images, rows, angle.cos() * x - angle.sin() * y)


def translate(images: Tensor) -> Tensor:
  """Moves by up to an eighth of a side."""
  rows, columns = _positions(images)
  h, w = images.shape[2:]
  down, right = (_uniform(images, -side / 8, side / 8) for side in (h, w))
  return _resample(images, rows + down, columns + right)


def cutout(images: Tensor) -> Tensor:
  """Zeroes a box of a quarter of each side."""
  inside = []
  for side in images.shape[2:]:
    length = side // 4
    start = torch.randint(side - length + 1, (len(images), 1))
    offset = torch.arange(side) - start
    inside.append((offset >= 0) & (offset < length))
  box = (inside[0][:, :, None] & inside[1][:, None]).to(images.device)
  return images.masked_fill(box[:, None], 0.0)


def flip(images: Tensor) -> Tensor:
  """Mirrors half of the images sideways."""
  mirrored = _uniform(images, 0, 1)[..., None] < 0.5
  return torch.where(mirrored, images.flip(3), images)


OPERATIONS = (color, zoom, rotate, translate, cutout, flip)


def steps_for(num_images: int) -> int:
  """Steps of training on a set of so many images."""
  return next((x for most, x in STEPS if num_images <= most), MOST_STEPS)


def rate_at(step: int, num_steps: int) -> float:
  """Share of the learning rate at a step: warm-up, then cosine to 1%."""
  warm_up = min(WARM_UP, num_steps // 2)
  if step < warm_up:
    return step / warm_up
  done = min((step - warm_up) / (num_steps - warm_up), 1.0)
  return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def train(
  network: nn.Module,
  images: Tensor,
  labels: Tensor,
  *,
  num_steps: int,
  operations: Sequence[Callable[[Tensor], Tensor]],
) -> None:
  """Trains a network on images [n, c, h, w] with soft labels [n, k]."""
  optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
  schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: rate_at(step, num_steps)
  )
  network.train()
  for _ in range(num_steps):
    rows = torch.randperm(len(images))[:MAX_BATCH]
    operation = operations[int(torch.randint(len(operations), ()))]
    found = network(operation(images[rows]))
    loss = 0.5 * (found - labels[rows]).square().sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, classes: Tensor) -> float:
  """Share of normalised images that a network gets right, percent."""
  network.eval()
  hits = sum(
    int((network(x).argmax(1) == y).sum())
    for x, y in zip(images.split(500), classes.split(500), strict=True)
  )
  return 100 * hits / len(classes)


def read_test(
  name: str, data: str, class_names: list[str]
) -> tuple[Tensor, Tensor]:
  """Pixels [n, c, h, w], uint8, and classes [n] of what `--test` names."""
  if name == 'cifar10':
    from torchvision import datasets

    found = datasets.CIFAR10(data, train=False, download=True)
    if found.classes != class_names:
      raise ValueError(f'The set is not of CIFAR-10: it has {class_names}.')
    images, labels = found.data, np.asarray(found.targets)
  else:
    with np.load(name, allow_pickle=False) as file:
      images, labels = file['images'], file['labels']
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'{name}: images must be [n, h, w, c] uint8, not {images.dtype}'
      f'{list(images.shape)}.'
    )
  pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
  return pixels, torch.from_numpy(labels.astype(np.int64))


def main() -> None:
  """Trains fresh networks, and prints what they score on the test images."""
  parser = argparse.ArgumentParser(description='Trains on a distilled set.')
  parser.add_argument('--test', required=True, help='cifar10, or an npz file')
  parser.add_argument('--data', default='data', help='folder of CIFAR10')
  parser.add_argument('--repeats', type=int, default=3, help='fresh networks')
  parser.add_argument('--steps', type=int, help="by default FRePo's")
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--device', default='cpu', help='cpu, cuda or mps')
  options = parser.parse_args()
  tensors, about = load(pathlib.Path(__file__).resolve().parent)
  pixels, classes = read_test(options.test, options.data, about['class_names'])
  operations = OPERATIONS if about['flip'] else OPERATIONS[:-1]
  images = tensors['images'].to(options.device)
  labels = tensors['labels'].to(options.device)
  inputs = normalize(pixels, tensors).to(options.device)
  num_steps = options.steps or steps_for(len(images))
  found = []
  for repeat in range(options.repeats):
    torch.manual_seed(options.seed + repeat)
    network = ConvNet(images.shape[1:], labels.shape[1], **about['convnet'])
    network.to(options.device)
    train(network, images, labels, num_steps=num_steps, operations=operations)
    found.append(accuracy(network, inputs, classes.to(options.device)))
    print(f'network {repeat + 1}: {found[-1]:.2f}%', flush=True)
  spread = f' ± {np.std(found, ddof=1):.2f}' if len(found) > 1 else ''
  print(
    f'test accuracy {np.mean(found):.2f}{spread} (n={len(found)}), percent, '
    f'after {num_steps} steps'
  )


if __name__ == '__main__':
  main()
