"""Few-shot dataset distillation by translative pre-training, in JAX."""

import importlib.metadata

from fsdd_jax.artifacts import DistilledSet, load_distilled, save_distilled
from fsdd_jax.baselines import (
  DistillationResult,
  distill_over_networks,
  random_real,
)
from fsdd_jax.configs import (
  DataConfig,
  DistillationConfig,
  EvaluationConfig,
  NetworkConfig,
)
from fsdd_jax.datasets import Dataset, from_arrays, load
from fsdd_jax.evaluation import Score, evaluate
from fsdd_jax.krr import mean_squared_error, predict, solve
from fsdd_jax.networks import make as make_network
from fsdd_jax.networks import register as register_network
from fsdd_jax.normalization import (
  Normalization,
  denormalize,
  normalize,
  standardization,
  zca_whitening,
)
from fsdd_jax.objective import (
  feature_fn,
  krr_loss,
  krr_loss_from_statistics,
  target_statistics,
)
from fsdd_jax.protocols import PROTOCOLS
from fsdd_jax.stage_loop import LoopOptions
from fsdd_jax.translator import Translator, translate
from fsdd_jax.types import LabeledSet, labeled_set, pad, unpad

__version__ = importlib.metadata.version('fsdd-jax')

__all__ = (
  'PROTOCOLS',
  'DataConfig',
  'Dataset',
  'DistillationConfig',
  'DistillationResult',
  'DistilledSet',
  'EvaluationConfig',
  'LabeledSet',
  'LoopOptions',
  'NetworkConfig',
  'Normalization',
  'Score',
  'Translator',
  'denormalize',
  'distill_over_networks',
  'evaluate',
  'feature_fn',
  'from_arrays',
  'krr_loss',
  'krr_loss_from_statistics',
  'labeled_set',
  'load',
  'load_distilled',
  'make_network',
  'mean_squared_error',
  'normalize',
  'pad',
  'predict',
  'random_real',
  'register_network',
  'save_distilled',
  'solve',
  'standardization',
  'target_statistics',
  'translate',
  'unpad',
  'zca_whitening',
)
