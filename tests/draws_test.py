"""What the loops consume: keys, networks, rows, IPCs, masks and settings.

A draw that should differ from step to step and does not, a mask or a setting
that does not reach the callee, and a result that is not what was selected leave
shapes and losses as they are. So each is recorded here, and held to Algs. 1-4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fsdd_jax as fsdd
import toy
from fsdd_jax import types
from fsdd_jax.algorithms import (
  adaptation_samples,
  baseline,
  bilevel,
  caching,
  distillation,
  drawn_subsets,
  pretraining,
  pretraining_objectives,
  pretraining_samples,
)
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.method_configs import BilevelConfig
from fsdd_jax.algorithms.peers import frame, frepo, rfad
from fsdd_jax.algorithms.peers.peer_configs import FrepoConfig, RfadConfig
from fsdd_jax.core import distill_step, krr_errors, losses
from fsdd_jax.data import passes, subsets
from fsdd_jax.data import target as target_module
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate, protocols, trainings
from fsdd_jax.runtime import metrics
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage.cache import batches as cache_batches
from fsdd_jax.types import labeled_set, pad


def _number(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def _all_differ(items):
  return len(set(items)) == len(items) > 1


@pytest.fixture
def drawn_networks(monkeypatch):
  """Networks that are drawn become the numbers of their keys, unharmed."""

  def record(module):
    seen = []
    real = module.random_networks.sample

    def sample(key, network, image_shape):
      seen.append(_number(key))
      return real(key, network, image_shape)

    fake = type('Fake', (), {'sample': staticmethod(sample)})
    for name in ('sample_many', 'losses_and_gradients', 'LossFn'):
      setattr(fake, name, getattr(module.random_networks, name))
    monkeypatch.setattr(module, 'random_networks', fake)
    return seen

  return record


# Data.


def test_batches_of_real_images_differ_from_step_to_step(monkeypatch):
  seen = _settings(monkeypatch, baseline, 'distill_from')
  config = fsdd.DistillationConfig(
    ipc=2, num_steps=3, real_batch=7, label_coding='onehot'
  )
  baseline.distill_over_networks(toy.problem()[0], toy.target(), config=config)
  steps = [seen['inputs_at'](step) for step in range(3)]
  kernels = [np.asarray(x[0]['params']['Conv_0']['kernel']) for x in steps]
  assert len({kernel.tobytes() for kernel in kernels}) == 1
  batches = [batch for _, batch in steps]
  assert _all_differ([np.asarray(batch.images).tobytes() for batch in batches])
  for target in batches:
    assert set(np.unique(target.labels)) == {0.0, 1.0}
    assert float(target.mask.sum()) == 7


def test_labels_of_real_images_are_those_of_their_rows():
  target = toy.target().coded('onehot').batch(jax.random.key(0), 7)
  # The three classes are red, green and blue: their channel is the brightest.
  brightest = np.asarray(target.images).mean((1, 2)).argmax(axis=1)
  np.testing.assert_array_equal(brightest, np.argmax(target.labels, axis=1))


def test_the_held_out_share_leaves_train_and_joins_nothing():
  options = {'holdout': 0.25, 'progress': False, 'classes': ['1', '2']}
  train, held = (
    fsdd.load_dataset('digits', split=split, **options)
    for split in ('train', 'holdout')
  )
  whole = fsdd.load_dataset('digits', classes=['1', '2'], progress=False)
  assert len(train.labels) + len(held.labels) == len(whole.labels)
  rows = [{image.tobytes() for image in x.images} for x in (train, held)]
  assert len(rows[1]) > 20
  assert not rows[0] & rows[1]
  test = fsdd.load_dataset('digits', split='test', **options)
  assert not {image.tobytes() for image in test.images} & (rows[0] | rows[1])


def test_a_subset_starts_from_its_own_target_images():
  table = subsets.class_table(toy.problem()[1].labels, 3)
  for number in range(4):
    draws = drawn_subsets.draw(table, [number], config=toy.CACHING)
    initial = np.asarray(draws.initial.rows)[np.asarray(draws.initial.mask) > 0]
    target = np.asarray(draws.target.rows)[np.asarray(draws.target.mask) > 0]
    assert set(initial.tolist()) <= set(target.tolist())
    assert len(set(target.tolist())) == len(target)
    classes = int(draws.num_classes[0])
    assert len(target) == classes * (12 // classes)
    assert len(initial) == classes * int(draws.ipc[0])


def test_subsets_differ_by_number_and_seed():
  table = subsets.class_table(toy.problem()[1].labels, 3)

  def rows(seed, number):
    config = dataclasses.replace(toy.CACHING, seed=seed)
    draws = drawn_subsets.draw(table, [number], config=config)
    return (
      tuple(np.asarray(draws.target.rows)[0].tolist()),
      _number(draws.keys[0]),
    )

  found = [rows(0, 0), rows(0, 1), rows(1, 0)]
  for part in zip(*found, strict=True):
    assert _all_differ(part)


# The loss.


@pytest.mark.parametrize('name', sorted(losses.LOSSES))
def test_padded_targets_and_sets_count_for_nothing(name):
  rng = np.random.default_rng(0)

  def make(n):
    return labeled_set(
      jnp.asarray(rng.normal(size=(n, 2, 2, 1)), jnp.float32),
      jnp.asarray(rng.normal(size=(n, 3)), jnp.float32),
    )

  synthetic, target = make(3), make(5)

  def spoiled(labeled, size):
    wide = pad(labeled, size)
    bad = 1.0 - wide.mask
    return wide.replace(
      images=wide.images + 7 * bad[:, None, None, None],
      labels=wide.labels + 5 * bad[:, None],
    )

  features_of = lambda scale, x: scale * x.reshape(len(x), -1)  # noqa: E731
  loss = losses.LOSSES[name]
  on_images = jax.jit(functools.partial(loss.on_images, features_of))
  expected = on_images(2.0, synthetic, target, ridge=1e-3)
  for s, t in (
    (spoiled(synthetic, 6), target),
    (synthetic, spoiled(target, 9)),
    (spoiled(synthetic, 4), spoiled(target, 6)),
  ):
    found = on_images(2.0, s, t, ridge=1e-3)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
  wide = spoiled(target, 9)
  features = features_of(2.0, wide.images), wide.labels, wide.mask
  kept = [krr_errors.FeatureSet(*features)]
  if name in krr_errors.OF_SUMS:
    kept.append(krr_errors.statistics(*features))
  for stats in kept:
    found = loss.on_statistics(features_of, 2.0, synthetic, stats, ridge=1e-3)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
  other = on_images(2.0, synthetic, target, ridge=0.5)
  assert abs(float(other - expected)) > 1e-3  # The ridge reaches it.


def test_statistics_of_batches_that_do_not_divide_n_are_those_of_all():
  network, dataset, transform = toy.problem()
  labels = np.eye(3, dtype=np.float32)[dataset.labels]
  arguments = losses.feature_fn(network), toy.theta(0), dataset.images
  whole, parts = (
    passes.target_statistics(*arguments, labels, transform, batch_size=size)
    for size in (24, 7)
  )
  assert float(parts.count) == 24
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
    whole,
    parts,
  )


# Alg. 4 and the peers.


def _settings(monkeypatch, module, name):
  """Records the arguments of a function of a module; it returns its start."""
  seen = {}

  def record(start, loss_fn, inputs_at, **fields):
    seen.update(fields, start=start, loss_fn=loss_fn, inputs_at=inputs_at)
    return start

  monkeypatch.setattr(module, name, record)
  return seen


@pytest.mark.parametrize('revisit', [False, True])
def test_each_step_of_alg_4_uses_the_network_of_its_turn(
  monkeypatch, drawn_networks, revisit
):
  seen = _settings(monkeypatch, baseline, 'distill_from')
  networks = drawn_networks(target_module)
  config = fsdd.DistillationConfig(
    **{'ipc': 1, 'num_steps': 7, 'num_networks': 3, 'seed': 4},
    **{'ridge': 0.25, 'revisit': revisit, 'label_coding': 'onehot'},
  )
  result = baseline.distill_over_networks(
    toy.problem()[0], toy.target(), config=config
  )
  assert seen['num_steps'] == (7 if revisit else 6)
  steps = [seen['inputs_at'](step) for step in range(seen['num_steps'])]
  kernels = [np.asarray(x[0]['params']['Conv_0']['kernel']) for x in steps]
  order = [kernel.tobytes() for kernel in kernels]
  if revisit:
    for begin in (0, 3):
      assert len(set(order[begin : begin + 3])) == 3
  else:
    assert [order.index(x) for x in order] == [0, 0, 2, 2, 4, 4]
  assert len(set(order)) == len(set(networks)) == 3
  # Labels are coded as asked, and the ridge reaches the loss.
  assert set(np.unique(seen['start'].labels)) == {0.0, 1.0}
  np.testing.assert_allclose(np.sum(steps[0][1].labels ** 2), 24.0)
  assert seen['loss_fn'].keywords['ridge'] == 0.25
  assert seen['config'] == config
  last = {np.asarray(x['params']['Conv_0']['kernel']).tobytes()
          for x in result.seen}  # fmt: skip
  assert last == set(order)


def test_optimizer_and_schedule_of_a_config_move_images_and_labels():
  def moved(**changes):
    config = fsdd.DistillationConfig(
      **{'optimizer': 'sgd', 'learning_rate': 0.5, 'schedule': 'constant'}
      | {'label_learning_rate': 0.25, **changes}
    )
    tx = distillation.optimizer(config, num_steps=4)
    values = {'images': jnp.ones(()), 'labels': jnp.ones(())}
    state, sizes = tx.init(values), []
    for _ in range(3):
      updates, state = tx.update(values, state, values)
      sizes.append((-float(updates['images']), -float(updates['labels'])))
    return np.array(sizes)

  np.testing.assert_allclose(moved(), [[0.5, 0.25]] * 3)
  cosine = moved(schedule='cosine')
  np.testing.assert_allclose(cosine[:, 0], [0.5, 0.4267767, 0.25], rtol=1e-5)
  np.testing.assert_allclose(cosine[:, 1], cosine[:, 0] / 2, rtol=1e-5)
  assert moved(label_learning_rate=0.0)[:, 1].tolist() == [0.0] * 3


def _plan(peer, own, num_steps, **changes):
  """The steps that a peer's method plans, and what it was planned for."""
  network, dataset, transform = toy.problem()
  config = fsdd.DistillationConfig(
    ipc=1, num_steps=num_steps, real_batch=7, **changes
  )
  setup = frame.prepare(
    peer.title,
    network,
    TargetSet(dataset, transform),
    config=config,
    own=own,
    options=LoopOptions(),
    start=None,
  )
  return peer.plan(setup), setup


