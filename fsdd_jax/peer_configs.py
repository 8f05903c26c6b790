"""Settings of the peers' methods, with the peers' own defaults.

What all methods share (steps, optimiser, rates, ridge, real images a step) are
fields of `configs.DistillationConfig`; flagfiles hold the peers' values.
"""

import dataclasses

from fsdd_jax.configs import Config, option


@dataclasses.dataclass(frozen=True)
class FrepoConfig(Config):
  """FRePo: a pool of networks that are trained on X_S between its steps.

  Example:
    >>> FrepoConfig(pool_size=3).pool_size
    3
  """

  pool_size: int = option(10, 'Networks of the pool (FRePo: 10).', least=1)
  max_online_updates: int = option(
    100, 'Updates after which a network is drawn anew (FRePo: 100).', least=1
  )
  online_learning_rate: float = option(
    3e-4, 'Of the networks, by Adam (FRePo: 3e-4).', above=0
  )
  mirror: bool = option(
    True, 'Fit to X_S and its mirror image (FRePo: not for digits).'
  )
  margin: float = option(
    1.0, 'Weight of the margin of learned labels (FRePo: 1).', least=0
  )


@dataclasses.dataclass(frozen=True)
class RfadConfig(Config):
  """RFAD: several fresh networks a step make one kernel.

  Example:
    >>> RfadConfig(networks_per_step=2).networks_per_step
    2
  """

  networks_per_step: int = option(
    8, 'Fresh networks a step, N (RFAD: 8).', least=1
  )
  platt: bool = option(
    True,
    'Cross-entropy of scaled predictions (RFAD), instead of --loss.',
  )


@dataclasses.dataclass(frozen=True)
class KipConfig(Config):
  """KIP: the closed form in one infinitely wide network.

  Example:
    >>> KipConfig().kernel
    'ntk'
  """

  kernel: str = option('ntk', 'nngp or ntk (KIP).', choices=('nngp', 'ntk'))
