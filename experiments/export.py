"""Exports a distilled set as PNG, NumPy and PyTorch files.

Example:
  python experiments/export.py cifar10_ipc1 --output=runs/export

A set is a file, or a shipped one by its name.
"""

from absl import flags

from fsdd_jax import zoo
from fsdd_jax.reporting import exports
from workbench import launching

_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write into.', required=True
)
_FORMATS = flags.DEFINE_list(
  'formats',
  None,
  'Some of png, npz, torch (safetensors) and pt (torch.save, with torch '
  'beside it); all that can be written here if not given.',
)


def main(arguments: list[str]) -> None:
  """Loads the set named on the command line and exports it."""
  distilled = zoo.load_distilled(arguments[1])
  formats = _FORMATS.value or exports.default_formats()
  exports.export(distilled, _OUTPUT.value, formats)
  _, clipped = exports.to_pixels(distilled)
  print(
    f'{len(distilled.images)} images of {distilled.metadata.dataset} exported '
    f'as {", ".join(formats)} to {_OUTPUT.value}; its README.md says how to '
    f'load them. {clipped:.2%} of the pixel values left [0, 255] and are '
    'clipped where shown.'
  )


if __name__ == '__main__':
  launching.run(main, check=launching.one_file)
