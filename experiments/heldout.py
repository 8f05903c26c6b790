r"""Draws how pre-training lowered the held-out loss, a curve a translator.

Example:
  python experiments/heldout.py tiny_imagenet_32 \
      runs/omega/translator.safetensors --output=runs/heldout.png

Translators of different caches have different held-out subsets. So a curve is
what translation changes, in percent of the loss of the same subsets without it.
"""

from collections.abc import Sequence

from absl import flags
from matplotlib import figure as mpl_figure

from fsdd_jax import zoo
from fsdd_jax.reporting import pictures
from fsdd_jax.runtime import files
from fsdd_jax.storage.translators import ThetaTranslator
from workbench import launching

_OUTPUT = flags.DEFINE_string(
  'output', None, 'PNG file to write.', required=True
)
_LABELS = flags.DEFINE_list(
  'labels', None, 'Names of the curves; by default the subsets learned from.'
)


def curve(omega: ThetaTranslator) -> tuple[list[int], list[float]]:
  """Updates, and the change of the held-out loss after them, in percent.

  Raises:
    ValueError: if the translator was not pre-trained.
  """
  record = omega.record
  if 'heldout_losses' not in record:
    raise ValueError(
      'The translator has no held-out losses: it was not pre-trained. Give '
      'the file that pretrain.py wrote.'
    )
  start, last = record['untranslated_loss'], record['num_steps']
  every = record['config']['eval_every']
  steps = [
    min(every * (k + 1), last) for k in range(len(record['heldout_losses']))
  ]
  changes = [100 * (x / start - 1) for x in record['heldout_losses']]
  return steps, changes


def draw(
  curves: Sequence[tuple[list[int], list[float]]], labels: Sequence[str]
) -> mpl_figure.Figure:
  """The curves of `curve`, each named by its label."""
  figure = mpl_figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for (steps, changes), label in zip(curves, labels, strict=True):
    axes.plot(steps, changes, marker='.', label=label)
  axes.axhline(0, color='gray', linestyle=':')
  axes.set_xlabel('updates of pre-training')
  axes.set_ylabel('change of the held-out loss, %')
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def main(arguments: list[str]) -> None:
  """Loads the translators named on the command line and draws their curves."""
  omegas = [zoo.load_translator(path) for path in arguments[1:]]
  curves = [curve(omega) for omega in omegas]
  labels = _LABELS.value
  if labels is None:
    learned = [omega.record['learned_subsets'] for omega in omegas]
    labels = [f'{last - first:,} subsets' for first, last in learned]
  if len(labels) != len(omegas):
    raise ValueError(
      f'--labels names {len(labels)} curves of {len(omegas)} translators.'
    )
  path = files.resolve(_OUTPUT.value)
  files.write_bytes_atomic(path, pictures.figure_png(draw(curves, labels)))
  print(f'Wrote {path}.')


if __name__ == '__main__':
  launching.run(main, check=launching.files_given)
