"""What benchmarks measure, and how: calls timed in turn, programs, costs."""
