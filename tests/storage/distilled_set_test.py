import dataclasses
import json
import os
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from fsdd_jax.data import normalization
from fsdd_jax.data.normalization import describe_normalization
from fsdd_jax.runtime import files, hashes
from fsdd_jax.storage import distilled_set, weight_files
from fsdd_jax.types import centered_one_hot


def make_metadata(**changes) -> distilled_set.Metadata:
  fields = {
    'dataset': 'shapes',
    'class_names': ('circle', 'Straße', 'a/b'),
    'label_coding': 'centered',
    'ipc': 2,
    'network': {'name': 'ConvNet', 'width': 8},
    'recipe': {'steps': 3, 'learning_rate': 1e-3},
    'seeds': {'theta': 0, 'distillation': 7},
  }
  return distilled_set.Metadata(**(fields | changes))


def make_distilled(*, zca=False, channels=3, **changes):
  generator = np.random.default_rng(0)
  pixels = generator.integers(0, 256, (20, 4, 4, channels), dtype=np.uint8)
  fit = normalization.zca_whitening if zca else normalization.standardization
  transform = fit(pixels)
  images = np.asarray(normalization.normalize(pixels[:6], transform))
  labels = np.asarray(centered_one_hot(jnp.arange(6) // 2, 3))
  fields = {
    'images': images,
    'labels': labels,
    'normalization': transform,
    'metadata': make_metadata(),
  }
  return distilled_set.DistilledSet(**(fields | changes)), pixels[:6]


SCORE = {
  'protocol': 'frepo',
  'network': {'name': 'ConvNet'},
  'split': 'test',
  'accuracies': [0.25, 0.75],
  'mean': 0.5,
  'std': 0.25,
  'n': 2,
}


@pytest.mark.parametrize('zca', [False, True])
def test_distilled_round_trip(tmp_path, zca):
  distilled, _ = make_distilled(zca=zca)
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, distilled)
  loaded = distilled_set.read_distilled(path)
  np.testing.assert_array_equal(loaded.images, distilled.images)
  np.testing.assert_array_equal(loaded.labels, distilled.labels)
  assert loaded.metadata == distilled.metadata
  assert loaded.metadata.versions['numpy'] == np.__version__
  for name, value in vars(distilled.normalization).items():
    if value is None:
      assert getattr(loaded.normalization, name) is None
    else:
      np.testing.assert_array_equal(
        getattr(loaded.normalization, name), value, name
      )


@pytest.mark.parametrize('zca', [False, True])
def test_file_opens_with_safetensors_and_numpy_alone(tmp_path, zca):
  distilled, pixels = make_distilled(zca=zca)
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, distilled)

  tensors = safetensors.numpy.load_file(path)
  with safetensors.safe_open(path, framework='numpy') as file:
    entry = json.loads(file.metadata()['fsdd_jax'])
  x = tensors['images']
  if 'zca' in tensors:
    flat = x.reshape(len(x), -1) @ tensors['zca_inverse'] + tensors['zca_mean']
    x = flat.reshape(x.shape)
  shown = np.clip(x * tensors['std'] + tensors['mean'], 0, 1)

  np.testing.assert_allclose(shown * 255, pixels, atol=0.01)
  assert entry['format'] == 'distilled_set'
  assert entry['version'] == 1
  assert entry['metadata']['class_names'] == ['circle', 'Straße', 'a/b']


def test_same_content_gives_the_same_bytes(tmp_path):
  a, b = tmp_path / 'a', tmp_path / 'b'
  distilled, _ = make_distilled(zca=True)
  distilled_set.save_distilled(a, distilled)
  metadata = make_metadata(
    recipe=dict(reversed(distilled.metadata.recipe.items())),
    seeds=dict(reversed(distilled.metadata.seeds.items())),
  )
  # The same values in another memory layout and another order of keys.
  images = np.asfortranarray(distilled.images)
  distilled_set.save_distilled(
    b, dataclasses.replace(distilled, images=images, metadata=metadata)
  )
  assert a.read_bytes() == b.read_bytes()
  distilled_set.save_distilled(b, distilled_set.read_distilled(a))
  assert a.read_bytes() == b.read_bytes()


def test_jax_scalars_and_whole_number_keys_survive(tmp_path):
  recipe = {'rate': jnp.float32(0.5), 'n': np.int64(3), 'at': {2: 'a', 10: 'b'}}
  distilled, _ = make_distilled(metadata=make_metadata(recipe=recipe))
  distilled_set.save_distilled(tmp_path / 'x', distilled)
  loaded = distilled_set.read_distilled(tmp_path / 'x').metadata.recipe
  assert loaded == {'rate': 0.5, 'n': 3, 'at': {'2': 'a', '10': 'b'}}


