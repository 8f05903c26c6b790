"""A distilled set in the forms of other tools: PNG, NumPy and PyTorch.

PyTorch is no dependency. `distilled_torch.safetensors` is written without it;
only `distilled.pt` needs it.
"""

import importlib.util
import io
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from fsdd_jax.data.normalization import denormalize
from fsdd_jax.evaluation import protocols
from fsdd_jax.reporting import export_card, export_clients, pictures
from fsdd_jax.runtime import files
from fsdd_jax.storage import containers
from fsdd_jax.storage.distilled_set import DistilledSet

# A value this far outside [0, 1] shows another grey level once clipped.
_HALF_LEVEL = 0.5 / 255.0


def to_pixels(distilled: DistilledSet) -> tuple[np.ndarray, float]:
  """Denormalises and clips the images of a set for display.

  Args:
    distilled: the set.

  Returns:
    `[n, h, w, c]` uint8, and the share in [0, 1] of values that left [0, 1] by
    more than half a grey level and so were clipped visibly.

  Example:
    >>> import toy
    >>> pixels, clipped = to_pixels(toy.distilled())
    >>> pixels.shape, pixels.dtype, clipped
    ((3, 8, 8, 3), dtype('uint8'), 0.0)
  """
  values = np.asarray(
    denormalize(jnp.asarray(distilled.images), distilled.normalization)
  )
  outside = (values < -_HALF_LEVEL) | (values > 1.0 + _HALF_LEVEL)
  return pictures.to_uint8(values), float(outside.mean())


