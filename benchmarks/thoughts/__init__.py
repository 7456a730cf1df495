"""`python -m benchmarks thoughts`: thought rules, numbers of steps and memory controls, on the same questions."""
