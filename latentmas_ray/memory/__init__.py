"""Working memory as data: segments and their recipes, RoPE re-rotation and merge, wire format and files.

Needs torch, and neither transformers nor Ray.
"""

from latentmas_ray.memory.memory_segment import MemorySegment
from latentmas_ray.memory.merge import PlacedSegment, Placement, place
from latentmas_ray.memory.piece import Outline, Piece, join, join_recipes, repeat
from latentmas_ray.memory.rope import rotate_keys
from latentmas_ray.memory.segment import LATENT, Recipe, Segment, concatenate
from latentmas_ray.memory.spec import KVCacheSpec, RopeSpec, Shard
from latentmas_ray.memory.working_memory import Memory

__all__ = [
    "LATENT",
    "KVCacheSpec",
    "Memory",
    "MemorySegment",
    "Outline",
    "Piece",
    "PlacedSegment",
    "Placement",
    "Recipe",
    "RopeSpec",
    "Segment",
    "Shard",
    "concatenate",
    "join",
    "join_recipes",
    "place",
    "repeat",
    "rotate_keys",
]
