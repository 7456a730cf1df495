"""The attention function that transformers calls in every layer.

Dimensions: N new tokens of all rows, B rows, R rows of a call, Q query heads, H KV heads, G = Q / H, T new tokens of a
row, S visible tokens of a row, D head dim.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from latentmas_ray.models.attention.packing import AttentionCall, Packing, current
from latentmas_ray.models.attention.recorder import active, make_mask
from latentmas_ray.models.attention.weights import ScoreRule

NAME = "latentmas_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of new tokens [1, Q, N, D] (or [N, Q, 1, D]) over the cache's rows [B, H, slots, D]; returns
    [1, N, Q, D] (or [N, 1, Q, D]).

    `s_aux` are the sinks. `packing` is that of the forward (see `packed`); outside of an engine there is none, and it
    is transformers' `sdpa`, or what the family's own attention computes where that has a soft cap or sinks.
    """
    rule = ScoreRule(scaling, softcap, s_aux)
    packing = current() if packing is None else packing
    if packing is None:
        if (recorder := active()) is not None:
            recorder.called(module, attention_mask, kwargs)
        if not rule.is_plain:
            return _attend_whole(query, key, value, attention_mask, rule), None
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    if query.shape[0] > 1:  # single tokens of several rows, of a model whose layers keep states
        tokens = query.transpose(0, 2)
        out_1NQD, _ = packed_attention(module, tokens, key, value, attention_mask, scaling, softcap, s_aux, packing)
        return out_1NQD.transpose(0, 1), None
    layer = packing.layer_of(module)
    if packing.mass is not None:
        packing.mass.add(layer, query, key, packing, rule)
    window, positions_BS = packing.window(layer)
    if len(packing.calls) == 1:
        return _attend(query, key, value, packing.calls[0], rule, window, positions_BS)[None], None
    out_NQD = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    for call in packing.calls:
        out_NQD[call.tokens] = _attend(query, key, value, call, rule, window, positions_BS)
    return out_NQD[None], None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: AttentionCall,
    rule: ScoreRule,
    window: int | None,
    positions_BS: Tensor | None,
) -> Tensor:
    """Attention of one call's tokens, [N, Q, D].

    The G query heads of a KV head become additional queries of it: no key or value is copied.
    """
    num_kv_heads, num_groups = key.shape[1], query.shape[1] // key.shape[1]
    query_QND = query[0, :, call.tokens]
    if call.num_rows > 1:
        queries = query_QND.transpose(0, 1).unflatten(1, (num_kv_heads, num_groups))  # [R, H, G, D]
    else:
        queries = query_QND.reshape(1, num_kv_heads, num_groups * call.count, -1)  # [1, H, G·T, D]
    view = call.view(num_groups, query, window, positions_BS)
    keys = key[call.rows, :, view.first : call.num_visible]
    values = value[call.rows, :, view.first : call.num_visible]
    if rule.is_plain:
        out = scaled_dot_product_attention(queries, keys, values, view.mask, scale=rule.scaling)
    else:
        out = rule.attend(queries, keys, values, view.mask, call.count)
    if call.num_rows > 1:
        return out.flatten(1, 2)
    return out.reshape(query_QND.shape[0], call.count, -1).transpose(0, 1)  # values may have other dims than keys


def _attend_whole(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rule: ScoreRule) -> Tensor:
    """Attention outside of an engine: of queries [B, Q, T, D] over keys [B, H, S, D], as [B, T, Q, D]. Without a mask a
    token sees what is before it."""
    count, num_kv_heads = query.shape[2], key.shape[1]
    num_groups = query.shape[1] // num_kv_heads
    if mask is None:
        slots_S = torch.arange(key.shape[2], device=key.device)
        mask = (slots_S <= slots_S[-count:, None])[None, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
    mask = mask[..., : key.shape[2]].repeat(1, 1, num_groups, 1)
    queries = query.reshape(len(query), num_kv_heads, num_groups * count, -1)
    out = rule.attend(queries, key, value, mask, count)
    return out.reshape(*query.shape[:3], value.shape[3]).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, packed_attention)
# Outside of an engine the masks are those of `sdpa`. An engine's forward passes its own, see `LanguageModel`.
AttentionMaskInterface.register(NAME, make_mask)