def test_scores_are_appended_and_tensors_stay(tmp_path):
  path = tmp_path / 'set.safetensors'
  distilled, _ = make_distilled()
  distilled_set.save_distilled(path, distilled)
  before = safetensors.numpy.load_file(path)
  distilled_set.add_scores(path, [SCORE])
  distilled_set.add_scores(path, [{**SCORE, 'protocol': 'dsa'}])
  after = safetensors.numpy.load_file(path)
  scores = distilled_set.read_distilled(path).metadata.scores
  assert [score['protocol'] for score in scores] == ['frepo', 'dsa']
  assert scores[0] == SCORE
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value)


def test_programs_that_add_scores_do_so_one_after_another(tmp_path):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  thread = threading.Thread(
    target=distilled_set.add_scores, args=(path, [SCORE])
  )
  with distilled_set.written_in_turn(path):
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert distilled_set.read_distilled(path).metadata.scores == ()
  thread.join()
  distilled_set.add_scores(path, [SCORE])
  assert len(distilled_set.read_distilled(path).metadata.scores) == 2
  assert os.listdir(tmp_path) == ['set.safetensors']


@pytest.mark.parametrize(
  ('score', 'message'),
  [
    ({**SCORE, 'n': 3}, 'n = 3 but has 2'),
    ({k: v for k, v in SCORE.items() if k != 'split'}, r"lacks \['split'\]"),
    ({**SCORE, 'mean': float('nan')}, 'JSON'),
  ],
)
def test_bad_score_leaves_the_file(tmp_path, score, message):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  before = path.read_bytes()
  with pytest.raises(ValueError, match=message):
    distilled_set.add_scores(path, [score])
  assert path.read_bytes() == before


def test_failed_rewrite_leaves_the_file(tmp_path, monkeypatch):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  before = path.read_bytes()

  def fail(*args: object) -> None:
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='No space left'):
    distilled_set.add_scores(path, [SCORE])
  assert path.read_bytes() == before


def _with(name, value):
  def change(distilled):
    return dataclasses.replace(distilled, **{name: value(distilled)})

  return change


def _nan_images(distilled):
  images = distilled.images.copy()
  images[0, 0, 0, 0] = np.nan
  return images


BAD_SETS = {
  'nan': (_with('images', _nan_images), "1 of 288 values of 'images'"),
  'pixels': (_with('images', lambda d: d.images.astype(np.uint8)), 'uint8'),
  'rows': (_with('labels', lambda d: d.labels[:-1]), r'\(5, 3\)'),
  'flat': (_with('images', lambda d: d.images.reshape(6, -1)), r'\(6, 48\)'),
  'classes': (
    _with('metadata', lambda d: make_metadata(class_names=('a', 'b'))),
    '2 class names',
  ),
  'ipc': (
    _with('metadata', lambda d: make_metadata(ipc=3)),
    '3 images per class of 3 classes do not make 6',
  ),
  'coding': (
    _with('metadata', lambda d: make_metadata(label_coding='cantered')),
    "'cantered'",
  ),
  'json': (
    _with('metadata', lambda d: make_metadata(recipe={'tx': object()})),
    'JSON',
  ),
  'mean': (
    _with('normalization', lambda d: d.normalization.replace(mean=jnp.ones(2))),
    r'mean .* \(2,\)',
  ),
  'std': (
    _with('normalization', lambda d: d.normalization.replace(std=jnp.zeros(3))),
    'std must be positive',
  ),
  'half_zca': (
    _with('normalization', lambda d: d.normalization.replace(zca=jnp.eye(48))),
    'with ZCA all of',
  ),
}


@pytest.mark.parametrize('case', BAD_SETS)
def test_save_refuses_what_does_not_fit(tmp_path, case):
  path = tmp_path / 'set.safetensors'
  good, _ = make_distilled()
  distilled_set.save_distilled(path, good)
  before = path.read_bytes()
  change, message = BAD_SETS[case]
  with pytest.raises(ValueError, match=message) as caught:
    distilled_set.save_distilled(path, change(good))
  assert 'set.safetensors' in str(caught.value)
  assert path.read_bytes() == before


def _forge(path, change):
  """Rewrites a file, its hashes right, after `change(tensors, entry)`."""
  tensors = safetensors.numpy.load_file(path)
  with safetensors.safe_open(path, framework='numpy') as file:
    entry = json.loads(file.metadata()['fsdd_jax'])
  change(tensors, entry)
  hash_json = distilled_set.containers._hash_json
  entry['sha256'] = {
    'tensors': hashes.hash_arrays(tensors),
    'metadata': hash_json(entry['metadata']),
  }
  safetensors.numpy.save_file(
    tensors, path, metadata={'fsdd_jax': json.dumps(entry)}
  )


FORGERIES = {
  'newer': (lambda t, e: e.update(version=99), 'version 99; .* newer fsdd_jax'),
  'kind': (lambda t, e: e.update(format='translator'), 'holds a translator'),
  'nan': (lambda t, e: t['images'].fill(np.nan), '288 of 288 .* NaN'),
  'classes': (
    lambda t, e: e['metadata'].update(class_names=['only']),
    '1 class names',
  ),
  'key': (
    lambda t, e: e['metadata'].pop('ipc'),
    r"keys \['ipc'\] of its metadata",
  ),
  'tensor': (lambda t, e: t.pop('std'), 'got .*images.*labels.*mean'),
}


