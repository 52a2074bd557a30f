"""Benchmark of the LED kernels: ``python -m benchmarks.kernels --help``."""
