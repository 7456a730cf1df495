"""Segments over TCP, and through shared memory within a node."""