def test_rfad_draws_new_networks_and_images_each_step(monkeypatch):
  errors, losses = rfad.loss_of, []

  def recorded(*args, config, own, **fields):
    losses.append((config.ridge, own.networks_per_step))
    return errors(*args, config=config, own=own, **fields)

  monkeypatch.setattr(rfad, 'loss_of', recorded)
  own = RfadConfig(networks_per_step=2)
  plan, _ = _plan(rfad.RFAD, own, 3, ridge=0.25, seed=5)
  state, kernels, images = plan.state, [], []
  for index in range(3):
    variables, target = plan.inputs_at(index)
    kernels += [
      np.asarray(x['params']['Conv_0']['kernel']).tobytes() for x in variables
    ]
    images.append(np.asarray(target.images).tobytes())
    assert len(target.mask) == 7
    state, _ = plan.step(state, variables, target)
  assert losses == [(0.25, 2)]  # Compiled once.
  assert len(kernels) == 6
  assert _all_differ(kernels)
  assert _all_differ(images)
  last = [
    np.asarray(x['params']['Conv_0']['kernel']).tobytes()
    for x in plan.seen(state)
  ]
  assert last == kernels[-2:]


def test_frepo_visits_its_pool_at_random_and_draws_networks_anew(
  drawn_networks,
):
  networks = drawn_networks(frame)
  own = FrepoConfig(pool_size=2, max_online_updates=2)
  plan, _ = _plan(frepo.FREPO, own, 12)

  def biases(state):
    return [
      float(x.variables['params']['classifier']['bias'][0]) for x in state.pool
    ]

  state, pools, images, renewed = plan.state, [biases(plan.state)], [], 0
  ages = {0: 0, 1: 0}
  for index in range(12):
    given = plan.inputs_at(index)
    assert given[0] == index
    assert len(given[1].mask) == 7
    images.append(np.asarray(given[1].images).tobytes())
    drawn = len(networks)
    state, _ = plan.step(state, *given)
    pools.append(biases(state))
    moved = [p for p in (0, 1) if pools[-1][p] != pools[-2][p]]
    assert len(moved) == 1  # One network learns at a time.
    (place,) = moved
    is_new = len(networks) > drawn
    renewed += is_new
    assert is_new == (ages[place] == 2)  # Drawn anew after two updates.
    ages[place] = 1 if is_new else ages[place] + 1
  assert _all_differ(images)
  assert renewed > 0
  assert len(networks) == 2 + renewed
  assert _all_differ(networks)


