"""Tensor-parallel ranks: what the ranks of one replica do together, and the group of processes they are."""
