"""Measurements of the project itself, run from a checkout: `python -m benchmarks --help`. Not part of the package."""
