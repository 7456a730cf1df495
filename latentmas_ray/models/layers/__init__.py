"""The layers of an engine's cache, and what a model caches in each.

slots     the slots of one layer's tensors, written in place
shapes    a probe of the tensors that each layer of a model caches
"""

from latentmas_ray.models.layers.shapes import cached_tensors
from latentmas_ray.models.layers.slots import SlotLayer

__all__ = ["SlotLayer", "cached_tensors"]