def test_the_start_of_peers_has_images_of_each_class():
  network, dataset, transform = toy.problem()
  config = fsdd.DistillationConfig(ipc=2, real_batch=4, seed=3)
  common = {'own': RfadConfig(), 'options': LoopOptions()}
  setup = frame.prepare(
    'RFAD',
    network,
    TargetSet(dataset, transform),
    config=config,
    start=None,
    **common,
  )
  assert setup.start.images.shape == (6, 8, 8, 3)
  keys = setup.network_key, setup.order_key, setup.batch_key
  assert _all_differ([_number(key) for key in keys])
  with pytest.raises(ValueError, match='given set has images'):
    frame.prepare(
      'RFAD',
      network,
      TargetSet(dataset, transform),
      config=dataclasses.replace(config, ipc=1),
      start=setup.start,
      **common,
    )


# Alg. 1.


def test_each_step_of_caching_is_augmented_anew(monkeypatch):
  network = toy.problem()[0]
  config = dataclasses.replace(
    toy.CACHING, num_steps=3, augmentation='dsa', augmented_copies=0
  )
  distil = caching.SubsetDistiller(network, toy.target(), config=config)
  seen = []

  prepare = drawn_subsets._prepare

  def recorded(images, normalization, key, step, *, config):
    seen.append((_number(key), step))
    return prepare(images, normalization, key, step, config=config)

  monkeypatch.setattr(drawn_subsets, '_prepare', recorded)
  distil([0, 1])
  assert [step for _, step in seen] == [0, 0, 1, 1, 2, 2]
  assert len({key for key, _ in seen}) == 2  # Of each subset its own.


