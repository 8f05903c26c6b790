"""What an update of adaptation draws."""

import jax
import numpy as np
import pytest

import toy
from fsdd_jax import types
from fsdd_jax.algorithms import adaptation_samples
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig


def _thinned(key, labeled, ipc, keep):
  """In NumPy: the `keep` largest of some noise, class by class."""
  noise = np.asarray(jax.random.uniform(key, (len(labeled.mask) // ipc, ipc)))
  order = np.argsort(-noise, axis=1)[:, :keep]
  rows = (order + ipc * np.arange(len(noise))[:, None]).reshape(-1)
  return jax.tree.map(lambda x: np.asarray(x)[rows], labeled)


@pytest.mark.parametrize('keep', [1, 2, 4, 5])
def test_a_thinned_set_has_some_images_of_each_class(keep):
  labeled = toy.target().random_real(jax.random.key(0), ipc=5)
  key = jax.random.key(7)
  found = adaptation_samples.thin(key, labeled, 5, keep)
  assert len(found.mask) == len(labeled.mask)
  assert found.mask.sum() == 3 * keep
  jax.tree.map(
    np.testing.assert_array_equal,
    types.unpad(found),
    _thinned(key, labeled, 5, keep),
  )
  assert not np.any(np.asarray(found.images)[3 * keep :])


def test_all_numbers_of_images_share_a_program():
  labeled = toy.target().random_real(jax.random.key(0), ipc=5)
  adaptation_samples.thin(jax.random.key(0), labeled, 5, 1)
  before = adaptation_samples.thin._cache_size()
  adaptation_samples.thin(jax.random.key(1), labeled, 5, 3)
  assert adaptation_samples.thin._cache_size() == before


def test_sets_of_an_update_are_as_short_as_the_longest_allows():
  target = toy.target()
  sets = {
    (ipc, 0): target.random_real(jax.random.key(ipc), ipc=ipc) for ipc in (1, 8)
  }
  config = AdaptationConfig(
    adapt_ipcs=(1, 8), num_adaptation_steps=40, batch_size=1, thinned=0.5
  )
  entries_at = adaptation_samples.entries(sets, config)
  found = [entries_at(step)[0] for step in range(40)]
  used = {int(labeled.mask.sum()) // 3 for labeled in found}
  assert {1, 8} < used
  assert {len(labeled.mask) // 3 for labeled in found} == {1, 2, 4, 8}
  for labeled in found:
    rows, size = int(labeled.mask.sum()), len(labeled.mask)
    assert size // 2 < rows <= size
    labels = np.asarray(labeled.labels)[:rows].argmax(axis=1)
    np.testing.assert_array_equal(labels, np.repeat(range(3), rows // 3))
