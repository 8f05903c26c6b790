"""Few-shot dataset distillation by translative pre-training, in JAX."""

import importlib.metadata

from fsdd_jax.algorithms.adaptation import AdaptationResult, adapt
from fsdd_jax.algorithms.adaptation_config import AdaptationConfig
from fsdd_jax.algorithms.adaptation_samples import pool_networks
from fsdd_jax.algorithms.baseline import (
  DistillationResult,
  distill_over_networks,
)
from fsdd_jax.algorithms.bilevel import learn_network
from fsdd_jax.algorithms.caching import build_cache
from fsdd_jax.algorithms.configs import DistillationConfig
from fsdd_jax.algorithms.finishing import finish, fit_labels
from fsdd_jax.algorithms.method_configs import (
  BilevelConfig,
  CachingConfig,
  PretrainingConfig,
)
from fsdd_jax.algorithms.peers import PEERS
from fsdd_jax.algorithms.peers.frame import distill_by
from fsdd_jax.algorithms.pretraining import pretrain
from fsdd_jax.algorithms.translated_sets import distill_dataset, settings_of
from fsdd_jax.core.augment import dsa
from fsdd_jax.core.krr import predict, solve
from fsdd_jax.core.krr_errors import mean_squared_error
from fsdd_jax.core.losses import (
  feature_fn,
  krr_loss,
  krr_loss_from_statistics,
)
from fsdd_jax.data.datasets import Dataset, from_arrays
from fsdd_jax.data.datasets import load as load_dataset
from fsdd_jax.data.normalization import (
  Normalization,
  denormalize,
  normalize,
  standardization,
  zca_whitening,
)
from fsdd_jax.data.passes import target_statistics
from fsdd_jax.data.resolution import repeat_channels
from fsdd_jax.data.target import TargetSet
from fsdd_jax.evaluation.evaluate import PROTOCOLS, Score, evaluate
from fsdd_jax.evaluation.evaluate import Settings as EvaluationSettings
from fsdd_jax.evaluation.protocols import unsuitable_augmentation
from fsdd_jax.networks.extractors import make as make_network
from fsdd_jax.networks.extractors import register as register_network
from fsdd_jax.networks.fixed import FixedNetwork
from fsdd_jax.networks.random_networks import sample as sample_network
from fsdd_jax.networks.translator import LightTranslator, Translator, translate
from fsdd_jax.runtime.loop import LoopOptions
from fsdd_jax.storage.cache.shards import CacheSource, open_cache
from fsdd_jax.storage.distilled_set import (
  DistilledSet,
  Metadata,
  save_distilled,
)
from fsdd_jax.storage.translators import (
  ThetaTranslator,
  random_translator,
  save_translator,
)
from fsdd_jax.types import LabeledSet, labeled_set, pad, unpad
from fsdd_jax.zoo import load_distilled, load_translator

try:
  __version__ = importlib.metadata.version('fsdd-jax')
except importlib.metadata.PackageNotFoundError:  # A source tree on the path.
  __version__ = 'not installed'

__all__ = (
  'PEERS',
  'PROTOCOLS',
  'AdaptationConfig',
  'AdaptationResult',
  'BilevelConfig',
  'CacheSource',
  'CachingConfig',
  'Dataset',
  'DistillationConfig',
  'DistillationResult',
  'DistilledSet',
  'EvaluationSettings',
  'FixedNetwork',
  'LabeledSet',
  'LightTranslator',
  'LoopOptions',
  'Metadata',
  'Normalization',
  'PretrainingConfig',
  'Score',
  'TargetSet',
  'ThetaTranslator',
  'Translator',
  'adapt',
  'build_cache',
  'denormalize',
  'distill_by',
  'distill_dataset',
  'distill_over_networks',
  'dsa',
  'evaluate',
  'feature_fn',
  'finish',
  'fit_labels',
  'from_arrays',
  'krr_loss',
  'krr_loss_from_statistics',
  'labeled_set',
  'learn_network',
  'load_dataset',
  'load_distilled',
  'load_translator',
  'make_network',
  'mean_squared_error',
  'normalize',
  'open_cache',
  'pad',
  'pool_networks',
  'predict',
  'pretrain',
  'random_translator',
  'register_network',
  'repeat_channels',
  'sample_network',
  'save_distilled',
  'save_translator',
  'settings_of',
  'solve',
  'standardization',
  'target_statistics',
  'translate',
  'unpad',
  'unsuitable_augmentation',
  'zca_whitening',
)
