"""The tables of `latentmas vote`, and the votes on the questions of a run."""
