"""The tiny runs that `same_bytes.py` compares between two commits.

Flags name folders relative to that of all runs, in which each run has one of
its own name. Data are made or embedded, so that nothing is downloaded. Options
that no run is about are spread over those that can take them.
"""

from typing import NamedTuple


class Run(NamedTuple):
  """One call of a binary.

  Attributes:
    name: of the run and of its folder.
    binary: in `experiments/`, without ending.
    flags: the rest of the command.
    needs: runs whose files it reads.
    stop_at: a pattern of files of its folder; once there is one, the run is
      stopped by SIGTERM, and the same command goes on.
    slow: whether it is done only if it is asked for.
  """

  name: str
  binary: str
  flags: tuple[str, ...]
  needs: tuple[str, ...] = ()
  stop_at: str = ''
  slow: bool = False


_LARGE: tuple[str, ...] = (
  '--dataset=fractals:4',
  '--limit=80',
  '--image_size=8',
  '--width=4',
)
_SUBSETS = (
  *('--min_classes=2', '--max_classes=3', '--max_synthetic=6'),
  *('--num_subsets=4', '--subsets_per_batch=2', '--num_steps=3'),
)
_TRANSLATOR = ('--translator_width=4', '--translator_blocks=1')
_PRETRAINING: tuple[str, ...] = (
  *(*_LARGE, *_TRANSLATOR, '--num_steps=6', '--batch_size=2'),
  *('--eval_every=3', '--heldout_networks=2', '--log_every=1'),
)
_DIGITS = ('--dataset=digits', '--limit=60', '--holdout=0.2')
_LOGGED = ('--log_every=1', '--checkpoint_every=2')
_TABLES = ('--scale=tiny', '--recipes=recipes', '--workdir=tables')


def _caching(name: str, *flags: str, stop_at: str = '') -> Run:
  further = (*_LARGE, *_SUBSETS, *flags, f'--folder={name}')
  return Run(name, 'cache', further, stop_at=stop_at)


def _pretraining(
  name: str, cache: str, inputs: str, *flags: str, stop_at: str = ''
) -> Run:
  own = (f'--translator_inputs={inputs}', f'--workdir={name}', *flags)
  further = (*_PRETRAINING, f'--cache={cache}', *own)
  return Run(name, 'pretrain', further, (cache,), stop_at)


def _distilling(name: str, *flags: str, needs: tuple[str, ...] = ()) -> Run:
  own = ('--ipc=1', '--num_steps=4', f'--workdir={name}', *flags)
  return Run(name, 'distill', (*_DIGITS, *_LOGGED, *own), needs)


def _peer(name: str, *flags: str) -> Run:
  return _distilling(name, f'--method={name}', '--real_batch=20', *flags)


