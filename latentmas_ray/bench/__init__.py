"""Benchmarks for users, each against a reference that is measured in the same run."""
