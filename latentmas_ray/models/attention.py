"""Attention over the engine's cache for packed rows, as one of transformers' attention functions.

A forward of the engine takes the new tokens of all questions one after another, [1, N, …]: linear layers compute no
padding. Only attention separates rows, and it reads each row's keys in the cache without a copy.

Dimensions: N new tokens of all rows, B rows, Q query heads, H KV heads, G = Q / H, T new tokens of a row, S visible
tokens of a row, D head dim.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "latentmas_packed"


class Packing:
    """The rows of one forward's new tokens: `counts[b]` tokens follow row b's first `starts[b]` tokens."""

    def __init__(self, starts: Sequence[int], counts: Sequence[int]) -> None:
        self.starts, self.counts = list(starts), list(counts)
        self.is_single = all(count == 1 for count in counts)  # a latent step or a decoded token of every row
        self.num_visible = max((start + count for start, count in zip(starts, counts, strict=True)), default=0)
        # Masks and indices serve every layer, so they are made once per device.
        self._slots: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._row_mask: dict[tuple[int, torch.device], Tensor] = {}
        self._step_mask: dict[torch.device, Tensor] = {}

    @property
    def is_even(self) -> bool:
        """Whether all rows have the same length, so that a step needs no mask."""
        return len(set(self.starts)) == 1

    def slots(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and slot indices of single tokens, for one indexed write."""
        if device not in self._slots:
            self._slots[device] = (
                torch.arange(len(self.starts), device=device),
                torch.tensor(self.starts, device=device),
            )
        return self._slots[device]

    def step_mask(self, like: Tensor) -> Tensor | None:
        """The additive mask of single tokens, [B, 1, 1, S]; None if every row sees all slots."""
        if self.is_even:
            return None
        if like.device not in self._step_mask:
            slots = torch.arange(self.num_visible, device=like.device)
            hidden = slots > torch.tensor(self.starts, device=like.device)[:, None]
            self._step_mask[like.device] = _additive(hidden, like)[:, None, None]
        return self._step_mask[like.device]

    def row_mask(self, row: int, num_groups: int, like: Tensor) -> Tensor | None:
        """The additive causal mask of row `row`'s tokens, [G·T, S]; None for a single token."""
        start, count = self.starts[row], self.counts[row]
        if count == 1:
            return None
        key = (row, like.device)
        if key not in self._row_mask:
            slots = torch.arange(start + count, device=like.device)
            hidden = slots > torch.arange(start, start + count, device=like.device)[:, None]
            self._row_mask[key] = _additive(hidden, like).repeat(num_groups, 1)
        return self._row_mask[key]


def _additive(hidden: Tensor, like: Tensor) -> Tensor:
    """A float mask; a bool mask would be converted in every layer."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of new tokens [1, Q, N, D] over the cache's rows [B, H, slots, D]; returns [1, N, Q, D].

    Without `packing`, outside of an engine, it is transformers' `sdpa`.
    """
    if packing is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    # The G query heads of a KV head become additional queries of it: no key or value is copied.
    num_kv_heads, num_groups = key.shape[1], query.shape[1] // key.shape[1]
    if packing.is_single:
        query_BHGD = query[0].transpose(0, 1).unflatten(1, (num_kv_heads, num_groups))
        visible = slice(0, packing.num_visible)
        out_BHGD = scaled_dot_product_attention(
            query_BHGD, key[:, :, visible], value[:, :, visible], packing.step_mask(query), scale=scaling
        )
        return out_BHGD.flatten(1, 2)[None], None
    out_NQD = query.new_empty(query.shape[2], query.shape[1], query.shape[3])
    first = 0
    for row, (start, count) in enumerate(zip(packing.starts, packing.counts, strict=True)):
        if count == 0:
            continue
        query_QTD = query[0, :, first : first + count]
        out_HXD = scaled_dot_product_attention(
            query_QTD.reshape(1, num_kv_heads, num_groups * count, -1),
            key[row : row + 1, :, : start + count],
            value[row : row + 1, :, : start + count],
            packing.row_mask(row, num_groups, query),
            scale=scaling,
        )
        out_NQD[first : first + count] = out_HXD.reshape(query_QTD.shape).transpose(0, 1)
        first += count
    return out_NQD[None], None


AttentionInterface.register(NAME, packed_attention)
# Outside of an engine the masks are those of `sdpa`. An engine's forward passes its own, see `LanguageModel`.
AttentionMaskInterface.register(NAME, sdpa_mask)
