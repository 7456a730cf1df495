"""Finds actors and nodes that died, hang or are silent."""
