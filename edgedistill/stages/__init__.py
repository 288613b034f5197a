"""Stages: one product verb a file. A stage is a function `run(out, params, **inputs)`: it reads finished inputs, writes under `out`, prints nothing."""
