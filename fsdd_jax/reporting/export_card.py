"""The README beside an exported set: how to load and to normalise it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fsdd_jax.storage.distilled_set import DistilledSet

# By format, in the order in which an export lists them.
_DESCRIPTIONS = {
  'png': '`png/<class>_<name>/<row>.png`: pixels, clipped to [0, 255]',
  'npz': '`distilled.npz`: NumPy arrays, images [n, h, w, c]; opens with '
  '`allow_pickle=False`',
  'torch': '`distilled_torch.safetensors`: PyTorch layout, images [n, c, h, w]',
  'pt': '`distilled.pt`: the same tensors through `torch.save`',
}

_LOADING = """\
## Loading in PyTorch

```python
import torch
{load}
dataset = torch.utils.data.TensorDataset(data['images'], data['labels'])
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)
```
"""

_LOAD_SAFETENSORS = """\
from safetensors.torch import load_file
data = load_file('distilled_torch.safetensors')"""

_LOAD_PT = "data = torch.load('distilled.pt', weights_only=True)"

_NORMALIZE = """\
## Normalisation

Images are normalised. Test images must be normalised alike; for uint8 `pixels`
[n, c, h, w] and `data` as loaded above:

```python
x = pixels.float() / 255
x = (x - data['mean'][:, None, None]) / data['std'][:, None, None]
```
"""

_WHITEN = """\
```python
n, c, h, w = x.shape  # The ZCA matrix counts pixels in the order h, w, c.
flat = x.permute(0, 2, 3, 1).reshape(n, -1) - data['zca_mean']
x = (flat @ data['zca']).reshape(n, h, w, c).permute(0, 3, 1, 2)
```
"""

_TRAIN = """\
## Training in PyTorch

`train_torch.py` trains the ConvNet of the distillation on the set, by the
recipe of FRePo, and scores it. It needs torch and safetensors alone:

```bash
python train_torch.py --test test.npz --repeats 3
```

`test.npz` holds `images` [n, h, w, c], uint8 in [0, 255], and `labels` [n]. For
CIFAR-10 with torchvision, `--test cifar10 --data FOLDER`.
"""

_DD_RANKING = """\
## DD-Ranking

`dd_ranking.py` gives images, normalised as DD-Ranking normalises CIFAR-10, and
soft labels: `images, soft_labels = dd_ranking.load()`. Its first lines show the
call.
"""

_PROGRAMS = {'train_torch.py': _TRAIN, 'dd_ranking.py': _DD_RANKING}

_CODINGS = {
  'centered': 'one-hot minus 1/k (k classes): each row of it sums to 0',
  'onehot': 'one-hot',
  'learned': 'learned by distillation',
}


def readme(
  distilled: DistilledSet,
  formats: Sequence[str],
  *,
  tensors: Sequence[str],
  programs: Sequence[str] = (),
) -> str:
  """The text of an export's README: files, labels, loading, normalisation.

  Args:
    distilled: the set.
    formats: those written, as for `exports.export`.
    tensors: names of the arrays in the files.
    programs: those of `_PROGRAMS` that are beside the files.

  Returns:
    Markdown.

  Example:
    >>> import toy
    >>> text = readme(toy.distilled(), ['npz'], tensors=['images', 'labels'])
    >>> print(text.splitlines()[0])
    # Distilled set of toy
  """
  metadata = distilled.metadata
  listed = [name for name in _DESCRIPTIONS if name in formats]
  if 'pt' in listed and 'torch' not in listed:
    listed.insert(listed.index('pt'), 'torch')
  k, (_, h, w, c) = len(metadata.class_names), distilled.images.shape
  named = ', '.join(f'`{name}`' for name in tensors)
  parts = [
    f'# Distilled set of {metadata.dataset}\n\n'
    f'{k} classes, {metadata.ipc} x {k} images of {h} x {w} and {c} channels; '
    f'distilled in {_network(metadata.network)}; seeds: '
    f'{", ".join(f"{x} {n}" for x, n in metadata.seeds.items()) or "none"}.\n',
    '## Files\n\n'
    + ''.join(f'- {_DESCRIPTIONS[name]}\n' for name in listed)
    + f'\nArrays and tensors are {named}; `distilled.npz` adds `pixels` '
    '(uint8) and `class_names`.\n',
    '## Labels\n\n'
    f'`labels` [n, {k}] are {_CODINGS[metadata.label_coding]}. They were made '
    'for a squared error; `classes` (the largest label of a row) suit a '
    'cross-entropy.\n\n'
    + ''.join(f'{i}. {name}\n' for i, name in enumerate(metadata.class_names)),
  ]
  if 'torch' in listed:
    parts.append(_LOADING.format(load=_LOAD_SAFETENSORS))
  if 'pt' in listed:
    text = _LOADING.replace('PyTorch', 'PyTorch, from `distilled.pt`')
    parts.append(text.format(load=_LOAD_PT))
  parts.append(_NORMALIZE)
  if distilled.normalization.zca is not None:
    parts.append(_WHITEN)
  parts += [text for name, text in _PROGRAMS.items() if name in programs]
  if metadata.scores:
    parts.append(_scores(metadata.scores))
  return '\n'.join(parts)


def _network(fields: Mapping[str, Any]) -> str:
  """A network by name and fields; those that are 0 or '' are its own."""
  name = fields.get('network', fields.get('name', 'a network'))
  own = [
    f'{field} {value}'
    for field, value in fields.items()
    if value and field not in ('network', 'name')
  ]
  return f'{name} ({", ".join(own)})' if own else str(name)


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
  """Measured accuracies, mean and deviation over n fresh networks."""
  lines = ['| protocol | network | split | accuracy, % |', '| --- ' * 4 + '|']
  for score in scores:
    spread = '' if score['std'] is None else f' ± {score["std"]:.2f}'
    lines.append(
      f'| {score["protocol"]} | {score["network"]} | {score["split"]} '
      f'| {score["mean"]:.2f}{spread} (n={score["n"]}) |'
    )
  return '## Measured by fsdd_jax\n\n' + '\n'.join(lines) + '\n'
