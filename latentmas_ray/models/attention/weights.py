"""Attention weights that `scaled_dot_product_attention` cannot compute: with a soft cap or with attention sinks.

Dimensions: R rows, Q query heads, H KV heads, G = Q / H, T tokens of a row, S slots, D head dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 512  # queries of one head whose weights are in memory at a time


@dataclass(slots=True, eq=False)  # not frozen: one is made in every layer of every step
class ScoreRule:
    """How a layer makes weights of scores s = q · k · `scaling` (1/√D for None).

    `softcap` c makes them c · tanh(s / c) (Gemma 2, arXiv 2408.00118, section 2). `sinks` [Q] are the scores of one
    more slot per query head, whose value is zero (GPT-OSS): they take a share of the softmax and nothing else.
    """

    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether `scaled_dot_product_attention` computes it."""
        return self.softcap is None and self.sinks is None

    def column(self, num_heads: int, count: int) -> Tensor | None:
        """The sinks' scores of G·T queries per KV head, `count` = T, [1, H, G·T, 1]; None without sinks."""
        if self.sinks is None:
            return None
        return self.sinks.float().view(num_heads, -1).repeat_interleave(count, dim=1)[None, :, :, None]

    def weights(self, queries: Tensor, keys_RHSD: Tensor, mask: Tensor | None, column: Tensor | None) -> Tensor:
        """The weights of queries [R, H, G·T, D] in float32, [R, H, G·T, S]. `mask` is added to the scores; `column` is
        that of these queries."""
        scaling = keys_RHSD.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        scores = queries.float() @ keys_RHSD.float().transpose(2, 3) * scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores + mask
        if column is None:
            return scores.softmax(-1)
        sinks = column.to(scores.device).expand(len(scores), -1, -1, -1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]

    def attend(
        self, queries: Tensor, keys_RHSD: Tensor, values_RHSD: Tensor, mask: Tensor | None, count: int
    ) -> Tensor:
        """Attention of queries [R, H, G·T, D], T = `count`, some of them at a time; like them."""
        parts = []
        column = self.column(keys_RHSD.shape[1], count)
        for first in range(0, queries.shape[2], _BLOCK):
            block = slice(first, first + _BLOCK)
            own_mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., block, :]
            own_column = None if column is None else column[:, :, block]
            weights = self.weights(queries[:, :, block], keys_RHSD, own_mask, own_column)
            parts.append(weights.to(values_RHSD.dtype) @ values_RHSD)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
