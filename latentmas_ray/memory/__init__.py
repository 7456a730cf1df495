"""Working memory as data: segments and their recompute inputs, RoPE re-rotation and merge, wire format and files.

Needs torch, and neither transformers nor Ray.
"""

from latentmas_ray.memory.chunk import SegmentChunk, join, join_recompute_inputs, repeat
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVLayout, KVSource, QuestionKV
from latentmas_ray.memory.layer_spec import LayerSpec, RopeSpec, TensorSpec, rotate_keys
from latentmas_ray.memory.memory_segment import MemorySegment
from latentmas_ray.memory.merge import MergedLayout, PlacedSegment, merge_layout
from latentmas_ray.memory.segment import LATENT, RecomputeInputs, Segment, SegmentMeta
from latentmas_ray.memory.spec import KVCacheSpec, TPRank
from latentmas_ray.memory.working_memory import Memory

__all__ = [
    "LATENT",
    "CodecStats",
    "InMemoryKV",
    "KVCacheSpec",
    "KVLayout",
    "KVSource",
    "LayerSpec",
    "Memory",
    "MemorySegment",
    "MergedLayout",
    "PlacedSegment",
    "QuestionKV",
    "RecomputeInputs",
    "RopeSpec",
    "Segment",
    "SegmentChunk",
    "SegmentMeta",
    "TPRank",
    "TensorSpec",
    "join",
    "join_recompute_inputs",
    "merge_layout",
    "repeat",
    "rotate_keys",
]
