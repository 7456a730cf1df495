"""Attention over the engine's cache for packed rows, as one of transformers' attention functions.

A forward of the engine takes the new tokens of all questions one after another, [1, N, …]: linear layers compute no
padding. Only attention separates rows, and it reads each row's keys in the cache without a copy.

Dimensions: L layers, N new tokens of all rows, B rows, Q query heads, H KV heads, G = Q / H, T new tokens of a row, S
visible tokens of a row, D head dim.
"""

import sys
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "latentmas_packed"
_MASS_TOKENS = 128  # whose attention is in memory at a time, when it is added up


class AttentionCall:
    """Neighbouring rows whose attention is one call: rows with one new token each, or one row with any number.

    Row `first_row` + r has `starts[r]` tokens, and `count` new ones follow them. The new tokens of the rows are those
    from `first_token` on.
    """

    def __init__(self, first_row: int, first_token: int, starts: Sequence[int], count: int) -> None:
        self.first_row, self.first_token, self.starts, self.count = first_row, first_token, list(starts), count
        self.num_visible = max(starts) + count
        self.is_even = len(set(starts)) == 1  # then a step needs no mask
        self.rows = slice(first_row, first_row + len(starts))
        self.tokens = slice(first_token, first_token + len(starts) * count)
        # Masks and indices serve every layer, so they are made once per device.
        self._slots: dict[tuple[torch.device, torch.Size], Tensor] = {}
        self._mask: dict[torch.device, Tensor] = {}

    @property
    def num_rows(self) -> int:
        return len(self.starts)

    def slots(self, kv_CBHTD: Tensor) -> Tensor:
        """Where single tokens go, [C·H·N]: keys before values, head by head, as indices of `kv_CBHTD` [C·B·H·T, D]."""
        key = (kv_CBHTD.device, kv_CBHTD.shape)  # layers have different shapes after a resize that failed
        if key not in self._slots:
            num_kinds, num_rows, num_heads, num_slots, _ = kv_CBHTD.shape
            kinds_C11 = torch.arange(num_kinds)[:, None, None] * num_rows
            rows_N = torch.arange(self.rows.start, self.rows.stop)
            heads_H1 = torch.arange(num_heads)[:, None]
            slots_CHN = ((kinds_C11 + rows_N) * num_heads + heads_H1) * num_slots + torch.tensor(self.starts)
            self._slots[key] = slots_CHN.flatten().to(kv_CBHTD.device)
        return self._slots[key]

    def single_tokens(self) -> list["AttentionCall"]:
        """A call for each of a row's tokens."""
        return [
            AttentionCall(self.first_row, self.tokens.start + index, [self.starts[0] + index], 1)
            for index in range(self.count)
        ]

    def mask(self, num_groups: int, like: Tensor) -> Tensor | None:
        """The additive mask: of single tokens [B, 1, 1, S], or the causal one of a row's tokens [G·T, S]; None if every
        token sees all slots."""
        if self.count == 1 and self.is_even:
            return None
        if like.device not in self._mask:
            slots = torch.arange(self.num_visible, device=like.device)
            if self.num_rows > 1:
                hidden = slots > torch.tensor(self.starts, device=like.device)[:, None]
                self._mask[like.device] = _additive(hidden, like)[:, None, None]
            else:
                hidden = slots > torch.arange(self.starts[0], self.num_visible, device=like.device)[:, None]
                self._mask[like.device] = _additive(hidden, like).repeat(num_groups, 1)
        return self._mask[like.device]


class Packing:
    """The rows of one forward's new tokens: `counts[b]` tokens follow row b's first `starts[b]` tokens.

    Rows with one new token share a call of attention, which reads all of them to the end of the longest. With
    `max_padding` a row that would add more slots than that to what the call reads in vain begins another call.
    """

    def __init__(self, starts: Sequence[int], counts: Sequence[int], max_padding: int | None = None) -> None:
        self.starts, self.counts = list(starts), list(counts)
        self.num_visible = max((start + count for start, count in zip(starts, counts, strict=True)), default=0)
        self.mass: AttentionMass | None = None  # gets the attention of this forward's tokens
        self.calls = _divide(self.starts, self.counts, sys.maxsize if max_padding is None else max_padding)

    def of_call(self, call: AttentionCall) -> "Packing":
        """The packing of a forward over one call's tokens alone."""
        alone = copy(self)
        alone.calls = [AttentionCall(call.first_row, 0, call.starts, call.count)]
        alone.num_visible = call.num_visible
        return alone


