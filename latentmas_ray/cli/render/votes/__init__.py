"""The tables of `latentmas vote`."""
