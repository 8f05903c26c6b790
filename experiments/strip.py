r"""Draws distilled sets of one data set, a row of images each.

Example (the picture of the README):
  python experiments/adapt.py --translator=tiny_imagenet_32 --dataset=cifar10 \
      --limit=10000 --adapt_ipcs=1 --num_adaptation_steps=0 \
      --workdir=runs/no_ada
  python experiments/distill.py --flagfile=cpu_cifar10.flags --ipc=1 \
      --num_networks=4 --revisit --num_steps=60 --workdir=runs/pool4
  python experiments/strip.py runs/no_ada/in_theta_ipc1.safetensors \
      runs/no_ada/distilled_ipc1.safetensors \
      runs/pool4/distilled.safetensors --output=docs/pictures/strip.png
"""

from absl import flags

from fsdd_jax import zoo
from fsdd_jax.reporting import pictures
from fsdd_jax.runtime import files
from workbench import launching, strips

_OUTPUT = flags.DEFINE_string(
  'output', None, 'PNG file to write.', required=True
)
_IMAGES = flags.DEFINE_integer(
  'images', 10, 'Images a row, one of each of the first classes.', lower_bound=1
)


def main(arguments: list[str]) -> None:
  """Loads the sets named on the command line and draws them."""
  sets = [zoo.load_distilled(path) for path in arguments[1:]]
  strips.check(sets)
  picture = pictures.figure_png(strips.draw(sets, _IMAGES.value))
  path = files.resolve(_OUTPUT.value)
  files.write_bytes_atomic(path, picture)
  print(f'Wrote {path}.')


if __name__ == '__main__':
  launching.run(main, check=launching.files_given)