class AttentionMass:
    """Adds up how much attention new tokens pay to each slot of their rows, in each layer (`BatchCache.watched`).

    m[l, b, s] = Σ_i Σ_q softmax_j(q_liq · k_lj / √D)[s]², over the tokens i of row b that lie in slots `first_slots[b]`
    or later, and the query heads q of this rank. The softmax is the one of the forward: causal, over all slots of the
    row, in float32. Squares, so that a head that looks at one token counts more than one that looks everywhere.
    """

    def __init__(self, first_slots: Sequence[int]) -> None:
        self._first_slots = list(first_slots)
        self._layers: dict[int, Tensor] = {}  # [B, S], S grows

    def add(self, layer: int, query: Tensor, key: Tensor, packing: Packing, scaling: float | None) -> None:
        """Add a forward's attention in one layer: queries [1, Q, N, D] of the new tokens, keys [B, H, slots, D]."""
        sums_BS = self._layers.get(layer)
        if sums_BS is None or sums_BS.shape[1] < packing.num_visible:
            grown_BS = torch.zeros(len(packing.starts), packing.num_visible, device=query.device)
            if sums_BS is not None:
                grown_BS[:, : sums_BS.shape[1]] = sums_BS
            sums_BS = self._layers[layer] = grown_BS
        for call in packing.calls:
            for index, start in enumerate(call.starts):
                row = call.first_row + index
                skipped = max(0, self._first_slots[row] - start)
                if skipped < call.count:
                    first, stop = call.first_token + index * call.count + skipped, start + call.count
                    queries_QND = query[0, :, first : first + call.count - skipped]
                    sums_BS[row, :stop] += _attention_paid(queries_QND, key[row, :, :stop], scaling)

    def of_slots(self, row: int, first: int, count: int) -> Tensor:
        """The sums of one row's slots [first, first + count), [L, count], on the CPU."""
        layers = [self._layers[layer][row, first : first + count].cpu() for layer in sorted(self._layers)]
        return torch.stack(layers) if layers else torch.zeros(1, count)


def _attention_paid(query_QND: Tensor, key_HSD: Tensor, scaling: float | None) -> Tensor:
    """The squared attention that a row's last N tokens pay to each of its slots, summed over tokens and heads, [S]."""
    num_heads, num_slots, head_dim = key_HSD.shape
    num_queries, num_tokens, _ = query_QND.shape
    keys_HDS = key_HSD.float().transpose(1, 2)
    slots_S = torch.arange(num_slots, device=key_HSD.device)
    paid_S = torch.zeros(num_slots, device=key_HSD.device)
    first = num_slots - num_tokens
    for block_QND in query_QND.float().split(_MASS_TOKENS, dim=1):
        count = block_QND.shape[1]
        queries = block_QND.reshape(num_heads, num_queries // num_heads * count, head_dim)
        scores = queries @ keys_HDS * (head_dim**-0.5 if scaling is None else scaling)
        hidden_NS = slots_S > slots_S[first : first + count, None]
        paid_S += (
            scores.view(num_queries, count, num_slots)
            .masked_fill(hidden_NS, -torch.inf)
            .softmax(-1)
            .square()
            .sum((0, 1))
        )
        first += count
    return paid_S


def _divide(starts: Sequence[int], counts: Sequence[int], max_padding: int) -> list[AttentionCall]:
    """Divide rows into calls; rows without a new token are in none."""
    calls: list[AttentionCall] = []
    first_token = row = 0
    while row < len(counts):
        stop = row + 1
        if counts[row] == 1:
            longest = starts[row]
            while stop < len(counts) and counts[stop] == 1:
                start = starts[stop]
                if max(longest - start, (start - longest) * (stop - row)) > max_padding:
                    break
                longest = max(longest, start)
                stop += 1
        if counts[row]:
            calls.append(AttentionCall(row, first_token, starts[row:stop], counts[row]))
        first_token += sum(counts[row:stop])
        row = stop
    return calls


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
    """Attention of new tokens [1, Q, N, D] (or [N, Q, 1, D]) over the cache's rows [B, H, slots, D]; returns
    [1, N, Q, D] (or [N, 1, Q, D]).

    Without `packing`, outside of an engine, it is transformers' `sdpa`.
    """
    if packing is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    if query.shape[0] > 1:  # single tokens of several rows, of a model whose layers keep states
        query = query.transpose(0, 2)
        out_1NQD, _ = packed_attention(module, query, key, value, attention_mask, scaling, packing)
        return out_1NQD.transpose(0, 1), None
    if packing.mass is not None:
        packing.mass.add(module.layer_idx, query, key, packing, scaling)  # type: ignore[arg-type]  # an int
    if len(packing.calls) == 1:
        return _attend(query, key, value, packing.calls[0], scaling)[None], None
    out_NQD = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    for call in packing.calls:
        out_NQD[call.tokens] = _attend(query, key, value, call, scaling)
    return out_NQD[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor, call: AttentionCall, scaling: float | None) -> Tensor:
    """Attention of one call's tokens, [N, Q, D].

    The G query heads of a KV head become additional queries of it: no key or value is copied.
    """
    num_kv_heads, num_groups = key.shape[1], query.shape[1] // key.shape[1]
    query_QND = query[0, :, call.tokens]
    if call.num_rows > 1:
        queries = query_QND.transpose(0, 1).unflatten(1, (num_kv_heads, num_groups))  # [B, H, G, D]
    else:
        queries = query_QND.reshape(1, num_kv_heads, num_groups * call.count, -1)  # [1, H, G·T, D]
    out = scaled_dot_product_attention(
        queries,
        key[call.rows, :, : call.num_visible],
        value[call.rows, :, : call.num_visible],
        call.mask(num_groups, query),
        scale=scaling,
    )
    if call.num_rows > 1:
        return out.flatten(1, 2)
    return out.reshape(*query_QND.shape[:2], value.shape[3]).transpose(0, 1)  # values may have other dims than keys


AttentionInterface.register(NAME, packed_attention)
# Outside of an engine the masks are those of `sdpa`. An engine's forward passes its own, see `LanguageModel`.
AttentionMaskInterface.register(NAME, sdpa_mask)
