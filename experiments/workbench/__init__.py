"""What the binaries share: flags, methods by name, tasks, curves."""