@pytest.mark.parametrize('case', FORGERIES)
def test_load_refuses_what_does_not_fit(tmp_path, case):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  change, message = FORGERIES[case]
  _forge(path, change)
  with pytest.raises(ValueError, match=message) as caught:
    distilled_set.read_distilled(path)
  assert 'set.safetensors' in str(caught.value)


def test_load_names_a_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere\.safetensors: no such'):
    distilled_set.read_distilled(tmp_path / 'nowhere.safetensors')
  with pytest.raises(FileNotFoundError, match='no such file'):
    distilled_set.read_distilled(tmp_path)


@pytest.mark.parametrize('size', [0, 5, 100, -1])
def test_load_names_a_cut_file(tmp_path, size):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match=r'set\.safetensors: not a whole'):
    distilled_set.read_distilled(path)


def test_load_names_a_changed_byte(tmp_path):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match='tensors were damaged'):
    distilled_set.read_distilled(path)


def test_load_names_changed_metadata(tmp_path):
  path = tmp_path / 'set.safetensors'
  distilled_set.save_distilled(path, make_distilled()[0])
  data = path.read_bytes()
  assert data.count(b'circle') == 1
  path.write_bytes(data.replace(b'circle', b'square'))
  with pytest.raises(ValueError, match='metadata were damaged'):
    distilled_set.read_distilled(path)


def test_load_names_a_file_of_others(tmp_path):
  path = tmp_path / 'other.safetensors'
  safetensors.numpy.save_file({'w': np.ones(2)}, path)
  with pytest.raises(ValueError, match='not of fsdd_jax'):
    distilled_set.read_distilled(path)
  safetensors.numpy.save_file({'w': np.ones(2)}, path, {'fsdd_jax': '[1]'})
  with pytest.raises(ValueError, match='not of fsdd_jax'):
    distilled_set.read_distilled(path)


VARIABLES = {
  'params': {
    'conv': {'kernel': np.arange(4, dtype=np.float32).reshape(2, 2)},
    'head': {'bias': jnp.full(3, 2.0)},
  }
}


def make_translator_metadata(**changes):
  transform = make_distilled(zca=True)[0].normalization
  fields = {
    'theta_seed': 0,
    'network': {'name': 'ConvNet', 'width': 8},
    'translator': {'widths': [8, 16]},
    'normalization': describe_normalization(transform),
    'training': {'steps': 3, 'loss': 0.5},
  }
  return fields | changes


def test_translator_round_trip(tmp_path):
  path = tmp_path / 'translator.safetensors'
  metadata = make_translator_metadata()
  weight_files.save_translator(path, VARIABLES, metadata)
  variables, loaded = weight_files.load_translator(path)
  assert loaded == metadata
  assert sorted(variables['params']) == ['conv', 'head']
  np.testing.assert_array_equal(
    variables['params']['conv']['kernel'], [[0, 1], [2, 3]]
  )
  np.testing.assert_array_equal(variables['params']['head']['bias'], [2] * 3)
  assert sorted(safetensors.numpy.load_file(path)) == [
    'params/conv/kernel',
    'params/head/bias',
  ]


@pytest.mark.parametrize('key', weight_files.TRANSLATOR_KEYS)
def test_translator_needs_its_metadata(tmp_path, key):
  metadata = make_translator_metadata()
  del metadata[key]
  with pytest.raises(ValueError, match=f"needs '{key}' as .*; got None"):
    weight_files.save_translator(tmp_path / 'x', VARIABLES, metadata)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  ('variables', 'message'),
  [
    ({'params': {'a/b': np.ones(1, np.float32)}}, 'may hold "/"'),
    ({'params': {'a': np.ones(1)}}, 'params/a must be .* got float64'),
    ({'params': {}}, 'params must be a float32 array'),
    ({}, 'no variables'),
    ({'a': np.full(2, np.inf, np.float32)}, "2 of 2 values of 'a'"),
  ],
)
def test_translator_refuses_bad_variables(tmp_path, variables, message):
  with pytest.raises(ValueError, match=message):
    weight_files.save_translator(
      tmp_path / 'x', variables, make_translator_metadata()
    )


def test_zca_hash_tells_matrices_apart():
  described = describe_normalization
  plain = make_distilled()[0].normalization
  white = make_distilled(zca=True)[0].normalization
  assert described(plain)['zca_sha256'] is None
  assert described(white) == described(white.replace())
  assert described(white) != described(white.replace(zca=white.zca + 1))
  np.testing.assert_array_equal(described(white)['std'], white.std)


def test_write_goes_through_the_atomic_writer(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(files, 'write_bytes_atomic', lambda *a: calls.append(a))
  distilled_set.save_distilled(tmp_path / 'x', make_distilled()[0])
  assert len(calls) == 1
