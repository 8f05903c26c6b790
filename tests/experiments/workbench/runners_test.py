"""What compare.py hands on to its methods."""

import dataclasses

import toy
from fsdd_jax.algorithms import adaptation
from fsdd_jax.algorithms.configs import NetworkConfig
from fsdd_jax.runtime.loop import LoopOptions
from workbench import runners


def test_an_adaptation_distils_in_theta_as_its_translator_knows(
  tmp_path, monkeypatch
):
  (tmp_path / 'tiny_adapt.flags').write_text('--network_pool=2\n')
  caching = {'num_steps': 7, 'learning_rate': 0.5, 'jitter': ['flip']}
  metadata = {'caching': caching, 'training': {}}
  start = dataclasses.replace(toy.translator(), metadata=metadata)
  seen = []
  monkeypatch.setattr(
    adaptation, 'adapt', lambda *_, config, **__: seen.append(config)
  )
  runner = runners.make_runner(
    'adapt --learning_rate=0.25',
    toy.problem(),
    start,
    ipc=3,
    settings=runners.Settings(
      str(tmp_path), 'tiny', NetworkConfig(), seed=4, direct_steps=1
    ),
  )
  runner.run(5, LoopOptions())
  (config,) = seen
  assert (config.num_steps, config.jitter) == (7, ('flip',))
  assert config.learning_rate == 0.25  # What is asked for comes first.
  assert (config.adapt_ipcs, config.num_adaptation_steps) == ((3,), 5)
  assert (config.network_pool, config.seed) == (2, 4)
