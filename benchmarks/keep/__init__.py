"""`python -m benchmarks keep`: accuracy, and what memory carries, over the bytes that are handed over."""
