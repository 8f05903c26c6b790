"""Benchmarks, each a command."""
