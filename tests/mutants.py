"""Changes one line of the library at a time, and asks whether a test fails.

  python tests/mutants.py --only=protocols,frepo

Each mutant runs in a copy of the repository in a temporary folder, against the
tests that belong to it. One that survives is a fault that no test would see. By
hand, not in CI: a mutant takes as long as its tests.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).parents[1]
_COPIED = ('fsdd_jax', 'experiments', 'tests', 'pyproject.toml', 'README.md')


class Mutant(NamedTuple):
  """A change of one place.

  Attributes:
    file: path within `fsdd_jax` or `experiments`, without ending.
    old: text that is there once.
    new: what takes its place.
    tests: paths within `tests` that must see it, without ending; after a
      colon, words that the names of the tests contain.
  """

  file: str
  old: str
  new: str
  tests: str


MUTANTS = (
  # Labels in closed form.
  Mutant('core/label_fit', 'return _explained(two, by_one) + _explained(one, by_two)',
         'return _explained(one, by_one) + _explained(two, by_two)',
         'core/label_fit'),
  Mutant('core/label_fit', 'jnp.where((given > 0) & (size > 0), given / size, 1.0)',
         '1.0', 'core/label_fit'),
  Mutant('core/label_fit', 'jnp.where(jnp.isfinite(scores), scores, -jnp.inf)',
         '-scores', 'core/label_fit'),
  Mutant('algorithms/finishing', 'halves[index % 2] = jax',
         'halves[0] = jax', 'algorithms/finishing'),
  Mutant('algorithms/finishing', '0 < config.label_images <= len(target.labels)',
         '0 < config.label_images', 'algorithms/finishing'),
  # Data: draws, splits, labels.
  Mutant('data/subsets', 'noise = jnp.where(valid, noise, -1.0)',
         'noise = jnp.where(valid, noise, 2.0)', 'data/subsets'),
  Mutant('data/random_subsets', 'jnp.where(mask, rows[classes, columns], 0)',
         'rows[classes, columns]', 'data/random_subsets'),
  Mutant('data/random_subsets', 'places < num_classes * per_class',
         'places <= num_classes * per_class', 'data/random_subsets draws:subset'),
  Mutant('data/random_subsets', 'shift = jnp.sum(labels * ~used',
         'shift = 0.0 * jnp.sum(labels * ~used', 'data/random_subsets'),
  Mutant('data/subsets', 'return rows[classes].T.reshape(-1)[:size]',
         'return rows.T.reshape(-1)[:size]', 'data/subsets'),
  Mutant('data/subsets', 'columns = jnp.arange(ipc) % table.counts[:, None]',
         'columns = jnp.arange(ipc) % rows.shape[1] + 0 * table.counts[:, None]',
         'inputs_refused:few_images'),
  Mutant('algorithms/drawn_subsets', 'jax.random.fold_in(jax.random.key(config.seed), number)',
         'jax.random.fold_in(jax.random.key(config.seed), 0 * number)',
         'draws:subset'),
  Mutant('algorithms/drawn_subsets', 'jax.random.key(config.seed)', 'jax.random.key(0)',
         'draws:subset'),
  Mutant('algorithms/drawn_subsets', 'Draws(number, augment_key,', 'Draws(number, jax.random.key(0),',
         'draws:subset'),
  Mutant('data/datasets', 'return ranks >= held, ranks - held',
         'return ranks >= 0, ranks - held', 'data/datasets draws:held_out'),
  Mutant('data/datasets', 'return ranks < held, ranks',
         'return ranks <= held, ranks', 'data/datasets draws:held_out'),
  Mutant('data/datasets', 'labels = new_class[old_labels[rows]]',
         'labels = old_labels[rows]', 'data/datasets'),
  Mutant('data/decoding', 'as_shown(image).convert(', 'image.convert(',
         'data/pictures_read'),
  Mutant('data/undecoded', 'in_test = subsets.class_ranks(labels) < sizes[labels]',
         'in_test = subsets.class_ranks(labels) >= 0', 'data/datasets data/sources'),
  Mutant('data/target', 'labels[rows]))', 'labels[: len(rows)]))',
         'draws:labels_of_real'),
  Mutant('data/target', 'own = jax.random.fold_in(key, index)',
         'own = jax.random.fold_in(key, 0)', 'draws:fresh'),
  Mutant('data/normalization', 'np.maximum(np.sqrt(variance), 1.0 / 255.0)',
         'np.sqrt(variance)', 'data/normalization'),
  # Closed form.
  Mutant('core/krr', 'features = features * kept[:, None]\n  if n <= d:',
         'if n <= d:', 'core/krr draws:padded'),
  Mutant('core/krr', 'level = ridge * trace / jnp.maximum(mask.sum(), 1.0)\n  # Ones',
         'level = ridge * trace / len(mask)\n  # Ones', 'core/krr draws:padded'),
  Mutant('core/krr', 'kernel + jnp.diag(1.0 - mask), labels * mask[:, None]',
         'kernel + jnp.diag(1.0 - mask), labels', 'core/krr draws:padded'),
  Mutant('core/krr_errors', 'return jnp.sum(errors * mask) / jnp.maximum(mask.sum(), 1.0)',
         'return errors.mean()', 'core/krr draws:padded'),
  Mutant('core/krr_errors', 'predictions = predict(features, weights) * mask[:, None]',
         'predictions = predict(features, weights)', 'core/krr draws:padded'),
  Mutant('core/krr_errors', 'quadratic - 2.0 * linear', 'quadratic - linear', 'core/krr'),
  Mutant('core/krr_errors', 'gain = linear * jnp.abs(linear)', 'gain = linear * linear',
         'core/krr'),
  Mutant('core/krr_errors', 'energy=jnp.sum(labels**2),\n    count=mask.sum()',
         'energy=jnp.sum(labels**2),\n    count=mask.sum() + 1', 'core/krr'),
  Mutant('core/losses', 'error_fn(weights, features, target.labels, target.mask)',
         'error_fn(weights, features, target.labels)', 'draws:padded'),
  Mutant('core/losses', 'mask=synthetic.mask,', 'mask=None,', 'draws:padded'),
  Mutant('data/feature_bank', 'operations=_operations_of(**augmentation)',
         "operations=_operations_of(**augmentation | {'copy': piece})",
         'data/feature_bank'),
  Mutant('data/passes', 'krr_errors.statistics(features, labels, mask)',
         'krr_errors.statistics(features, labels)',
         'core/losses draws:statistics'),
  # Optimiser and loop.
  Mutant('core/distill_step', "{'images': make(schedule(learning_rate)), 'labels': labels}",
         "{'images': make(learning_rate), 'labels': labels}",
         'draws:optimizer'),
  Mutant('core/distill_step', 'labels = make(schedule(label_learning_rate))',
         'labels = make(schedule(learning_rate))', 'draws:optimizer'),
  Mutant('core/distill_step', 'jnp.where(finite, new, old)', 'new', 'core/distill_step'),
  Mutant('runtime/loop', 'range(int(self.state.step), self._num_steps)',
         'range(self._num_steps)', 'core/distill_step runtime/loop'),
  Mutant('runtime/loop', 'self._check_finite(done, state)', 'pass',
         'runtime/finite:last_step'),
  Mutant('runtime/loop', 'save = last or stop or', 'save = stop or',
         'runtime/loop runtime/finite:last_step'),
  # Algorithm 4.
  Mutant('data/target', 'own = jax.random.fold_in(key, index)',
         'own = jax.random.fold_in(key, 0)', 'draws:alg_4'),
  Mutant('algorithms/baseline', 'lambda step: networks(int(order[step]))',
         'lambda step: networks(0)', 'draws:alg_4'),
  Mutant('algorithms/baseline', 'jax.random.fold_in(key, step)',
         'jax.random.fold_in(key, 0)', 'draws:real_images'),
  Mutant('algorithms/baseline', 'return kept(int(order[step])), devices.shard(batch)',
         'return kept(step), devices.shard(batch)', 'draws:real_images'),
  Mutant('algorithms/baseline', 'functools.partial(loss_fn, features_of, ridge=config.ridge)',
         'functools.partial(loss_fn, features_of, ridge=1e-6)', 'draws:alg_4'),
  Mutant('algorithms/baseline', 'list(dict.fromkeys(order[::-1].tolist()))[:_MAX_SEEN]',
         'list(dict.fromkeys(order[:1].tolist()))[:_MAX_SEEN]', 'draws:alg_4'),
  Mutant('algorithms/baseline', 'np.repeat(np.arange(num_networks), num_steps // num_networks)',
         'np.arange(num_steps) % num_networks', 'draws:alg_4 algorithms/baseline'),
  Mutant('algorithms/baseline', 'shuffle(jax.random.split(key, rounds))',
         'shuffle(jax.random.split(key, 1).repeat(rounds))', 'algorithms/baseline'),
  # FRePo, RFAD, KIP, choices.
  Mutant('algorithms/peers/frame', 'key = jax.random.fold_in(key, number)',
         'key = jax.random.fold_in(key, 0)', 'draws:frepo'),
  Mutant('algorithms/peers/frepo', 'setup.draw(place, generation)',
         'setup.draw(0, generation)', 'draws:frepo'),
  Mutant('algorithms/peers/frepo', 'setup.draw(place, generation)',
         'setup.draw(place, 0)', 'draws:frepo'),
  Mutant('algorithms/peers/frepo', 'if generation and not order.ages[index]:',
         'if False:', 'draws:frepo'),
  Mutant('algorithms/peers/network_pool', 'params = optax.apply_updates(params, updates)',
         'del updates', 'draws:frepo'),
  Mutant('algorithms/peers/frepo', 'return 0.5 * error - own.margin * label_margin(labeled.labels)',
         'return 0.5 * error', 'algorithms/peers/peers'),
  Mutant('algorithms/peers/frepo', 'setup.batch(index))', 'setup.batch(0))', 'draws:frepo'),
  Mutant('algorithms/peers/rfad', 'jax.random.fold_in(setup.network_key, step)',
         'jax.random.fold_in(setup.network_key, 0)', 'draws:rfad'),
  Mutant('algorithms/peers/rfad', 'own.networks_per_step\n', '1\n', 'draws:rfad'),
  Mutant('algorithms/peers/rfad', 'elif own.platt:', 'elif False:', 'algorithms/peers/peers:rfad'),
  Mutant('core/platt', 'return -jnp.sum(own * mask) / jnp.maximum(mask.sum(), 1.0)',
         'return -jnp.mean(own)', 'algorithms/peers/peers'),
  Mutant('algorithms/peers/kip', 'return error_fn(coefficients, rows, target.labels, target.mask)',
         'return error_fn(coefficients, rows, target.labels)', 'algorithms/peers/peers'),
  Mutant('algorithms/peers/selection', 'np.where(chosen, np.inf, distances)', 'distances',
         'algorithms/baseline algorithms/peers/peers'),
  # Algorithm 1.
  Mutant('algorithms/drawn_subsets', 'jax.random.fold_in(key, step),',
         'jax.random.fold_in(key, 0),', 'algorithms/caching'),
  Mutant('algorithms/drawn_subsets', "if config.augmentation == 'none':",
         'if True:', 'draws:caching'),
  Mutant('core/krr_errors', 'on_images(weights, features, target.labels, target.mask)',
         'on_images(weights, features, target.labels)', 'core/krr'),
  Mutant('algorithms/subset_step', 'ridge=ridge, mask=mask)',
         'ridge=ridge)', 'algorithms/caching'),
  # Algorithm 2.
  Mutant('algorithms/pretraining', '      numbers=learned,\n', '',
         'draws:pretraining_learns'),
  Mutant('algorithms/pretraining', "{'params': local(dict(state.best_params))}",
         "{'params': local(dict(state.translator.params))}",
         'draws:pretraining_learns'),
  Mutant('algorithms/pretraining_objectives',
         'sample_keys(network_key, step, config.batch_size)',
         'sample_keys(network_key, 0, config.batch_size)',
         'algorithms/pretraining:heldout_score'),
  Mutant('storage/cache/batches', 'range(len(source))[held:stop]',
         'range(len(source))[:stop]',
         'draws:pretraining_learns'),
  Mutant('algorithms/pretraining_objectives', 'functools.partial(loss, features_of, ridge=config.ridge)',
         'functools.partial(loss, features_of, ridge=1e-6)',
         'algorithms/pretraining:heldout_score'),
  Mutant('algorithms/pretraining', 'is_plateau(curve, config.patience)',
         'is_plateau(curve, 0)', 'draws:plateau'),
  Mutant('algorithms/pretraining_state', 'better = loss < state.heldout_losses.min()',
         'better = loss > state.heldout_losses.min()',
         'draws:pretraining_learns'),
  Mutant('storage/cache/batches', 'batches[start:]', 'batches', 'draws:go_on'),
  Mutant('storage/cache/batches', 'order.shuffle()', 'order', 'draws:go_on'),
  Mutant('core/translator_step', 'pull_back(image_gradients / len(losses))',
         'pull_back(image_gradients)', 'core/translator_step'),
  # Algorithm 3.
  Mutant('algorithms/adaptation_samples', 'names[chosen[step, place]]',
         'names[0]', 'draws:all_ipcs'),
  Mutant('algorithms/adaptation_samples', 'names[chosen[step, place]]',
         'names[chosen[0, place]]', 'draws:all_ipcs'),
  Mutant('algorithms/adaptation_samples', 'networks(step * size + place)',
         'networks(place)', 'draws:fresh'),
  Mutant('algorithms/adaptation_samples', '[networks(int(index)) for index in order[own]]',
         '[networks(0) for index in order[own]]', 'draws:pool_of'),
  Mutant('storage/translators', "self, variables={'params': params}, metadata",
         'self, metadata', 'algorithms/adaptation:grey'),
  # Scores.
  Mutant('evaluation/evaluate', '(jnp.argmax(scores, axis=1) == classes) * mask)',
         '(jnp.argmax(scores, axis=1) == classes))', 'runtime/finite:counted_once'),
  Mutant('evaluation/evaluate', 'kernels.check_scores(bad, len(dataset.labels))', 'pass',
         'runtime/finite:constant'),
  Mutant('evaluation/evaluate', 'jax.random.fold_in(key, index)',
         'jax.random.fold_in(key, 0)', 'draws:repeat'),
  Mutant('evaluation/evaluate', 'np.std(self.accuracies, ddof=1)',
         'np.std(self.accuracies)', 'draws:repeat'),
  Mutant('evaluation/evaluate', 'settings=settings,\n    )\n\n  with',
         'settings=Settings(),\n    )\n\n  with', 'draws:repeat'),
  Mutant('evaluation/protocols', 'images = training.augment(augment_key, images)',
         'images = images', 'draws:training'),
  Mutant('evaluation/protocols', 'jax.random.fold_in(step_key, index)',
         'jax.random.fold_in(step_key, 0)', 'draws:training'),
  Mutant('evaluation/protocols', '[:batch_size]\n      images', '[:]\n      images',
         'draws:training'),
  Mutant('evaluation/trainings', "select('dsa', without=without)",
         "select('none', without=())", 'draws:training'),
  Mutant('evaluation/trainings', "select('frepo', without=without)",
         "select('none', without=())", 'draws:training'),
  # Bi-Level.
  Mutant('algorithms/bilevel', 'jax.random.fold_in(network_key, number)',
         'jax.random.fold_in(network_key, 0)', 'draws:bilevel'),
  Mutant('algorithms/bilevel', 'draw(table, [number], config=config)',
         'draw(table, [0], config=config)', 'draws:bilevel'),
  Mutant('algorithms/bilevel', 'first = step * config.batch_size', 'first = 0',
         'draws:bilevel'),
  # Files.
  Mutant('runtime/checkpoints', "if not np.array_equal(found['sha256']",
         "if False and np.array_equal(found['sha256']", 'runtime/checkpoints'),
  Mutant('runtime/metrics', 'for run in self._earlier:\n      total', 'for run in ():\n'
         '      total', 'runtime/metrics'),
  Mutant('workbench/tasks', '_data(self.arguments),', '', 'experiments/workbench/tasks'),
  Mutant('workbench/tasks', '_code(self.binary),', '', 'experiments/workbench/tasks'),
  Mutant('workbench/tasks', "get('outputs') == _outputs(path.parent)",
         "get('outputs') is not None", 'experiments/workbench/tasks'),
)  # fmt: skip


def path_of(mutant: Mutant, root: pathlib.Path) -> pathlib.Path:
  """The file that a mutant changes."""
  paths = [root / top / f'{mutant.file}.py' for top in _COPIED[:2]]
  return next(path for path in paths if path.exists())


def apply(mutant: Mutant, root: pathlib.Path) -> None:
  """Changes a file; its text must be there once.

  Raises:
    ValueError: if the code has moved on.
  """
  path = path_of(mutant, root)
  text = path.read_text()
  if text.count(mutant.old) < 1:
    raise ValueError(f'{path.name} no longer holds {mutant.old!r}; renew it.')
  path.write_text(text.replace(mutant.old, mutant.new, 1))


def is_killed(mutant: Mutant, seconds: float) -> bool:
  """Whether a test of the mutant fails; one that hangs is killed as well."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for name in _COPIED:
      copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
      copy(_ROOT / name, root / name)
    apply(mutant, root)
    for entry in mutant.tests.split():
      file, _, words = entry.partition(':')
      command = [
        *(sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider'),
        *('-o', 'addopts=', f'tests/{file}_test.py'),
        *(('-k', words) if words else ()),
      ]
      try:
        result = subprocess.run(
          command,
          cwd=root,
          env=os.environ | {'PYTHONPATH': str(root)},
          capture_output=True,
          text=True,
          timeout=seconds,
        )
      except subprocess.TimeoutExpired:
        return True
      if result.returncode == 1:
        return True
      if result.returncode:
        raise RuntimeError(f'{command}: {result.stdout[-2000:]}')
  return False


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs mutants, and prints which were killed; the status tells of others."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default='', help='files, parted by commas')
  parser.add_argument('--every', type=int, default=1, help='only each n-th')
  parser.add_argument('--seconds', type=float, default=1800, help='of a file')
  parser.add_argument('--check', action='store_true', help='only that they fit')
  given = parser.parse_args(arguments)
  files = set(filter(None, given.only.split(',')))
  chosen = [
    m for m in MUTANTS if not files or pathlib.Path(m.file).name in files
  ][:: given.every]
  survivors = []
  for number, mutant in enumerate(chosen, 1):
    if given.check:
      text = path_of(mutant, _ROOT).read_text()
      killed = mutant.old in text
    else:
      killed = is_killed(mutant, given.seconds)
    words = ('no place', 'fits') if given.check else ('survived', 'killed')
    word = words[killed]
    if not killed:
      survivors.append(mutant)
    print(
      f'[{number}/{len(chosen)}] {word}: {mutant.file}: {mutant.new!r}',
      flush=True,
    )
  done = 'fit' if given.check else 'were killed'
  print(f'{len(chosen) - len(survivors)} of {len(chosen)} {done}.')
  if survivors:
    sys.exit(1)


if __name__ == '__main__':
  main()
