"""Thoughts that are means of token embeddings, weighted by what the model would say next.

Dimensions: N thoughts, E hidden size, V vocabulary, K likeliest tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.thoughts.base import ThoughtKey, ThoughtRule, to_norm

_CHUNK = 64  # thoughts at a time: bounds their logits


class SoftRule(ThoughtRule):
    """h → Σ_k p_k E_in[v_k] over the `top_k` likeliest next tokens v_k, p = softmax(z / temperature) of their logits z
    (Soft Thinking, arXiv 2505.15778, which does not rescale it).

    The logits are the model's own, with its scaling and soft cap, so each call projects to the vocabulary. E_in is
    scaled as the model feeds it. `top_k` 1 feeds the likeliest token: text without its words.
    """

    def __init__(
        self, lm: LanguageModel, target_norm: float, *, temperature: float, top_k: int, rescales: bool = True
    ) -> None:
        self.target_norm, self.rescales = target_norm, rescales
        self._lm, self._temperature, self._top_k = lm, temperature, top_k

    def map(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        parts = [self._mean(chunk_NE) for chunk_NE in hidden_NE.flatten(0, -2).split(_CHUNK)]
        return torch.cat(parts).view(hidden_NE.shape)

    def _mean(self, hidden_NE: Tensor) -> Tensor:
        logits_NV = self._lm.logits(hidden_NE)[:, : self._lm.num_embeddings]
        top = logits_NV.topk(min(self._top_k, logits_NV.shape[-1]), dim=-1)
        weights_NK = torch.softmax(top.values.double() / self._temperature, dim=-1)
        # The logits of ranks may differ in the last bit, but all must look up the same tokens.
        ids_NK, weights_NK = self._lm.ranks.broadcast(torch.stack([top.indices.double(), weights_NK]))
        embeds_NKE = self._lm.embed(ids_NK.long()).float()
        mean_NE: Tensor = (weights_NK.to(embeds_NKE).unsqueeze(-1) * embeds_NKE).sum(dim=-2)
        return mean_NE


class BlendRule(ThoughtRule):
    """h → w h / ‖h‖ + (1 − w) s / ‖s‖, times the mean norm of the input embeddings, s the mean of `soft`.

    s is what the model would say, and loses all of h that no token stands for; the part w h keeps this residual. With
    w = 1 it is the direction of the hidden state itself, as in Coconut (arXiv 2412.06769, which feeds h as it is to a
    model that was trained for it), and with w = 0 the rule `soft`. Both parts have the same length before they are
    weighted: in models that were not trained for it h is many times as long as an embedding.
    """

    rescales = True

    def __init__(self, soft: SoftRule, *, weight: float) -> None:
        self.target_norm = soft.target_norm
        self._soft, self._weight = soft, weight

    def map(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        said_NE = to_norm(self._soft.map(hidden_NE), self.target_norm)
        state_NE = to_norm(hidden_NE.float(), self.target_norm)
        return self._weight * state_NE + (1 - self._weight) * said_NE.to(state_NE.device)
