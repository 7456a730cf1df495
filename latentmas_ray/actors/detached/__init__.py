"""Actors that outlive a driver that was killed, for the next driver of the same run."""
