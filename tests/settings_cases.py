"""For each field of each config: what shows that it does something.

`settings_test` reads this.
"""

from typing import NamedTuple


class Changes(NamedTuple):
  """Another value of the field changes what the class's binary writes.

  Attributes:
    value: for its flag, after those of the tiny run.
    others: flags that both runs have besides.
  """

  value: object
  others: tuple[str, ...] = ()


class Seen(NamedTuple):
  """A test, given by its name, sees what the field does."""

  test: str


class Reason(NamedTuple):
  """Why no result depends on the field."""

  text: str


# A layer alone, whose gradient of gradients compiles fast.
_SUBSETS = (
  *('--dataset=fractals:6', '--limit=120', '--image_size=8', '--width=4'),
  *('--network=mlp', '--depth=1', '--norm=none'),
  *('--min_classes=2', '--max_classes=6', '--max_images=24'),
  *('--max_synthetic=12', '--num_steps=2'),
)
# A binary, and the flags of its tiny run.
_DISTILL = (
  *('distill.py', '--dataset=digits', '--limit=40', '--ipc=1', '--width=4'),
  *('--norm=none', '--num_steps=2'),
)
_CACHE = ('cache.py', *_SUBSETS, '--num_subsets=2', '--augmentation=none')
_BILEVEL = ('bilevel.py', *_SUBSETS, '--num_updates=2', '--batch_size=2')

_RESUME = 'test_resume_goes_on_and_its_log_has_each_step_once'
_STAGE = {'checkpoint_every': Seen(_RESUME), 'log_every': Seen(_RESUME)}
_SPEED = Reason('It bounds time and memory; results change by rounding.')
_STEPS = {
  'optimizer': Changes('sgd'),
  'learning_rate': Changes(0.05),
  'label_learning_rate': Changes(0),
  'schedule': Changes('constant'),
  'label_coding': Changes('onehot'),
  'ridge': Changes(0.01),
  'loss': Changes('squared'),
}
_DRAWN = {
  'min_classes': Changes(6),
  'max_classes': Changes(2),
  'max_images': Changes(18),
  'max_synthetic': Changes(6),
  'seed': Changes(1),
  'theta_seed': Changes(1),
}
_RCIG = Seen('test_each_setting_changes_the_set')
_RFAD = Seen('test_each_setting_of_rfad_changes_the_set')
_FREPO = Seen('test_frepo_visits_its_pool_at_random_and_draws_networks_anew')
_BY_HAND = Seen('test_frepo_updates_images_and_network_as_by_hand')
_HANDED_ON = Seen('test_adaptation_hands_on_what_distillation_takes')
_BANKS = Seen('test_updates_see_other_networks_and_old_ones_are_deleted')
_LITERAL = Seen('test_step_follows_the_naive_gradient')
_PRETRAINING = Seen('test_pretraining_lowers_the_heldout_loss')
_PLATEAU = Seen('test_a_plateau_ends_the_stage_and_its_log_is_whole')
_REFUSED = Seen('test_another_network_data_or_theta_is_named_and_refused')
_HELD_OUT = Seen('test_heldout_score_is_the_loss_on_the_real_images')
_EPOCHS = Seen('test_batches_depend_on_their_step_and_visit_all_each_epoch')
_SCORES = Seen('test_evaluate_scores_beside_random_real_and_adds_to_the_file')

