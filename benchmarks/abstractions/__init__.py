"""`python -m benchmarks abstractions`: what hints are worth, as text and as memory, over their number."""
