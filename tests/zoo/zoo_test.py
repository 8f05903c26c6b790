"""Shipped translators: they load, have a card, and change sets a little."""

import doctest
import pathlib

import jax
import numpy as np
import pytest

import fsdd_jax
from fsdd_jax import zoo
from fsdd_jax.networks.translator import translate
from fsdd_jax.types import LabeledSet


def test_the_example_runs():
  assert doctest.testmod(zoo).failed == 0


@pytest.mark.parametrize('name', zoo.translator_names())
def test_a_shipped_translator_changes_a_set_a_little(name):
  start = fsdd_jax.load_translator(name)
  shape = (2, *start.theta.image_shape)
  images, noise = jax.random.normal(jax.random.key(0), (2, *shape))
  labeled = LabeledSet(
    images + 0.3 * noise, np.eye(2), np.ones(2), start=images
  )
  out = translate(start.translator, start.variables, labeled, start.maps_of)
  change = float(np.abs(out.images - labeled.images).mean())
  assert 1e-3 < change < 1.0


@pytest.mark.parametrize('name', zoo.translator_names())
def test_a_card_says_how_it_was_made_and_the_file_is_small(name):
  card = zoo.card(name)
  for part in ('experiments/cache.py', 'experiments/pretrain.py', 'licence'):
    assert part in card
  folder = pathlib.Path(zoo.__file__).parent / 'translators'
  assert (folder / f'{name}.safetensors').stat().st_size < 10 * 2**20
  record = fsdd_jax.load_translator(name).record
  assert record['best_heldout_loss'] < record['untranslated_loss']


def test_an_unknown_name_lists_those_there_are():
  with pytest.raises(FileNotFoundError, match='tiny_imagenet_32'):
    fsdd_jax.load_translator('tiny_imagenet_33')


def test_a_file_in_a_home_is_found_and_a_remote_one_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.safetensors').symlink_to(zoo.path_of('tiny_imagenet_32'))
  start = fsdd_jax.load_translator('~/own.safetensors')
  assert start.theta.image_shape == (32, 32, 3)
  with pytest.raises(ValueError, match='no local path'):
    fsdd_jax.load_translator('gs://bucket/own.safetensors')
