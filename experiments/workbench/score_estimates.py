"""Seconds and memory of scores, by a few timed calls."""

from fsdd_jax.algorithms.configs import DataConfig, NetworkConfig
from fsdd_jax.evaluation import trainings
from measures import costs, programs
from measures.costs import NOTHING, Estimate, real_pass
from workbench import config_flags, shapes
from workbench.tasks import Task

_TRAINED = {'frepo': trainings.frepo_training, 'dc': trainings.dc_training}


def of_scores(task: Task, ipc: int, *, protocol: str, repeats: int) -> Estimate:
  """What scoring a set takes, without augmentation.

  Args:
    task: that makes the set.
    ipc: its images per class.
    protocol: a name in `protocols.FITS`.
    repeats: fresh networks.

  Returns:
    Seconds and bytes on this device.
  """
  data, network = config_flags.parse(task.arguments, DataConfig, NetworkConfig)
  problem = shapes.problem_of(data, network, split='test')
  num_images = ipc * problem.num_classes
  fit = NOTHING
  if protocol in _TRAINED:
    training = _TRAINED[protocol]()
    size = min(num_images, training.max_batch)
    fit = costs.of(programs.training_step, problem, size)
    fit = fit.times(training.num_steps(num_images, size))
  return fit.then(real_pass(problem)).times(repeats)
