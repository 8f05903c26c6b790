"""Every binary's `main`, once, at a tiny size, as a user would run it."""

import dataclasses
import importlib.util
import json
import pathlib
import re

import numpy as np
import pytest

from binaries import EXPERIMENTS, run
from fsdd_jax.algorithms import bilevel
from fsdd_jax.storage import distilled_set


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A distilled set of digits."""
  folder = tmp_path_factory.mktemp('digits')
  result = run(
    'distill.py',
    *('--dataset=digits', '--limit=100', '--holdout=0.2', '--ipc=1'),
    *('--width=4', '--num_steps=5', '--num_networks=2', f'--workdir={folder}'),
  )
  assert result.returncode == 0, result.stderr
  return folder


def test_distill_writes_what_it_says(workdir):
  distilled = distilled_set.read_distilled(workdir / 'distilled.safetensors')
  assert distilled.images.shape == (10, 8, 8, 1)
  assert distilled.metadata.recipe['method'] == 'Baseline(R=2)'
  assert distilled.metadata.label_coding == 'learned'
  assert (workdir / 'distilled.png').stat().st_size > 1000
  # Two networks take floor(5 / 2) steps each.
  assert len((workdir / 'metrics.jsonl').read_text().splitlines()) == 4


def test_evaluate_scores_beside_random_real_and_adds_to_the_file(workdir):
  path = workdir / 'distilled.safetensors'
  result = run(
    'evaluate.py', path, '--repeats=2', '--split=holdout', '--write_scores'
  )
  assert result.returncode == 0, result.stderr
  assert 'random real' in result.stdout
  assert 'mean ± std (ddof=1) over n fresh networks' in result.stdout
  written = json.loads(pathlib.Path(f'{path}.scores.json').read_text())
  score = written['scores']['Baseline(R=2)'][0]
  assert score['n'] == 2
  assert score['split'] == 'holdout'
  assert distilled_set.read_distilled(path).metadata.scores == (score,)
  for _ in range(2):  # Scores of other settings stay, the same are replaced.
    result = run('evaluate.py', path, '--repeats=1', '--width=7')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('width=7') == 2
    assert f'Wrote {path}.scores_2.json' in result.stdout
  kept = json.loads(pathlib.Path(f'{path}.scores.json').read_text())
  assert kept == written
  assert not pathlib.Path(f'{path}.scores_3.json').exists()


def test_evaluate_of_real_images_has_two_rows(tmp_path):
  made = run(
    *('distill.py', '--dataset=digits', '--limit=100', '--holdout=0.2'),
    *('--width=4', '--ipc=1', '--method=random_real', f'--workdir={tmp_path}'),
  )
  assert made.returncode == 0, made.stderr
  path = tmp_path / 'distilled.safetensors'
  result = run('evaluate.py', path, '--repeats=1', '--write_scores')
  assert result.returncode == 0, result.stderr
  written = json.loads(pathlib.Path(f'{path}.scores.json').read_text())
  assert sorted(written['scores']) == ['distilled', 'random real']
  assert written['settings']['repeats'] == 1
  assert written['settings']['dataset'] == 'digits'
  (kept,) = distilled_set.read_distilled(path).metadata.scores
  assert [kept] == written['scores']['distilled']


def test_a_rate_that_is_not_the_protocols_is_told(workdir, tmp_path):
  path, rate = workdir / 'distilled.safetensors', '--learning_rate=0.25'
  refused = run('evaluate.py', path, rate, '--write_scores')
  assert refused.returncode != 0
  assert 'leave --write_scores out' in refused.stderr
  result = run(
    *('evaluate.py', path, rate, '--repeats=1', '--norandom_real'),
    f'--output={tmp_path / "scores.json"}',
  )
  assert result.returncode == 0, result.stderr
  assert 'at a rate of 0.25.' in result.stdout
  written = json.loads((tmp_path / 'scores.json').read_text())
  assert written['settings']['learning_rate'] == 0.25


def test_distill_goes_on_from_a_set(workdir, tmp_path):
  start = workdir / 'distilled.safetensors'
  data = ('--dataset=digits', '--holdout=0.2', '--ipc=1', '--width=4')
  result = run(
    'distill.py', *data, '--limit=100', '--num_steps=1', f'--start={start}',
    f'--workdir={tmp_path / "same"}',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  further = distilled_set.read_distilled(
    tmp_path / 'same/distilled.safetensors'
  )
  assert further.metadata.recipe['start'] == str(start)
  before = distilled_set.read_distilled(start)
  # One step of Adam moves a value by the rate at most.
  assert 0 < abs(further.images - before.images).max() < 0.11
  other = run(
    'distill.py', *data, '--limit=50', '--num_steps=1', f'--start={start}',
    f'--workdir={tmp_path / "other"}',
  )  # fmt: skip
  assert other.returncode != 0
  assert 'was normalised by' in other.stderr


@pytest.mark.slow
def test_compare(tmp_path):
  network = '--num_steps=3\n--real_batch=20\n'
  flagfiles = {
    'baseline': f'{network}--num_networks=3\n',
    'rfad': f'{network}--networks_per_step=2\n',
    'frepo': f'{network}--pool_size=2\n',
    'adapt': '--num_steps=2\n--num_adaptation_steps=2\n--network_pool=2\n'
    '--batch_size=1\n',
  }
  for name, text in flagfiles.items():
    (tmp_path / f'tiny_{name}.flags').write_text(text)
  methods = 'herding,baseline,baseline --num_networks=1,rfad,frepo'
  command = (
    *('compare.py', '--dataset=digits', '--width=4', '--ipcs=1'),
    *('--translator_width=4', '--translator_blocks=0'),
    *(f'--recipes={tmp_path}', '--scale=tiny', '--repeats=2', '--points=2'),
    f'--workdir={tmp_path}',
  )
  result = run(*command, f'--methods={methods},adapt --finishing_steps=2')
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 'compare_ipc1.json').read_text())['curves']
  assert list(found)[:5] == ['herding', 'Baseline', '1 Net', 'RFAD', 'FRePo']
  # In theta, of the translator, and on the translated set.
  steps = [point['step'] for point in list(found.values())[5]]
  assert steps == [1, 2, 1, 2, 1, 2]
  assert [point['step'] for point in found['herding']] == [0]
  assert (tmp_path / 'compare_ipc1.png').stat().st_size > 1000
  lines = (tmp_path / 'compare_ipc1.csv').read_text().splitlines()
  assert len(lines) == 1 + len(found)

  # What is done stays done, its seconds too; what is missing is scored.
  more = run(*command, '--methods=k_centre,frepo', '--end_protocols=krr')
  assert more.returncode == 0, more.stderr
  again = json.loads((tmp_path / 'compare_ipc1.json').read_text())['curves']
  assert list(again) == ['k-centre', 'FRePo']
  assert again['FRePo'] == found['FRePo']
  ends = json.loads((tmp_path / 'ends_ipc1.json').read_text())['ends']
  end = ends['FRePo']['scores']['krr']['mean']
  assert end == again['FRePo'][-1]['mean']
  kept = distilled_set.read_distilled(
    tmp_path / 'methods/ipc1/frepo.safetensors'
  )
  assert kept.metadata.recipe['method'] == 'FRePo'
  other = run(*command, '--methods=frepo', '--points=1')
  assert other.returncode != 0
  assert 'points: 2 there, 1 now' in other.stderr
  text = (tmp_path / 'tiny_frepo.flags').read_text()
  (tmp_path / 'tiny_frepo.flags').write_text(f'{text}--learning_rate=0.5\n')
  changed = run(*command, '--methods=frepo')
  assert 'frepo.json is of other settings' in changed.stderr


def test_compare_names_variants_and_knows_its_images(tmp_path):
  def save(value):
    rng = np.random.default_rng(0)
    images = rng.integers(0, value, (24, 8, 8, 1), np.uint8)
    labels = np.arange(24) % 3
    for name in ('', '_test'):
      np.savez(
        tmp_path / f'own{name}.npz',
        images=images,
        labels=labels,
        class_names=list('abc'),
      )

  save(200)
  for name in ('one_net', 'again'):
    (tmp_path / f'tiny_{name}.flags').write_text('--num_steps=2\n')
  command = (
    *('compare.py', f'--dataset=npz:{tmp_path / "own.npz"}', '--width=4'),
    *('--ipcs=1', '--repeats=1', '--points=1', f'--recipes={tmp_path}'),
    *('--scale=tiny', '--translator_width=4', '--translator_blocks=0'),
    f'--workdir={tmp_path / "compared"}',
  )
  result = run(
    *command, '--methods=one_net --learning_rate=5,one_net,again,random_real'
  )
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 'compared/compare_ipc1.json').read_text())
  names = ['one_net --learning_rate=5', '1 Net', 'again', 'random real']
  assert list(found['curves']) == names
  codings = [
    distilled_set.read_distilled(path).metadata.label_coding
    for path in sorted((tmp_path / 'compared/methods/ipc1').glob('*.safe*'))
  ]
  # Real images keep their labels; they come last.
  assert codings == ['learned', 'learned', 'learned', 'centered']
  save(100)
  other = run(*command, '--methods=random_real')
  assert other.returncode != 0
  assert 'dataset_fingerprint' in other.stderr
  assert 'scored_fingerprint' in other.stderr


@pytest.mark.slow
def test_compare_of_all_methods_by_one_flag(tmp_path):
  steps = '--num_steps=2\n--real_batch=20\n'
  flagfiles = {
    'one_net': '--num_steps=2\n',
    'pool': '--num_steps=2\n--num_networks=2\n--revisit\n',
    'baseline': f'{steps}--num_networks=2\n',
    'adapt': '--num_steps=1\n--num_adaptation_steps=1\n--batch_size=1\n',
    'frepo': f'{steps}--pool_size=2\n',
    'rfad': f'{steps}--networks_per_step=2\n',
    'rcig': f'{steps}--pool_size=2\n--solver=cg\n--num_inner_steps=2\n',
    'kip': f'{steps}--network=mlp\n--depth=1\n--norm=none\n',
  }
  for name, text in flagfiles.items():
    (tmp_path / f'tiny_{name}.flags').write_text(text)
  given = []
  if importlib.util.find_spec('neural_tangents') is None:
    methods = 'random_real,random_real --label_networks=16 --label_images=1000'
    methods += ',herding,k_centre,one_net,pool,baseline,translate'
    given = [f'--methods={methods},adapt,frepo,rfad,rcig']
  result = run(
    'compare.py',
    *(
      '--preset=peers',
      '--seconds=0',
      '--dataset=digits',
      '--limit=60',
      '--holdout=0.03',
    ),
    *('--width=4', '--norm=none', '--ipcs=1', '--scale=tiny', *given),
    *('--translator_width=4', '--translator_blocks=0', '--points=1'),
    *(f'--recipes={tmp_path}', '--repeats=1', f'--workdir={tmp_path}'),
    # Trained architectures have tests of their own, and take minutes.
    *('--end_protocols=krr,nngp', '--end_networks=', '--end_width=6'),
  )
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 'ends_ipc1.json').read_text())['ends']
  names = [
    *('random real', 'random real, labels(16)', 'herding', 'k-centre'),
    *('1 Net', 'Pool(2)', 'Baseline'),
    *('w/o Pre-Train, w/o Ada', 'w/o Pre-Train, fresh networks', 'FRePo'),
    *('RFAD', 'RCIG', 'KIP'),
  ]
  assert list(found) == names[: len(found)]
  assert len(found) == len(names) - len(given)
  assert set(found['RCIG']['scores']) == {'krr', 'nngp'}
  assert 'width=6' in found['RCIG']['scores']['krr']['network']
  assert (tmp_path / 'ends_ipc1.png').stat().st_size > 1000
  lines = (tmp_path / 'ends_ipc1.csv').read_text().splitlines()
  assert lines[0] == 'method,steps,seconds,krr,nngp'
  assert len(lines) == 1 + len(found)
  assert 'digits, IPC 1, ends' in result.stdout


def test_compare_tells_a_missing_flagfile_before_it_runs(tmp_path):
  result = run(
    'compare.py',
    *('--dataset=digits', '--limit=60', '--width=4', '--ipcs=1'),
    *('--translator_width=4', '--translator_blocks=0'),
    *('--methods=random_real,frepo', f'--recipes={tmp_path}'),
    f'--workdir={tmp_path / "out"}',
  )
  assert result.returncode != 0
  assert "of the method 'frepo'" in result.stderr
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_quickstart(tmp_path):
  result = run(
    'quickstart.py', f'--workdir={tmp_path}', '--num_steps=2', '--repeats=1'
  )
  assert result.returncode == 0, result.stderr
  rows = re.findall(r'^\| (\S.*?) +\|', result.stdout, re.MULTILINE)
  # A step in each network at least.
  names = ['random real', '1 Net', 'w/o Ada', 'w Ada(2)', 'Pool(2)']
  names.append('w Ada, Pool(2)')
  assert rows[-6:] == names
  assert max(map(len, re.findall(r'^\|.*', result.stdout, re.MULTILINE))) <= 80
  assert 'two minutes' in result.stdout.partition('|')[0]
  assert 'Pool(2): Distilled in 2 networks at once' in result.stdout
  read_aloud = re.findall(r'^IPC \d .*', result.stdout, re.MULTILINE)
  assert ['(seen', '(not', '(seen'] == [x.split()[2] for x in read_aloud]
  assert all('the adapted translator changes 1 Net by' in x for x in read_aloud)
  page = (tmp_path / 'report.html').read_text()
  assert page.count('<img') == 6
  assert 'src="http' not in page
  for name in names:
    assert page.count(f'>{name}<') == 2  # Scores, and what it is.
  saved = tmp_path / 'distilled_ipc2.safetensors'
  assert distilled_set.read_distilled(saved).images.shape == (20, 32, 32, 3)
  scored = run('evaluate.py', saved, '--repeats=1', '--norandom_real')
  assert scored.returncode == 0, scored.stderr
  assert '| w Ada(2) | krr' in scored.stdout


def test_benchmark_step():
  result = run(
    'benchmarks/step.py',
    *('--ipc=1', '--image_size=8', '--width=4', '--num_real=20,40'),
    '--repeats=2',
  )
  assert result.returncode == 0, result.stderr
  assert re.search(r'\| +40 \|', result.stdout)


def test_benchmark_adapt():
  result = run(
    'benchmarks/adaptation.py',
    *('--ipc=1', '--image_size=8', '--width=4', '--batch_size=1'),
    *('--translator_width=4', '--translator_blocks=0', '--repeats=2'),
  )
  assert result.returncode == 0, result.stderr
  assert re.search(r'\| +1 \|', result.stdout)
  assert '10 images of 8 x 8 a set' in result.stdout


_TINY = (
  *('--image_size=8', '--width=4', '--ipc=1', '--translator_width=4'),
  *('--translator_blocks=0', '--repeats=1'),
)


@pytest.mark.slow
def test_benchmark_choices():
  result = run(
    'benchmarks/choices.py',
    *(*_TINY, '--batch_size=2', '--networks_at_once=2', '--steps_per_call=2'),
  )
  assert result.returncode == 0, result.stderr
  for way in ('patches, 2 at once', 'bfloat16', 'a call of 2 steps'):
    assert way in result.stdout


@pytest.mark.slow
def test_benchmark_roofline():
  result = run(
    'benchmarks/roofline.py',
    *(*_TINY, '--batch_size=1', '--max_synthetic=10', '--max_images=20'),
    *('--matrix=64', '--copied_mb=1'),
  )
  assert result.returncode == 0, result.stderr
  assert 'of memory' in result.stdout
  assert 'pre-training' in result.stdout


_SUBSETS = (
  *('--dataset=fractals:3', '--limit=60', '--image_size=8', '--width=4'),
  *('--num_subsets=2', '--min_classes=2', '--max_classes=3', '--num_steps=2'),
  *('--max_images=12', '--max_synthetic=6', '--augmentation=none'),
  '--repeats=1',
)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'own'), [('caching', 0), ('pretraining', 1)])
def test_benchmark_of_feature_banks(name, own):
  result = run(
    f'benchmarks/{name}.py',
    *(*_SUBSETS, *(['--translator_width=4', '--translator_blocks=0'] * own)),
  )
  assert result.returncode == 0, result.stderr
  assert re.findall(r'^\| +(12|all) +\|', result.stdout, re.MULTILINE) == [
    '12',
    'all',
  ]


@pytest.mark.slow
def test_benchmark_side_by_side():
  result = run(
    'benchmarks/side_by_side.py', *(*_SUBSETS, '--subsets_per_batch=2')
  )
  assert result.returncode == 0, result.stderr
  rows = re.findall(r'^\| (first|\d+) +\|', result.stdout, re.MULTILINE)
  assert rows == ['first', '2']
  difference = re.search(r'at most (\S+) \(relative\)', result.stdout)
  assert float(difference[1]) < 1e-3


@pytest.mark.slow
def test_benchmark_bilevel():
  result = run(
    'benchmarks/bilevel.py',
    *('--ipc=1', '--image_size=8', '--width=4', '--num_real=20'),
    '--unrolled=2',
  )
  assert result.returncode == 0, result.stderr
  assert re.findall(r'\| +20 \| +(\d) \|', result.stdout) == ['2']


@pytest.mark.slow
def test_benchmark_peers():
  result = run(
    'benchmarks/peers.py',
    *('--ipc=1', '--image_size=8', '--width=4', '--real_batch=20'),
    '--repeats=2',
  )
  assert result.returncode == 0, result.stderr
  names = re.findall(r'\| (\w+), 20 +\|', result.stdout)
  assert names == ['frepo', 'rfad', 'rcig']


@pytest.mark.slow
def test_benchmark_torch():
  result = run(
    'benchmarks/against_torch.py',
    *('--ipcs=1', '--image_size=8', '--width=4', '--num_real=20'),
    '--repeats=2',
  )
  if importlib.util.find_spec('torch') is None:
    assert result.returncode != 0
    assert 'pip install torch' in result.stderr
    return
  assert result.returncode == 0, result.stderr
  assert re.search(r'\| training step of frepo, IPC 1 +\|', result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('neural_tangents') is None,
  reason='needs the extra: pip install -e .[kernels]',
)
def test_benchmark_kernel():
  result = run(
    'benchmarks/kernel.py',
    *('--network=mlp', '--image_size=8', '--num_real=20', '--ipc=1'),
    '--repeats=2',
  )
  assert result.returncode == 0, result.stderr
  assert len(re.findall(r'^\| (nngp|ntk) +\|', result.stdout, re.M)) == 4


@pytest.mark.parametrize('method', ['rfad', 'rcig', 'k_centre'])
def test_distill_by_a_peers_method_from_its_flagfile(method, tmp_path):
  flagfile = EXPERIMENTS / 'recipes' / f'cpu_{method}.flags'
  given = [f'--flagfile={flagfile}'] if flagfile.exists() else []
  result = run(
    'distill.py',
    *(*given, f'--method={method}', '--dataset=digits', '--limit=200'),
    *('--width=4', '--ipc=1', '--num_steps=2', f'--workdir={tmp_path}'),
  )
  assert result.returncode == 0, result.stderr
  found = distilled_set.read_distilled(
    tmp_path / 'distilled.safetensors'
  ).metadata
  expected = {
    'rfad': ('RFAD', 'learned'),
    'rcig': ('RCIG', 'learned'),
    'k_centre': ('k-centre', 'centered'),
  }
  assert (found.recipe['method'], found.label_coding) == expected[method]


def test_frepos_trained_networks_are_saved_for_theta(tmp_path):
  data = ('--dataset=digits', '--limit=100', '--width=4', '--ipc=1')
  result = run(
    'distill.py',
    *(*data, '--method=frepo', '--real_batch=20', '--num_steps=3'),
    *('--pool_size=2', '--save_networks', f'--workdir={tmp_path / "frepo"}'),
  )
  assert result.returncode == 0, result.stderr
  paths = sorted((tmp_path / 'frepo' / 'networks').iterdir())
  assert [path.name for path in paths] == ['0.safetensors', '1.safetensors']
  result = run(
    'distill.py',
    *(*data, '--num_steps=1', f'--theta={paths[0]}'),
    f'--workdir={tmp_path / "further"}',
  )
  assert result.returncode == 0, result.stderr


def test_bilevel_tells_seconds_of_all_updates_and_losses_of_the_last_start(
  tmp_path, monkeypatch
):
  learn = bilevel.learn_network

  def resumed(*arguments, **options):
    result = learn(*arguments, **options)
    return dataclasses.replace(result, losses=result.losses[1:])

  monkeypatch.setattr(bilevel, 'learn_network', resumed)
  result = run(
    'bilevel.py',
    *('--dataset=fractals:3', '--limit=60', '--image_size=8', '--width=4'),
    *('--min_classes=2', '--max_classes=3', '--max_images=12'),
    *('--max_synthetic=6', '--num_steps=2', '--num_updates=3'),
    f'--workdir={tmp_path}',
  )
  assert result.returncode == 0, result.stderr
  assert '3 updates in' in result.stdout
  assert 'of the 2 updates since the last start' in result.stdout


def test_bilevel_learns_a_network_that_distill_takes(tmp_path):
  shape = ('--image_size=8', '--width=4')
  result = run(
    'bilevel.py',
    *('--dataset=fractals:3', '--limit=60', *shape, '--min_classes=2'),
    *('--max_classes=3', '--max_images=12', '--max_synthetic=6'),
    *('--num_steps=2', '--num_updates=2', f'--workdir={tmp_path}'),
  )
  assert result.returncode == 0, result.stderr
  assert '2 updates in' in result.stdout
  theta = tmp_path / 'network.safetensors'
  target = ('--dataset=fractals:3', '--limit=60', '--ipc=1', '--num_steps=2')
  found = {}
  for name, own in (
    ('learned', [*shape, f'--theta={theta}']),
    ('arbitrary', shape),
    ('wider', ['--image_size=8', '--width=5', f'--theta={theta}']),
    ('grey', ['--dataset=digits', *shape, f'--theta={theta}']),
  ):
    found[name] = run(
      'distill.py', *target, *own, f'--workdir={tmp_path / name}'
    )
  assert found['learned'].returncode == 0, found['learned'].stderr
  learned, arbitrary = (
    distilled_set.read_distilled(tmp_path / name / 'distilled.safetensors')
    for name in ('learned', 'arbitrary')
  )
  assert learned.metadata.recipe['method'] == 'Bi-Level'
  assert learned.metadata.recipe['theta'] == str(theta)
  assert (learned.images != arbitrary.images).any()
  assert found['wider'].returncode != 0
  assert 'give the flags that it was learned with' in found['wider'].stderr
  assert found['grey'].returncode == 0, found['grey'].stderr
  grey = distilled_set.read_distilled(tmp_path / 'grey/distilled.safetensors')
  assert grey.images.shape == (10, 8, 8, 3)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--dataset=cifar11'], "'cifar11'"),
    (['--ipc=0'], 'ipc = 0 is out of range'),
    (['--num_networks=9', '--num_steps=5'], 'num_networks = 9'),
    (['--norm=layer'], "'layer'"),
    (['--optimizer=adamw'], "Unknown optimizer 'adamw'"),
    (['--ipc=500'], "Class '8' has 139 images, fewer than ipc = 500"),
    (['--classes=0,seven'], "'seven'"),
    (['--leraning_rate=1'], 'leraning_rate'),
  ],
)
def test_bad_flags_end_in_one_line(arguments, message, tmp_path):
  result = run(
    'distill.py', f'--workdir={tmp_path}', '--width=4', '--num_steps=5',
    *arguments,
  )  # fmt: skip
  assert result.returncode != 0
  assert message in result.stderr
  assert 'Traceback' not in result.stderr
