"""Replicas follow the cluster: they are added where nodes join, and leave nodes that are drained."""