# Alg. 2.


@dataclasses.dataclass
class _Recorded:
  """A cache that notes which entries are read."""

  source: object

  def __post_init__(self):
    self.manifest, self.read = self.source.manifest, set()

  def __len__(self):
    return len(self.source)

  def __getitem__(self, index):
    self.read.add(int(index))
    return self.source[index]


def _pretrain(monkeypatch, folder, scores, **changes):
  """Pre-trains with given held-out losses; returns what it consumed."""
  network = toy.problem()[0]
  source = _Recorded(toy.build_cache(folder))
  seen = {'keys': [], 'params': [], 'heldout': None}
  original = pretraining_objectives.reconstruction

  def goal(problem):
    seen['ridge'] = problem.config.ridge
    made = original(problem)

    def inputs_of(step, batch):
      keys = pretraining_samples.sample_keys(
        problem.network_key, step, problem.config.batch_size
      )
      seen['keys'].append([_number(key) for key in keys])
      return made.inputs(step, batch)

    return made._replace(inputs=inputs_of)

  def make_score(objective, keys, batch):
    seen['heldout'] = set(source.read)
    seen['heldout_keys'] = [_number(key) for key in keys]
    source.read.clear()
    left = iter(scores)

    def score(change):
      params = getattr(change, 'args', (None,))[0]
      seen['params'].append(jax.device_get(params))
      return jnp.float32(next(left))

    return score

  monkeypatch.setattr(pretraining_objectives, 'reconstruction', goal)
  monkeypatch.setattr(pretraining, 'make_score', make_score)
  config = fsdd.PretrainingConfig(
    **{'objective': 'reconstruction', 'batch_size': 2, 'eval_every': 1}
    | {'learning_rate': 0.1, **changes}
  )
  result = pretraining.pretrain(
    network,
    toy.translator().translator,
    source,
    toy.target(),
    config=config,
  )
  return result, source.read, seen


def test_pretraining_learns_from_the_others_and_returns_the_best(
  monkeypatch, tmp_path
):
  result, read, seen = _pretrain(
    monkeypatch, tmp_path, [0.5, 0.4, 0.1, 0.3], num_steps=3, ridge=0.125
  )
  assert seen['heldout'] == {0}
  assert read == {1, 2, 3}
  assert seen['ridge'] == 0.125
  # New networks for each sample of each step, other than those of the score.
  assert [len(keys) for keys in seen['keys']][:3] == [2, 2, 2]
  keys = [key for step in seen['keys'] for key in step]
  assert _all_differ(keys + seen['heldout_keys'])
  best = seen['params'][2]
  jax.tree.map(np.testing.assert_array_equal, result.variables['params'], best)
  for other in (seen['params'][1], seen['params'][3]):
    assert not np.array_equal(other['head']['kernel'], best['head']['kernel'])
  assert result.record['best_heldout_loss'] == pytest.approx(0.1)
  assert result.record['heldout_losses'] == pytest.approx([0.4, 0.1, 0.3])
  assert result.record['untranslated_loss'] == pytest.approx(0.5)
  assert result.record['ended_by'] == 'step limit'
  assert result.record['heldout_subsets'] == [0, 1]


