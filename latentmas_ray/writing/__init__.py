"""Writes the texts of text agents, for the questions of several turns at the same time."""
