"""A probe of what a model caches in each layer: the shapes of its tensors, and which of them depend on positions.

One token is fed at two positions, into the cache that the model makes for itself. A single token attends to itself
alone, so whatever differs between the two depends on the position: a rotated key, or the rotary part of a latent
attention's key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from latentmas_ray.errors import ModelError
from latentmas_ray.models.layers.states import STATE_KINDS, state_name

_POSITIONS = (0, 37)


@dataclass(frozen=True)
class CachedTensor:
    """One tensor that a layer caches, [H, T, D] per question."""

    num_heads: int
    head_dim: int
    dtype: torch.dtype
    moves: bool  # whether its numbers depend on the position


@dataclass(frozen=True)
class CachedState:
    """A state that a layer keeps for each question."""

    name: str
    dims: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class CachedLayer:
    """What one layer caches: nothing, where it reads another layer's."""

    tensors: tuple[CachedTensor, ...]  # in the order in which its attention hands them over
    states: tuple[CachedState, ...]
    has_indexer: bool  # whether it also caches keys by which it chooses the tokens that it attends to


def cached_layers(decoder: nn.Module, device: torch.device, token: int, name: str) -> list[CachedLayer]:
    """Return what each layer of the decoder of model `name` caches. Runs two forwards over one token, which should be
    an ordinary one: those that were never trained may overflow. Raises ModelError for a model with a cache of its own
    kind, and what a forward raises."""
    first, moved = (_run(decoder, device, token, position, name) for position in _POSITIONS)
    return [_compare(layer, other) for layer, other in zip(first, moved, strict=True)]


def _run(decoder: nn.Module, device: torch.device, token: int, position: int, name: str) -> Sequence[Any]:
    """The layers of the cache after one token."""
    inputs = {"input_ids": token, "position_ids": position}
    given = {key: torch.tensor([[value]], device=device) for key, value in inputs.items()}
    cache = getattr(decoder(**given, use_cache=True), "past_key_values", None)
    if cache is None and isinstance(decoder, PreTrainedModel):  # some make none themselves
        cache = DynamicCache(config=decoder.config.get_text_config(decoder=True))
        decoder(**given, use_cache=True, past_key_values=cache)
    if isinstance(cache, DynamicCache) and type(cache) is not DynamicCache:
        expected = "what its layers keep must be in the cache that transformers has for all models"
        raise ModelError("model", name, f"{expected}; {type(decoder).__name__} has its own, {type(cache).__name__}")
    layers: Sequence[Any] = getattr(cache, "layers", ())
    return layers


def _compare(layer: Any, other: Any) -> CachedLayer:
    tensors = tuple(
        CachedTensor(one.shape[1], one.shape[3], one.dtype, _differ(one, another))
        for one, another in zip(_tensors(layer), _tensors(other), strict=True)
    )
    states = tuple(
        CachedState(state_name(kind, number), tuple(state.shape[1:]), state.dtype)
        for kind in STATE_KINDS
        for number, state in getattr(layer, f"{kind}_states", {}).items()
        if state is not None
    )
    return CachedLayer(tensors, states, hasattr(layer, "update_indexer"))


def _tensors(layer: Any) -> list[Tensor]:
    """The keys and values of one layer of a cache, or what stands in their place."""
    return [tensor for name in ("keys", "values") if (tensor := getattr(layer, name, None)) is not None]


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by more than rounding."""
    return not torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-5)