def test_a_plateau_ends_pretraining(monkeypatch, tmp_path):
  result, _, seen = _pretrain(
    monkeypatch, tmp_path, [9, 3, 1, 2, 2, 0], num_steps=9, patience=2
  )
  assert result.record['num_steps'] == 4
  assert result.record['ended_by'] == 'plateau'
  assert len(seen['params']) == 5


def test_batches_of_pretraining_go_on_at_their_step(tmp_path):
  source, dataset = toy.build_cache(tmp_path), toy.problem()[1]

  def first(start, seed=0):
    batches = cache_batches.random_batches(
      source,
      dataset,
      cache_batches.without_images,
      seed=seed,
      size=1,
      start=start,
    )
    return [next(batches).synthetic.images.tobytes() for _ in range(4)]

  straight = first(0)
  assert _all_differ(straight)  # An epoch has each entry once.
  assert first(1)[:3] == straight[1:]
  assert any(first(0, seed) != straight for seed in (1, 2, 3))


# Alg. 3.


def test_adaptation_takes_all_ipcs_in_a_random_order():
  config = AdaptationConfig(
    adapt_ipcs=(1, 2), num_adaptation_steps=12, batch_size=2, thinned=0.0
  )
  sets = {
    (ipc, 0): toy.target().random_real(jax.random.key(0), ipc=ipc)
    for ipc in (1, 2)
  }
  sets_at = adaptation_samples.entries(sets, config)
  ipcs = [[int(x.mask.sum()) // 3 for x in sets_at(step)] for step in range(12)]
  assert {ipc for step in ipcs for ipc in step} == {1, 2}
  assert len({tuple(step) for step in ipcs}) > 2
  other = adaptation_samples.entries(sets, dataclasses.replace(config, seed=1))
  assert ipcs != [
    [int(x.mask.sum()) // 3 for x in other(step)] for step in range(12)
  ]


def test_thinned_sets_have_fewer_images_of_each_class_and_others_each_time():
  config = AdaptationConfig(
    adapt_ipcs=(4,), num_adaptation_steps=40, batch_size=1, thinned=1.0
  )
  whole = toy.target().random_real(jax.random.key(0), ipc=4)
  sets_at = adaptation_samples.entries({(4, 0): whole}, config)
  known = [image.tobytes() for image in np.asarray(whole.images)]
  counts, chosen = set(), set()
  for step in range(40):
    (found,) = sets_at(step)
    found = types.unpad(found)
    places = [known.index(x.tobytes()) for x in np.asarray(found.images)]
    of_class = np.bincount(np.asarray(places) // 4, minlength=3)
    assert len(set(of_class)) == 1
    assert len(set(places)) == len(places)
    np.testing.assert_array_equal(found.labels, whole.labels[np.array(places)])
    counts.add(int(of_class[0]))
    chosen.add(tuple(sorted(places)))
  assert counts == {1, 2, 3}
  assert len(chosen) > 10


@pytest.mark.parametrize('real_batch', [0, 7])
def test_fresh_networks_of_adaptation_are_new_for_each_sample(
  drawn_networks, real_batch
):
  networks = drawn_networks(target_module)
  config = AdaptationConfig(
    **{'adapt_ipcs': (1,), 'num_adaptation_steps': 2, 'batch_size': 2},
    **{'real_batch': real_batch, 'ridge': 0.25},
  )
  _, samples_at = adaptation_samples.fresh(
    toy.problem()[0], toy.target(), config, metrics.StageClock()
  )
  samples = [sample for step in range(2) for sample in samples_at(step)]
  assert _all_differ(networks)
  assert len(networks) == 4
  if real_batch:
    images = [np.asarray(t.images).tobytes() for _, t in samples]
    assert _all_differ(images)
  else:
    assert {float(t.mask.sum()) for _, t in samples} == {24.0}


def test_the_pool_of_adaptation_is_visited_whole_in_each_round():
  config = AdaptationConfig(
    adapt_ipcs=(1,), num_adaptation_steps=3, batch_size=2, network_pool=3
  )
  _, samples_at = adaptation_samples.pool(
    lambda index: (index, 'statistics'), toy.problem()[0], config
  )
  order = [n for step in range(3) for n, _ in samples_at(step)]
  assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]


# Scores.


def test_each_repeat_of_a_score_has_a_network_of_its_own(monkeypatch):
  network, dataset, transform = toy.problem()
  real = toy.target().random_real(jax.random.key(0), ipc=1)
  seen = []

  def accuracy_in(key, network, synthetic, *images, settings):
    seen.append((_number(key), settings))
    np.testing.assert_array_equal(synthetic.images, real.images)
    return float(len(seen))

  monkeypatch.setitem(evaluate.PROTOCOLS, 'krr', evaluate.Protocol(accuracy_in))
  settings = protocols.Settings(('flip',), 0.5, True)
  score = evaluate.evaluate(
    jax.random.key(1),
    *(real, dataset, transform, network),
    repeats=3,
    settings=settings,
  )
  assert _all_differ([key for key, _ in seen])
  assert [s for _, s in seen] == [settings] * 3
  assert sorted(score.accuracies) == [1.0, 2.0, 3.0]
  assert score.std == 1.0  # ddof = 1.


@pytest.mark.parametrize('name', ['frepo', 'dc'])
def test_training_augments_each_step_and_image_anew(name):
  training = getattr(trainings, f'{name}_training')()
  images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
  changed = [
    np.asarray(training.augment(jax.random.key(i), images)) for i in range(8)
  ]
  assert sum(not np.allclose(x, images) for x in changed) >= 6
  assert len({x.tobytes() for x in changed}) > 5
  # One parameter an image: the same image four times becomes several.
  same = jnp.broadcast_to(images[:1], images.shape)
  spread = [
    np.unique(np.asarray(training.augment(jax.random.key(i), same)), axis=0)
    for i in range(8)
  ]
  assert sum(len(x) > 2 for x in spread) >= 4
  without = getattr(trainings, f'{name}_training')(('flip',))
  assert without is not training
  rate = {'frepo': 3e-4, 'dc': 0.01}[name]
  assert training.learning_rate == rate


def test_training_gives_each_step_a_key_and_the_batch_its_rows():
  network = toy.problem()[0]
  real = toy.target().random_real(jax.random.key(0), ipc=2)
  seen = []

  def augment(key, images):
    jax.debug.callback(
      lambda key, x: seen.append((tuple(key.tolist()), x.tobytes(), len(x))),
      jax.random.key_data(key),
      images,
    )
    return images

  training = dataclasses.replace(
    trainings.frepo_training(),
    num_steps=lambda n, size: 4,
    max_batch=4,
    augment=augment,
  )
  protocols.train(jax.random.key(1), network, real, training=training)
  jax.effects_barrier()
  assert [n for _, _, n in seen] == [4] * 4
  assert _all_differ([key for key, _, _ in seen])
  assert len({x for _, x, _ in seen}) > 1


# Bi-Level.


def test_bilevel_scores_each_subset_in_a_network_of_its_own(
  monkeypatch, drawn_networks
):
  networks = drawn_networks(bilevel)
  numbers = []
  real = drawn_subsets.draw

  def draw(table, wanted, *, config):
    numbers.extend(wanted)
    return real(table, wanted, config=config)

  monkeypatch.setattr(bilevel.drawn_subsets, 'draw', draw)
  monkeypatch.setattr(
    bilevel,
    '_gradient_fn',
    lambda *arguments: lambda params, *rest: (
      jnp.ones(()), jax.tree.map(jnp.ones_like, params)
    ),
  )  # fmt: skip
  config = BilevelConfig(
    **{'min_classes': 2, 'max_classes': 3, 'max_images': 12},
    **{'max_synthetic': 6, 'num_steps': 1, 'num_updates': 3, 'batch_size': 2},
  )
  bilevel.learn_network(toy.problem()[0], toy.target(), config=config)
  assert numbers == [0, 1, 2, 3, 4, 5]
  assert len(networks) == 6
  assert _all_differ(networks)


def test_a_step_adds_one_and_moves_against_the_gradient():
  tx = distill_step.make_optimizer('sgd', 0.5, label_learning_rate=0.0)
  start = labeled_set(jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1)))
  step = distill_step.make_step(
    lambda s: jnp.sum(s.images**2 + s.labels**2), tx
  )
  state, values = step(distill_step.init_state(start, tx))
  assert int(state.step) == 1
  assert state.synthetic.images.item() == 0.0
  assert state.synthetic.labels.item() == 1.0
  assert values['loss'].item() == 2.0
