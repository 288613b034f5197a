"""Benchmarks: `python -m tests.benchmarks.NAME`. Each warms up, takes turns, keeps medians and prints ratios."""
