"""The layers of an engine's cache, and what a model caches in each.

slots     the slots of one layer's tensors, written in place
states    a layer that keeps states instead, or next to them
shapes    a probe of what each layer of a model caches
"""

from collections.abc import Callable

import torch

from latentmas_ray.memory import LayerSpec
from latentmas_ray.models.layers.shapes import CachedLayer, cached_layers
from latentmas_ray.models.layers.slots import SlotLayer, Zeros
from latentmas_ray.models.layers.states import StateAndSlotLayer, StateLayer

__all__ = ["CacheLayer", "CachedLayer", "SlotLayer", "StateAndSlotLayer", "StateLayer", "cached_layers", "make_layer"]

CacheLayer = SlotLayer | StateLayer | StateAndSlotLayer


def make_layer(spec: LayerSpec, num_rows: int, num_slots: int, zeros: Zeros, device: torch.device) -> CacheLayer:
    """Return the layer of a cache for what `spec` says, with `num_rows` × `num_slots` reserved by `zeros`."""
    has_slots = any(tensor.state_dims is None for tensor in spec.tensors) or not spec.tensors
    kind: Callable[..., CacheLayer] = SlotLayer
    if spec.state_bytes:
        kind = StateAndSlotLayer if has_slots else StateLayer
    return kind(spec, num_rows, num_slots, zeros, device)
