"""How a test of the compiled program compiles it: as users do.

conftest.py has all others compiled without optimisation.
"""

OPTIONS_OF_USERS = {
  'xla_backend_optimization_level': 3,
  'xla_llvm_disable_expensive_passes': False,
}
