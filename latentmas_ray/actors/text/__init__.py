"""Actors and replicas of agents that write text, for the questions of several turns at the same time."""