def export_png(distilled: DistilledSet, folder: pathlib.Path) -> None:
  """Writes `png/<class>_<name>/<row>.png`; the class is the largest label.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> import toy
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> export_png(toy.distilled(), folder)
    >>> sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))
    ['png/0_red/0.png', 'png/1_green/1.png', 'png/2_blue/2.png']
  """
  target = folder / 'png'
  pixels, _ = to_pixels(distilled)
  classes = distilled.labels.argmax(axis=1)
  names = distilled.metadata.class_names
  folders = [
    f'{k:0{len(str(len(names) - 1))}d}_{_sanitize(name)}'
    for k, name in enumerate(names)
  ]
  digits = len(str(len(pixels) - 1))
  written = {
    f'{folders[k]}/{i:0{digits}d}.png': pictures.png_bytes(image)
    for i, (image, k) in enumerate(zip(pixels, classes, strict=True))
  }
  if _contents(target) == written:  # As after a kill.
    return
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise FileExistsError(
      f'{target}: already holds other files. Remove it or choose another '
      'output folder.'
    )
  temporary = folder / f'.{secrets.token_hex(8)}.tmp'
  try:
    for name, data in written.items():
      files.write_bytes_atomic(temporary / name, data)
    os.replace(temporary, target)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  """The bytes of all files in a folder, by their paths in it."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


# By the formats that write them; `pt` writes that of `torch` as well.
_FILES = {
  'npz': 'distilled.npz',
  'torch': 'distilled_torch.safetensors',
  'pt': 'distilled.pt',
}


def export_npz(distilled: DistilledSet, folder: pathlib.Path) -> None:
  """Writes `distilled.npz`: images, pixels, labels, classes, normalisation.

  Example:
    >>> import numpy as np
    >>> import pathlib
    >>> import tempfile
    >>> import toy
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> export_npz(toy.distilled(), folder)
    >>> sorted(np.load(folder / 'distilled.npz'))
    ['class_names', 'classes', 'images', 'labels', 'mean', 'pixels', 'std']
  """
  pixels, _ = to_pixels(distilled)
  arrays = _arrays(distilled) | {
    'pixels': pixels,
    'class_names': np.array(distilled.metadata.class_names, dtype=np.str_),
  }
  stream = io.BytesIO()
  np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
  files.write_bytes_atomic(folder / _FILES['npz'], stream.getvalue())


def export_torch(distilled: DistilledSet, folder: pathlib.Path) -> None:
  """Writes `distilled_torch.safetensors`: images `[n, c, h, w]`.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> import toy
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> export_torch(toy.distilled(), folder)
    >>> [path.name for path in folder.iterdir()]
    ['distilled_torch.safetensors']
  """
  metadata = distilled.metadata
  containers.write_container(
    folder / _FILES['torch'],
    'distilled_torch',
    _torch_arrays(distilled),
    {
      'class_names': list(metadata.class_names),
      'convnet': export_clients.convnet_of(distilled),
      'flip': not protocols.unsuitable_augmentation(metadata.dataset),
    },
  )


def export_pt(distilled: DistilledSet, folder: pathlib.Path) -> None:
  """Writes `distilled.pt`, and `distilled_torch.safetensors` beside it."""
  _require_torch()
  import torch

  export_torch(distilled, folder)
  tensors = {
    # `tensor` copies, so that nothing but the values gets into the file.
    name: torch.tensor(array)
    for name, array in _torch_arrays(distilled).items()
  }
  stream = io.BytesIO()
  torch.save(tensors, stream)
  files.write_bytes_atomic(folder / _FILES['pt'], stream.getvalue())


FORMATS: dict[str, Callable[[DistilledSet, pathlib.Path], None]] = {
  'png': export_png,
  'npz': export_npz,
  'torch': export_torch,
  'pt': export_pt,
}


def default_formats() -> tuple[str, ...]:
  """All formats that this machine can write; `pt` only where PyTorch is.

  Example:
    >>> default_formats()[:2]
    ('png', 'npz')
  """
  return ('png', 'npz', 'pt' if _has_torch() else 'torch')


def export(
  distilled: DistilledSet,
  folder: str | os.PathLike[str],
  formats: Sequence[str],
) -> None:
  """Writes a set in each format, and a `README.md` that says how to load it.

  Beside tensors for PyTorch come `train_torch.py`, which trains a ConvNet by
  the protocol `frepo`, if the set was distilled in one, and `dd_ranking.py`,
  which gives the set to DD-Ranking's evaluation, if it is not whitened.

  Args:
    distilled: the set.
    folder: where to; made if missing. Files of an earlier export are replaced
      or removed, but PNG images are never mixed with those of another set:
      they stay where they are the same.
    formats: names in `FORMATS`; `pt` includes `torch`.

  Raises:
    ValueError: if a format is unknown, or PNG cannot hold the channels.
    ModuleNotFoundError: if `pt` is asked for without PyTorch.
    FileExistsError: if `png` in the folder holds other files.
    OSError: if a file cannot be written.

  Example:
    >>> import pathlib
    >>> import tempfile
    >>> import toy
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> export(toy.distilled(), folder, ['npz'])
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'distilled.npz']
  """
  if unknown := [name for name in formats if name not in FORMATS]:
    raise ValueError(
      f'Unknown export formats {unknown}; use some of {tuple(FORMATS)}.'
    )
  if not formats:
    raise ValueError(f'No export format; use some of {tuple(FORMATS)}.')
  if 'pt' in formats:
    _require_torch()
  path = files.resolve(folder)
  # `FORMATS` has PNG first: what it refuses, it refuses before other files.
  chosen = [name for name in FORMATS if name in formats]
  for name in chosen:
    FORMATS[name](distilled, path)
  programs: list[str] = []
  if {'torch', 'pt'} & set(chosen):
    programs = export_clients.write_programs(distilled, path)
  text = export_card.readme(
    distilled, chosen, tensors=list(_arrays(distilled)), programs=programs
  )
  files.write_bytes_atomic(path / 'README.md', text.encode())
  # Of another set, perhaps, beside which they would pass for this one's.
  made = {*chosen, 'torch'} if 'pt' in chosen else {*chosen}
  left = {name for kind, name in _FILES.items() if kind not in made}
  for name in left.union(export_clients.PROGRAMS).difference(programs):
    (path / name).unlink(missing_ok=True)


def _arrays(distilled: DistilledSet) -> dict[str, np.ndarray]:
  """Images, labels, classes and all of the normalisation, as NumPy arrays."""
  arrays = {
    'images': np.asarray(distilled.images, np.float32),
    'labels': np.asarray(distilled.labels, np.float32),
    'classes': np.argmax(distilled.labels, axis=1).astype(np.int64),
  }
  for name, value in vars(distilled.normalization).items():
    if value is not None:
      arrays[name] = np.asarray(value, np.float32)
  return arrays


def _torch_arrays(distilled: DistilledSet) -> dict[str, np.ndarray]:
  arrays = _arrays(distilled)
  images = arrays['images'].transpose(0, 3, 1, 2)
  return arrays | {'images': np.ascontiguousarray(images)}


def _sanitize(name: str) -> str:
  """A class name as part of a folder's name, on any file system."""
  return re.sub(r'\W+', '_', name).strip('_')[:60] or 'class'


def _has_torch() -> bool:
  return importlib.util.find_spec('torch') is not None


def _require_torch() -> None:
  if not _has_torch():
    raise ModuleNotFoundError(
      'Format pt needs PyTorch, which is not installed. Install it (pip '
      'install torch), or use format torch: a safetensors file that PyTorch '
      'reads.'
    )
