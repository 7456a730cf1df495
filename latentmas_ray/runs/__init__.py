"""The records of a run: answers, failures, journal, summary, traces."""