CASES = {
  'DataConfig': {
    'dataset': Changes('fractals:3', ('--image_size=8',)),
    'data_dir': Seen('test_tfds_directory_and_name'),
    'image_size': Changes(16),
    'classes': Changes('0,1'),
    'limit': Changes(30),
    'holdout': Changes(0.3),
    'zca': Changes('true'),
  },
  'NetworkConfig': {
    'network': Changes('mlp', ('--depth=1',)),
    'width': Changes(5),
    'width_multiplier': Changes(2, ('--depth=2',)),
    'depth': Changes(2, ('--depth=1',)),
    'norm': Changes('instance'),
    'initialization': Changes('lecun'),
    'dtype': Changes('bfloat16'),
  },
  'TranslatorConfig': {
    'translator_body': Seen('test_each_input_reaches_the_result_at_any_size'),
    'translator_inputs': Seen('test_each_input_reaches_the_result_at_any_size'),
    'translator_width': Seen('test_full_size_has_the_stated_widths'),
    'translator_blocks': Seen(
      'test_blocks_together_do_not_blow_up_the_variance'
    ),
    'head_scale': Seen('test_head_scale_scales_delta_and_starts_near_identity'),
  },
  'EvaluationConfig': {
    'protocols': Seen('test_compare_of_all_methods_by_one_flag'),
    'networks': Reason('It chooses what is scored; `networks` of a score.'),
    'width': _SCORES,
    'repeats': _SCORES,
    'split': _SCORES,
    'evaluation_seed': Seen(
      'test_each_repeat_of_a_score_has_a_network_of_its_own'
    ),
    'learning_rate': Seen('test_a_rate_can_be_asked_for'),
    'kernel_float64': Seen(
      'test_double_precision_reaches_images_of_the_usual_size'
    ),
  },
  'DistillationConfig': {
    **_STEPS,
    **_STAGE,
    'num_steps': Changes(3),
    'ipc': Changes(2),
    'num_networks': Changes(2),
    'revisit': Changes('true', ('--num_networks=2', '--num_steps=6')),
    'real_batch': Changes(20),
    'short_classes': Seen('test_a_class_with_few_images_is_named_or_filled'),
    'jitter': Changes('flip'),
    'seed': Changes(1),
  },
  'CachingConfig': {
    **_STEPS,
    **_DRAWN,
    'num_steps': Changes(3),
    'num_subsets': Changes(3),
    'heldout_subsets': Seen(
      'test_pretraining_learns_from_the_others_and_returns_the_best'
    ),
    'heldout_classes': Changes(3, ('--max_classes=3',)),
    'augmentation': Seen('test_each_step_of_caching_is_augmented_anew'),
    'jitter': Changes('flip'),
    'augmented_copies': Seen('test_each_step_of_caching_is_augmented_anew'),
    'subsets_per_batch': _SPEED,
    'features_per_call': _SPEED,
    'log_every': Seen('test_progress_and_losses_reach_the_caller'),
  },
  'BilevelConfig': {
    **_STEPS,
    **_DRAWN,
    **_STAGE,
    'num_steps': Changes(3),
    'truncation': Changes(1),
    'remat': _SPEED,
    'num_updates': Changes(3),
    'batch_size': Changes(3),
    'update_rate': Changes(0.1),
  },
  'PretrainingConfig': {
    **_STAGE,
    'objective': Seen('test_reconstruction_learns_the_identity'),
    'num_steps': _PRETRAINING,
    'batch_size': _EPOCHS,
    'optimizer': _PLATEAU,
    'learning_rate': _PRETRAINING,
    'schedule': _PLATEAU,
    'ridge': _HELD_OUT,
    'loss': _HELD_OUT,
    'label_coding': Seen(
      'test_another_coding_of_labels_than_the_caches_is_refused'
    ),
    'clip_norm': Seen('test_a_large_gradient_is_clipped'),
    'jitter': Seen('test_sets_move_with_their_starts_anew_at_each_step'),
    'num_subsets': Seen('test_too_few_subsets_are_refused'),
    'bank_networks': _BANKS,
    'bank_renewal': _BANKS,
    'bank_images': Seen('test_all_images_of_a_class_serve_at_most'),
    'heldout_subsets': _PRETRAINING,
    'heldout_networks': _HELD_OUT,
    'eval_every': _PRETRAINING,
    'patience': Seen('test_plateau'),
    'networks_per_call': _LITERAL,
    'theta_seed': Seen(
      'test_another_network_data_or_theta_is_named_and_refused'
    ),
    'seed': _EPOCHS,
  },
  'AdaptationConfig': {
    **dict.fromkeys(_STEPS, _HANDED_ON),
    **_STAGE,
    'num_steps': _HANDED_ON,
    'adapt_ipcs': Seen('test_adaptation_takes_all_ipcs_in_a_random_order'),
    'num_starts': Seen(
      'test_sets_of_other_starts_differ_and_reach_the_adaptation'
    ),
    'thinned': Seen(
      'test_thinned_sets_have_fewer_images_of_each_class_and_others_each_time'
    ),
    'num_adaptation_steps': Seen(
      'test_without_adaptation_a_set_is_translated_once'
    ),
    'batch_size': Seen('test_adaptation_takes_all_ipcs_in_a_random_order'),
    'adaptation_learning_rate': Seen(
      'test_adaptation_ends_by_an_update_that_is_not_finite'
    ),
    'adaptation_schedule': Seen(
      'test_the_schedule_of_adaptation_reaches_its_steps'
    ),
    'network_pool': Seen(
      'test_the_pool_of_adaptation_is_visited_whole_in_each_round'
    ),
    'real_batch': Seen(
      'test_fresh_networks_of_adaptation_are_new_for_each_sample'
    ),
    'fit_labels': Seen('test_labels_are_fitted_in_the_pool_after_translation'),
    'label_images': Seen('test_labels_of_few_real_images_need_no_statistics'),
    'finishing_steps': Seen(
      'test_direct_steps_go_on_from_the_translated_set_in_the_pool'
    ),
    'finishing_learning_rate': Seen(
      'test_direct_steps_go_on_from_the_translated_set_in_the_pool'
    ),
    'networks_per_call': _LITERAL,
    'short_classes': _HANDED_ON,
    'jitter': _HANDED_ON,
    'seed': _HANDED_ON,
  },
  'LabelConfig': {
    'label_networks': Seen('test_labels_are_fitted_after_any_method'),
    'label_images': Seen('test_each_setting_of_relabel_reaches_the_labels'),
  },
  'FrepoConfig': {
    'pool_size': _FREPO,
    'max_online_updates': _FREPO,
    'online_learning_rate': _BY_HAND,
    'mirror': _BY_HAND,
    'margin': _BY_HAND,
  },
  'RfadConfig': dict.fromkeys(
    ('networks_per_step', 'platt', 'platt_learning_rate', 'map_learning_rate'),
    _RFAD,
  ),
  'RcigConfig': {
    **dict.fromkeys(
      (
        *('pool_size', 'max_online_updates', 'online_learning_rate'),
        *('most_online_steps', 'mirror', 'platt_learning_rate'),
        *('ridge_per_image', 'solver', 'num_inner_steps', 'num_hessian_steps'),
        *('inner_learning_rate', 'hessian_learning_rate', 'softplus'),
        'average',
      ),
      _RCIG,
    ),
    'margin': Seen('test_the_margin_changes_labels'),
  },
  'KipConfig': {
    'kernel': Seen('test_kips_loss_is_that_of_features_with_the_same_kernel')
  },
}
RUNS = {
  'DataConfig': _DISTILL,
  'NetworkConfig': _DISTILL,
  'DistillationConfig': _DISTILL,
  'CachingConfig': _CACHE,
  'BilevelConfig': _BILEVEL,
}
