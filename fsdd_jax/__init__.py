"""Few-shot dataset distillation by translative pre-training, in JAX."""

import importlib.metadata

from fsdd_jax.algorithms.adaptation import (
  AdaptationResult,
  adapt,
  distill_dataset,
)
from fsdd_jax.algorithms.baselines import (
  DistillationResult,
  distill_over_networks,
  random_real,
)
from fsdd_jax.algorithms.caching import build_cache
from fsdd_jax.algorithms.configs import (
  DataConfig,
  DistillationConfig,
  EvaluationConfig,
  NetworkConfig,
)
from fsdd_jax.algorithms.method_configs import (
  AdaptationConfig,
  CachingConfig,
  PretrainingConfig,
  TranslatorConfig,
)
from fsdd_jax.algorithms.pretraining import pretrain
from fsdd_jax.core.augment import dsa
from fsdd_jax.core.krr import predict, solve
from fsdd_jax.core.krr_errors import mean_squared_error
from fsdd_jax.core.losses import (
  feature_fn,
  krr_loss,
  krr_loss_from_statistics,
)
from fsdd_jax.data.datasets import Dataset, from_arrays, load
from fsdd_jax.data.normalization import (
  Normalization,
  denormalize,
  normalize,
  standardization,
  zca_whitening,
)
from fsdd_jax.data.passes import target_statistics
from fsdd_jax.data.resolution import repeat_channels
from fsdd_jax.evaluation.evaluate import PROTOCOLS, Score, evaluate
from fsdd_jax.networks.extractors import make as make_network
from fsdd_jax.networks.extractors import register as register_network
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.random_networks import sample as sample_network
from fsdd_jax.networks.translator import LightTranslator, Translator, translate
from fsdd_jax.runtime.stage_loop import LoopOptions
from fsdd_jax.storage.cache.shards import CacheSource, open_cache
from fsdd_jax.storage.distilled_set import (
  DistilledSet,
  load_distilled,
  save_distilled,
)
from fsdd_jax.storage.pretrained import (
  Pretrained,
  load_pretrained,
  random_translator,
  save_adapted,
  save_pretrained,
)
from fsdd_jax.types import LabeledSet, labeled_set, pad, unpad
from fsdd_jax.zoo import load_translator

try:
  __version__ = importlib.metadata.version('fsdd-jax')
except importlib.metadata.PackageNotFoundError:  # A source tree on the path.
  __version__ = 'not installed'

__all__ = (
  'PROTOCOLS',
  'AdaptationConfig',
  'AdaptationResult',
  'CacheSource',
  'CachingConfig',
  'DataConfig',
  'Dataset',
  'DistillationConfig',
  'DistillationResult',
  'DistilledSet',
  'EvaluationConfig',
  'FixedNetwork',
  'LabeledSet',
  'LightTranslator',
  'LoopOptions',
  'NetworkConfig',
  'Normalization',
  'Pretrained',
  'PretrainingConfig',
  'Score',
  'Translator',
  'TranslatorConfig',
  'adapt',
  'build_cache',
  'denormalize',
  'distill_dataset',
  'distill_over_networks',
  'dsa',
  'evaluate',
  'feature_fn',
  'from_arrays',
  'krr_loss',
  'krr_loss_from_statistics',
  'labeled_set',
  'load',
  'load_distilled',
  'load_pretrained',
  'load_translator',
  'make_network',
  'mean_squared_error',
  'normalize',
  'open_cache',
  'pad',
  'predict',
  'pretrain',
  'random_real',
  'random_translator',
  'register_network',
  'repeat_channels',
  'sample_network',
  'save_adapted',
  'save_distilled',
  'save_pretrained',
  'solve',
  'standardization',
  'target_statistics',
  'translate',
  'unpad',
  'zca_whitening',
)
