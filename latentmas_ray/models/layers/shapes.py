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

_POSITIONS = (0, 37)
_TOKEN = 1


@dataclass(frozen=True)
class CachedTensor:
    """One tensor that a layer caches, [H, T, D] per question."""

    num_heads: int
    head_dim: int
    dtype: torch.dtype
    moves: bool  # whether its numbers depend on the position


def cached_tensors(decoder: nn.Module, device: torch.device) -> list[tuple[CachedTensor, ...]]:
    """Return the tensors that each layer of a decoder caches, in the order in which its attention hands them over; none
    for a layer that reads another layer's. Runs two forwards over one token."""
    first, moved = (_run(decoder, device, position) for position in _POSITIONS)
    return [
        tuple(
            CachedTensor(one.shape[1], one.shape[3], one.dtype, _differ(one, other))
            for one, other in zip(_tensors(layer), _tensors(other_layer), strict=True)
        )
        for layer, other_layer in zip(first, moved, strict=True)
    ]


def _run(decoder: nn.Module, device: torch.device, position: int) -> Sequence[Any]:
    """The layers of the cache after one token."""
    output = decoder(
        input_ids=torch.tensor([[_TOKEN]], device=device),
        position_ids=torch.tensor([[position]], device=device),
        use_cache=True,
    )
    cache = getattr(output, "past_key_values", None)
    layers: Sequence[Any] = getattr(cache, "layers", ())
    return layers


def _tensors(layer: Any) -> list[Tensor]:
    """The keys and values of one layer of a cache, or what stands in their place."""
    return [tensor for name in ("keys", "values") if (tensor := getattr(layer, name, None)) is not None]


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by more than rounding."""
    return not torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-5)
