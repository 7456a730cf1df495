"""Training studies of the embedded model: see `docs/training.md`."""
