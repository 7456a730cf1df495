"""Working memory as data: segments and their recipes, RoPE re-rotation and merge, wire format and files.

Needs torch, and neither transformers nor Ray.
"""

from latentmas_ray.memory.files import load_segment, save_segment
from latentmas_ray.memory.merge import PlacedSegment, Placement, place
from latentmas_ray.memory.piece import Outline, Piece, join, join_recipes
from latentmas_ray.memory.rope import rotate_keys
from latentmas_ray.memory.segment import LATENT, Recipe, Segment, concatenate
from latentmas_ray.memory.spec import KVCacheSpec, RopeSpec, Shard

__all__ = [
    "LATENT",
    "KVCacheSpec",
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
    "load_segment",
    "place",
    "rotate_keys",
    "save_segment",
]
