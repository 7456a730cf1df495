"""`python -m benchmarks errors`: how often answers adopt what one agent was told wrongly, over a chain's length."""
