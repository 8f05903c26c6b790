"""Settings of the peers' methods, with the peers' own defaults.

What all methods share (steps, optimiser, rates, ridge, real images a step) are
fields of `configs.DistillationConfig`; flagfiles hold the peers' values.
"""

import dataclasses

from fsdd_jax.options import Config, option, out_of_range

_POOL_SIZE = 'Networks of the pool (FRePo: 10, RCIG: 30).'
_UPDATES = 'Updates after which a network is drawn anew (FRePo, RCIG: 100).'
_ONLINE_RATE = 'Of the networks, by Adam (FRePo: 3e-4, RCIG: 5e-5).'
_MIRROR = 'Fit to X_S and its mirror image (FRePo, RCIG: not for digits).'
_MARGIN = 'Weight of the margin of learned labels (FRePo, RCIG: 1).'
_PLATT_RATE = (
  'Of the scale of predictions, by AdaBelief (RFAD: 1e-2, RCIG: 3e-2); 0 takes '
  'the best scale of each batch [ours].'
)


@dataclasses.dataclass(frozen=True)
class FrepoConfig(Config):
  """FRePo: a pool of networks that are trained on X_S between its steps."""

  pool_size: int = option(10, _POOL_SIZE, least=1)
  max_online_updates: int = option(100, _UPDATES, least=1)
  online_learning_rate: float = option(3e-4, _ONLINE_RATE, above=0)
  mirror: bool = option(True, _MIRROR)
  margin: float = option(1.0, _MARGIN, least=0)


@dataclasses.dataclass(frozen=True)
class RfadConfig(Config):
  """RFAD: several fresh networks a step make one kernel."""

  networks_per_step: int = option(
    8, 'Fresh networks a step, N (RFAD: 8).', least=1
  )
  platt: bool = option(
    True,
    'Cross-entropy of scaled predictions (RFAD), instead of --loss.',
  )
  platt_learning_rate: float = option(1e-2, _PLATT_RATE, least=0)
  map_learning_rate: float = option(
    0.0,
    'Of a linear map of all pixels of an image, by AdaBelief (RFAD: 5e-5); 0: '
    'no map.',
    least=0,
  )


@dataclasses.dataclass(frozen=True)
class RcigConfig(Config):
  """RCIG: implicit gradients of a convex problem, in a pool that learns."""

  pool_size: int = option(30, _POOL_SIZE, least=1)
  max_online_updates: int = option(100, _UPDATES, least=1)
  online_learning_rate: float = option(5e-5, _ONLINE_RATE, above=0)
  most_online_steps: int = option(
    15, 'Updates of a network a step, drawn from 1 to this (RCIG: 15).', least=1
  )
  mirror: bool = option(True, _MIRROR)
  margin: float = option(1.0, _MARGIN, least=0)
  platt_learning_rate: float = option(3e-2, _PLATT_RATE, least=0)
  ridge_per_image: float = option(
    5e-4,
    'Ridge of the linearised network over the number of distilled images, '
    'instead of --ridge (RCIG: 5e-4; 0.05 at 128 pixels).',
    above=0,
  )
  solver: str = option(
    'adam',
    'adam (RCIG), or conjugate gradients (cg), which need no rate [ours].',
    choices=('adam', 'cg'),
  )
  num_inner_steps: int = option(
    20, "Of the solver, on the network's weights (RCIG: 20).", least=1
  )
  num_hessian_steps: int = option(
    20, 'Of the solver, on the implicit gradient (RCIG: 20).', least=1
  )
  inner_learning_rate: float = option(
    0.0, 'Of Adam on the weights; 0: found and kept by trial (RCIG).', least=0
  )
  hessian_learning_rate: float = option(
    0.0,
    'Of Adam on the implicit gradient; 0: found and kept by trial (RCIG).',
    least=0,
  )
  softplus: float = option(
    60.0,
    'softplus(beta x) / beta instead of ReLU while distilling, with this beta '
    '(RCIG: 60 at 28 and 32 pixels); 0: ReLU.',
    least=0,
  )
  average: float = option(
    0.99,
    'Decay of the moving average of the set that is the result (RCIG: 0.99).',
    least=0,
    below=1,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    for problem in ('inner', 'hessian'):
      steps, rate = f'num_{problem}_steps', f'{problem}_learning_rate'
      searched = self.solver == 'adam' and not getattr(self, rate)
      # One step alone says of no rate whether it goes down.
      if searched and getattr(self, steps) == 1:
        raise out_of_range(steps, 1, f'2 or more, or give {rate}')


@dataclasses.dataclass(frozen=True)
class KipConfig(Config):
  """KIP: the closed form in one infinitely wide network."""

  kernel: str = option('ntk', 'nngp or ntk (KIP).', choices=('nngp', 'ntk'))
