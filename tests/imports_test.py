"""What `import fsdd_jax` leaves alone until it is used."""

import subprocess
import sys

# Slow to import, and most programs use none of them.
_LATER = {
  *('grain', 'matplotlib', 'neural_tangents', 'orbax.checkpoint', 'sklearn'),
  *('tensorflow', 'tensorflow_datasets'),
}


def test_slow_packages_are_imported_when_first_used():
  program = f'import sys, fsdd_jax; print(*({_LATER} & sys.modules.keys()))'
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.split() == []
