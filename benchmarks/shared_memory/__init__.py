"""Runs of teams whose latent agents read no other agent: their memory is computed once and serves many settings."""
