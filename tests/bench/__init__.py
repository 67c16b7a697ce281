"""Benchmarks: each workload beside the least that any tool could do for it. Run with ``python -m tests.bench``."""
