"""How much attention each slot gets, for the choice of what an agent hands over.

Dimensions: L layers, B rows, N new tokens, Q query heads, H KV heads, S slots of a row, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentmas_ray.models.attention.packing import Packing
from latentmas_ray.models.attention.weights import ScoreRule

_MASS_TOKENS = 128  # whose attention is in memory at a time, when it is added up


class AttentionMass:
    """Adds up how much attention new tokens pay to each slot of their rows, in each layer (`BatchCache.watched`).

    m[l, b, s] = Σ_i Σ_q softmax_j(q_liq · k_lj / √D)[s]², over the tokens i of row b that lie in slots `first_slots[b]`
    or later, and the query heads q of this rank. The softmax is the one of the forward: causal, over the slots of the
    row within the layer's window, in float32, with its soft cap and its sinks. Squares, so that a head that looks at
    one token counts more than one that looks everywhere.
    """

    def __init__(self, first_slots: Sequence[int]) -> None:
        self._first_slots = list(first_slots)
        self._layers: dict[int, Tensor] = {}  # [B, S], S grows

    def add(self, layer: int, query: Tensor, key: Tensor, packing: Packing, rule: ScoreRule) -> None:
        """Add a forward's attention in one layer: queries [1, Q, N, D] of the new tokens, keys [B, H, slots, D]."""
        sums_BS = self._layers.get(layer)
        if sums_BS is None or sums_BS.shape[1] < packing.num_visible:
            grown_BS = torch.zeros(len(packing.starts), packing.num_visible, device=query.device)
            if sums_BS is not None:
                grown_BS[:, : sums_BS.shape[1]] = sums_BS
            sums_BS = self._layers[layer] = grown_BS
        window, positions_BS = packing.window(layer)
        for call in packing.calls:
            for index, start in enumerate(call.starts):
                row = call.first_row + index
                skipped = max(0, self._first_slots[row] - start)
                if skipped < call.count:
                    first, stop = call.first_token + index * call.count + skipped, start + call.count
                    queries_QND = query[0, :, first : first + call.count - skipped]
                    # Without a window slots serve as positions, and none is too far away.
                    positions_S = torch.arange(stop) if positions_BS is None else positions_BS[row, :stop]
                    sums_BS[row, :stop] += _attention_paid(
                        queries_QND, key[row, :, :stop], rule, positions_S.to(key.device), window
                    )

    def of_slots(self, row: int, first: int, count: int) -> Tensor:
        """The sums of one row's slots [first, first + count), [L, count], on the CPU."""
        layers = [self._layers[layer][row, first : first + count].cpu() for layer in sorted(self._layers)]
        return torch.stack(layers) if layers else torch.zeros(1, count)


def _attention_paid(
    query_QND: Tensor, key_HSD: Tensor, rule: ScoreRule, positions_S: Tensor, window: int | None
) -> Tensor:
    """The squared attention that a row's last N tokens pay to each of its slots, summed over tokens and heads, [S]."""
    num_heads, num_slots, head_dim = key_HSD.shape
    num_queries, num_tokens, _ = query_QND.shape
    slots_S = torch.arange(num_slots, device=key_HSD.device)
    paid_S = torch.zeros(num_slots, device=key_HSD.device)
    first = num_slots - num_tokens
    for block_QND in query_QND.split(_MASS_TOKENS, dim=1):
        count = block_QND.shape[1]
        queries = block_QND.reshape(1, num_heads, num_queries // num_heads * count, head_dim)
        hidden_NS = slots_S > slots_S[first : first + count, None]
        if window is not None:
            hidden_NS = hidden_NS | (positions_S <= positions_S[first : first + count, None] - window)
        mask_NS = torch.zeros(hidden_NS.shape, device=key_HSD.device).masked_fill_(hidden_NS, -torch.inf)
        mask = mask_NS.repeat(num_queries // num_heads, 1)
        weights = rule.weights(queries, key_HSD[None], mask, rule.column(num_heads, count))
        paid_S += weights.square().sum((0, 1, 2))
        first += count
    return paid_S