RUNS = (
  _caching('cache', '--zca', '--max_images=12'),
  _caching('cache_all', '--max_images=0', '--augmentation=none'),
  _caching('cache_anew', '--max_images=12', '--augmented_copies=0'),
  _caching(
    *('cache_stopped', '--num_subsets=10', '--num_steps=60', '--max_images=0'),
    *('--augmentation=frepo', '--label_coding=onehot'),
    stop_at='*.array_record',
  ),
  Run('inspect', 'cache', ('--folder=cache', '--inspect'), ('cache',)),
  _pretraining(
    *('pretrain', 'cache', 'images,start,theta', '--zca'),
    *('--bank_networks=2', '--bank_renewal=2', '--bank_images=5'),
  ),
  _pretraining(
    *('pretrain_images', 'cache_anew', 'images', '--bank_networks=0'),
    *('--translator_body=auto_encoder', '--loss=squared', '--clip_norm=0'),
  ),
  _pretraining(
    *('pretrain_stopped', 'cache_all', 'images,theta', '--bank_networks=3'),
    *('--bank_renewal=3', '--bank_images=0', '--checkpoint_every=2'),
    stop_at='metrics.jsonl',
  ),
  Run(
    'adapt',
    'adapt',
    (
      *(*_LARGE[:3], *_LOGGED, '--zca', '--workdir=adapt'),
      *('--translator=pretrain/translator.safetensors', '--adapt_ipcs=1'),
      *('--ipcs=1,2', '--num_steps=3', '--num_adaptation_steps=4'),
      *('--network_pool=2', '--num_starts=2', '--finishing_steps=2'),
    ),
    ('pretrain',),
  ),
  Run(
    'adapt_fresh',
    'adapt',
    (
      *(*_DIGITS, *_LOGGED, '--image_size=8', '--workdir=adapt_fresh'),
      *('--translator=pretrain_images/translator.safetensors', '--thinned=0'),
      *('--adapt_ipcs=2', '--num_steps=3', '--num_adaptation_steps=3'),
      *('--num_starts=1', '--real_batch=20'),
    ),
    ('pretrain_images',),
  ),
  Run(
    'adapt_shipped',
    'adapt',
    (
      *(*_DIGITS, '--image_size=32', '--translator=tiny_imagenet_32'),
      *('--adapt_ipcs=1', '--num_steps=2', '--num_adaptation_steps=0'),
      '--workdir=adapt_shipped',
    ),
  ),
  _distilling('one_net', '--zca', '--width=4', '--loss=squared'),
  _distilling('baseline_r', '--num_networks=2', '--width=4', '--ipc=2'),
  _distilling(
    *('pool', '--num_networks=2', '--revisit', '--real_batch=20', '--zca'),
    *('--width=4', '--width_multiplier=2', '--depth=2', '--norm=group'),
  ),
  _distilling(
    *('further', '--width=4', '--ipc=2', '--optimizer=sgd'),
    '--start=baseline_r/distilled.safetensors',
    needs=('baseline_r',),
  ),
  _peer('frepo', '--width=4', '--pool_size=2', '--save_networks'),
  _peer(
    *('rfad', '--width=4', '--networks_per_step=2', '--zca'),
    '--map_learning_rate=1e-3',
  ),
  _peer(
    *('rcig', '--width=4', '--norm=none', '--pool_size=2', '--num_steps=2'),
    *('--num_inner_steps=2', '--num_hessian_steps=2'),
  ),
  _peer('kip', '--network=mlp', '--depth=1', '--norm=none', '--width=8'),
  _distilling('random_real', '--method=random_real', '--width=4'),
  _distilling('herding', '--method=herding', '--width=4', '--zca'),
  _distilling('k_centre', '--method=k_centre', '--width=4'),
  Run(
    'evaluate',
    'evaluate',
    (
      *('baseline_r/distilled.safetensors', '--protocols=krr,frepo,dc'),
      *('--repeats=2', '--split=holdout', '--write_scores'),
      '--output=evaluate/scores.json',
    ),
    ('baseline_r',),
  ),
  Run(
    'evaluate_kernels',
    'evaluate',
    (
      *('kip/distilled.safetensors', '--protocols=nngp,ntk', '--repeats=1'),
      '--output=evaluate_kernels/scores.json',
    ),
    ('kip',),
  ),
  Run('export', 'export', ('one_net/distilled.safetensors', '--output=export'),
      ('one_net',)),
  Run(
    'compare',
    'compare',
    (
      *('--dataset=digits', '--limit=60', '--holdout=0.2', '--width=4'),
      *('--ipcs=1', '--scale=tiny', '--recipes=recipes', '--repeats=2'),
      *(*_TRANSLATOR, '--points=2', '--end_protocols=krr'),
      '--methods=herding,baseline,baseline --num_networks=1,'
      'adapt --finishing_steps=2',
      '--workdir=compare',
    ),
  ),
  Run(
    'quickstart',
    'quickstart',
    ('--num_steps=2', '--repeats=1', '--workdir=quickstart'),
    slow=True,  # Its networks are not tiny, and are trained for scores.
  ),
  Run(
    'table1',
    'table1',
    (
      *(*_TABLES, '--rows=target', '--ipcs=1', '--repeats=2'),
      # figure2 has the one that is missing.
      '--columns=random real,Baseline,1 Net,Bi-Level,w/o Pre-Train,w AE,w Ada,'
      'Pool',
    ),
  ),
  Run(
    'figure2',
    'figure2',
    (*_TABLES, '--row=target', '--seen=1', '--ipcs=1', '--networks=2'),
    ('table1',),
  ),
  Run(
    'figure3',
    'figure3',
    (*_TABLES, '--row=target', '--ipc=1', '--seen=1', '--unseen=2'),
    ('table1',),
  ),
  Run(
    'few_networks',
    'few_networks',
    (
      *(*_TABLES, '--row=target', '--ipcs=1', '--networks=1', '--steps=1'),
      '--translator=pretrain_images/translator.safetensors',
    ),
    ('pretrain_images', 'table1'),
  ),
)  # fmt: skip

# Flagfiles of tables, figures and comparisons, by name.
_OF_SUBSETS = ('--min_classes=2', '--max_classes=3', '--max_images=12')
_ADAPTATION = ('--num_steps=2', '--num_adaptation_steps=2', '--batch_size=1')
RECIPES = {
  'target': ('--dataset=fractals:3', *_LARGE[1:]),
  'cache': (*_LARGE, *_SUBSETS, '--max_images=12', '--augmentation=none'),
  'pretrain': (*_PRETRAINING, '--num_steps=2'),
  'pretrain_ae': (
    *(*_PRETRAINING, '--num_steps=2', '--objective=reconstruction'),
    *('--head_scale=1', '--translator_inputs=images'),
  ),
  'bilevel': (
    *(*_LARGE, *_OF_SUBSETS, '--max_synthetic=6', '--num_steps=2'),
    '--num_updates=2',
  ),
  'no_pretrain': (*_TRANSLATOR, '--translator_inputs=images,start'),
  'adapt': (*_ADAPTATION, '--network_pool=2'),
  'few': (*_ADAPTATION, '--num_starts=2'),
  'one_net': ('--num_steps=2',),
  'baseline': ('--num_steps=2', '--num_networks=2', '--real_batch=20'),
  'pool': ('--num_steps=2', '--num_networks=2', '--revisit'),
  'frepo': ('--num_steps=2', '--pool_size=2', '--real_batch=20'),
}
