"""Attention over the engine's cache for packed rows, as one of transformers' attention functions.

A forward of the engine takes the new tokens of all questions one after another, [1, N, …]: linear layers compute no
padding. Only attention separates rows, and it reads each row's keys in the cache without a copy.
"""

from latentmas_ray.models.attention.forward import NAME
from latentmas_ray.models.attention.mass import AttentionMass
from latentmas_ray.models.attention.packing import AttentionCall, Packing, SlotPositions, packed
from latentmas_ray.models.attention.recorder import NotedCache, Recorder, recording

__all__ = [
    "NAME",
    "AttentionCall",
    "AttentionMass",
    "NotedCache",
    "Packing",
    "Recorder",
    "SlotPositions",
    "packed",
    "recording",
]
