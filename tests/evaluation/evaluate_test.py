"""Protocols: what they train with, and that they score rightly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation import evaluate, protocols, trainings
from fsdd_jax.networks import extractors, random_networks
from fsdd_jax.types import labeled_set


@pytest.fixture(scope='module')
def real(tiny_dataset, tiny_normalization):
  return TargetSet(tiny_dataset, tiny_normalization).random_real(
    jax.random.key(0), ipc=4
  )


def _short(monkeypatch, steps):
  """Shortens both trainings."""
  for name in ('frepo_training', 'dc_training'):
    training = dataclasses.replace(
      getattr(trainings, name)(), num_steps=lambda n, b: steps
    )
    monkeypatch.setattr(trainings, name, lambda without, r=training: r)


@pytest.mark.parametrize('protocol', sorted(protocols.FITS))
def test_easy_colors_are_learned(
  protocol,
  real,
  tiny_dataset,
  tiny_normalization,
  tiny_network,
  monkeypatch,
):
  _short(monkeypatch, 200)
  score = evaluate.evaluate(
    jax.random.key(1),
    real,
    tiny_dataset,
    tiny_normalization,
    tiny_network,
    protocol=protocol,
    repeats=2,
    split='holdout',
  )
  assert score.mean > 80
  assert score.n == 2
  assert score.split == 'holdout'
  assert 'ConvNet(norm=instance, width=4' in score.network


def test_wrong_labels_score_zero(
  real, tiny_dataset, tiny_normalization, tiny_network
):
  wrong = labeled_set(real.images, jnp.roll(real.labels, 1, axis=1))
  score = evaluate.evaluate(
    jax.random.key(1),
    wrong,
    tiny_dataset,
    tiny_normalization,
    tiny_network,
    repeats=1,
  )
  assert score.mean < 20
  assert score.std is None


def test_krr_accuracy_equals_numpy(
  real, tiny_dataset, tiny_normalization, tiny_network
):
  variables = random_networks.sample(jax.random.key(3), tiny_network, (8, 8, 3))
  fitted = protocols.fit_krr_in(variables, tiny_network, real)
  found = evaluate.accuracy(
    *fitted, tiny_dataset, tiny_normalization, batch_size=7
  )
  _, features = tiny_network.apply(variables, real.images)
  f = np.asarray(features, np.float64)
  pixels = tiny_dataset.images.astype(np.float64) / 255
  x = (pixels - tiny_normalization.mean) / tiny_normalization.std
  _, target = tiny_network.apply(variables, jnp.asarray(x, jnp.float32))
  scores = np.asarray(target) @ f.T @ np.linalg.pinv(f @ f.T) @ real.labels
  expected = 100 * np.mean(scores.argmax(1) == tiny_dataset.labels)
  np.testing.assert_allclose(found, expected)


def test_score_statistics():
  score = evaluate.Score('krr', 'net', 'test', (40.0, 44.0), 1.0)
  assert score.mean == 42.0
  np.testing.assert_allclose(score.std, np.sqrt(8.0))
  assert str(score) == '42.00 ± 2.83 (n=2)'
  assert score.as_dict()['ddof'] == 1


@pytest.mark.parametrize(
  ('num_images', 'steps'),
  [(10, 1000), (100, 2000), (101, 5000), (500, 5000), (1000, 10000)],
)
def test_frepo_length_follows_its_table(num_images, steps):
  assert trainings.frepo_steps(num_images, 10) == steps


def test_frepo_rate_warms_up_and_decays():
  tx = trainings.frepo_training().optimizer(3e-4, 2000)
  params = jnp.ones(3)
  state = tx.init(params)
  sizes = []
  for _ in range(2000):
    updates, state = tx.update(jnp.ones(3), state, params)
    sizes.append(float(-updates[0]))
  assert sizes[0] == 0.0
  np.testing.assert_allclose(sizes[500], 3e-4, rtol=1e-2)
  np.testing.assert_allclose(sizes[-1], 3e-6, rtol=0.1)


def test_dc_is_sgd_with_decay_and_a_drop_after_half():
  training = trainings.dc_training()
  assert training.num_steps(100, 100) == 1000
  assert training.num_steps(500, 256) == 2000
  tx = training.optimizer(training.learning_rate, 10)
  params = jnp.asarray([2.0])
  state, velocity, rate = tx.init(params), 0.0, 0.01
  for index in range(10):
    updates, state = tx.update(jnp.asarray([1.0]), state, params)
    velocity = 0.9 * velocity + 1.0 + 5e-4 * 2.0
    rate = 0.01 if index < 6 else 0.001
    np.testing.assert_allclose(updates, [-rate * velocity], rtol=1e-5)
  np.testing.assert_array_equal(
    training.targets(jnp.asarray([[0.1, 0.9], [0.8, 0.2]])), [[0, 1], [1, 0]]
  )


def test_batch_statistics_are_trained(real, tiny_normalization, monkeypatch):
  _short(monkeypatch, 3)
  network = extractors.make(
    'convnet', image_shape=(8, 8, 3), num_classes=3, width=4, norm='batch'
  )
  _, variables = protocols.train(
    jax.random.key(0), network, real, training=trainings.dc_training(())
  )
  means = jax.tree.leaves(variables['batch_stats'])
  assert any(np.abs(m).sum() > 0 for m in means)


@pytest.mark.parametrize(
  ('dataset', 'is_chiral'),
  [
    ('digits', True),
    ('mnist:3.0.1', True),
    ('/data/mnist/3.0.1', True),
    ('npz:mnist/train.npz', True),
    ('npz:/data/mnist.npz', True),
    ('folder:/data/svhn_cropped', True),
    ('cifar10', False),
    ('imagenette/160px', False),
    ('folder:/mnist/of/my/cats', False),
  ],
)
def test_digits_are_not_flipped(dataset, is_chiral):
  found = protocols.unsuitable_augmentation(dataset)
  assert found == (('flip',) if is_chiral else ())


def test_unknown_protocol_and_other_sizes_are_refused(
  real, tiny_dataset, tiny_normalization, tiny_network
):
  arguments = (tiny_normalization, tiny_network)
  with pytest.raises(ValueError, match=r"'freop'; choose among krr, frepo, dc"):
    evaluate.evaluate(
      jax.random.key(0), real, tiny_dataset, *arguments, protocol='freop'
    )
  big = labeled_set(jnp.zeros((3, 16, 16, 3)), jnp.eye(3))
  with pytest.raises(ValueError, match=r'\(16, 16, 3\).*image_size'):
    evaluate.evaluate(jax.random.key(0), big, tiny_dataset, *arguments)
  fewer = labeled_set(real.images, real.labels[:, :2])
  with pytest.raises(ValueError, match='2 classes, the test set 3'):
    evaluate.evaluate(jax.random.key(0), fewer, tiny_dataset, *arguments)


def test_nan_set_stops_training(real, tiny_network, monkeypatch):
  _short(monkeypatch, 2)
  broken = labeled_set(real.images.at[0].set(jnp.nan), real.labels)
  with pytest.raises(FloatingPointError, match='smaller learning rate'):
    protocols.train(
      jax.random.key(0),
      tiny_network,
      broken,
      training=trainings.frepo_training(()),
    )


def test_a_rate_can_be_asked_for(
  real, tiny_dataset, tiny_normalization, tiny_network, monkeypatch
):
  _short(monkeypatch, 20)
  scores = [
    evaluate.evaluate(
      jax.random.key(1),
      real,
      tiny_dataset,
      tiny_normalization,
      tiny_network,
      protocol='dc',
      repeats=1,
      settings=protocols.Settings(learning_rate=rate),
    ).mean
    for rate in (None, 0.01, 1e-6)
  ]
  assert scores[0] == scores[1]
  assert scores[0] != scores[2]
