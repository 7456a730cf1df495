"""The figures of benchmarks on the terminal."""
