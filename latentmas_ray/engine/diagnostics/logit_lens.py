"""The logit lens: latent thoughts projected to the model's vocabulary, and their place among its input embeddings.

It does not change what a turn computes. With tensor parallelism every call is a collective step.

Dimensions: N thoughts, V vocabulary, E hidden size, K likeliest tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from latentmas_ray.engine.diagnostics.trace import EmbeddingMap, Thought
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.thoughts import ThoughtKey, ThoughtRule

NUM_TOKENS = 5  # likeliest next tokens that are stored per thought
NUM_SAMPLED = 1500  # tokens of the vocabulary that are plotted with the thoughts
_VOCABULARY_CHUNK = 16_384  # embeddings at a time: bounds their fp32 copies
_THOUGHT_CHUNK = 64  # thoughts at a time: bounds their logits
_MIN_NORM = 1e-12


@dataclass(frozen=True)
class ThoughtGeometry:
    """Norms and distances of thoughts relative to the input embeddings; on the CPU, in the order of the thoughts."""

    is_finite_N: Tensor  # bool; the other values are valid only where it is true
    norm_N: Tensor  # before rescaling, over the mean norm of the input embeddings, fp64
    distance_N: Tensor  # cosine distance to the nearest input embedding
    nearest_N: Tensor  # its token


@dataclass(frozen=True)
class Plane:
    """The two main directions of the input embeddings: the eigenvectors of their covariance with the largest
    eigenvalues, each with its largest entry positive."""

    mean_E: Tensor
    axes_E2: Tensor
    explained: tuple[float, float]

    def place(self, embeds_NE: Tensor) -> Tensor:
        """The coordinates of embeddings on the plane, [N, 2]."""
        return (embeds_NE.to(self.mean_E) - self.mean_E) @ self.axes_E2


class LogitLens:
    """Inspects the thoughts of one model and rule. A thought is given as the hidden state of which the rule makes it,
    and its key."""

    def __init__(self, lm: LanguageModel, rule: ThoughtRule) -> None:
        self.lm, self.rule = lm, rule

    @torch.inference_mode()
    def geometry(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> ThoughtGeometry:
        """Return the thoughts' geometry, without a vocabulary projection but the rule's own; one product with E_in for
        all thoughts."""
        mapped_NE = self.rule.map(hidden_NE, keys_N)
        is_finite_N = mapped_NE.isfinite().all(-1) & self.rule.rescaled(mapped_NE).isfinite().all(-1)
        # In fp64, where squares of fp32 numbers do not overflow.
        norm_N = mapped_NE.double().norm(dim=-1) / self.rule.target_norm
        unit_NE = _directions(mapped_NE)
        best_N = torch.full((len(unit_NE),), -2.0, device=unit_NE.device)
        nearest_N = torch.zeros(len(unit_NE), dtype=torch.int64, device=unit_NE.device)
        for first, embeds_VE in self._embeddings():
            scales_V = self._inverse_norms[first : first + len(embeds_VE)]
            cosines_NV = ((unit_NE @ embeds_VE.T) * scales_V).nan_to_num(-2.0, -2.0, -2.0)
            cosine_N, index_N = cosines_NV.max(dim=-1)
            is_nearer_N = cosine_N > best_N
            best_N = torch.where(is_nearer_N, cosine_N, best_N)
            nearest_N = torch.where(is_nearer_N, index_N + first, nearest_N)
        return ThoughtGeometry(is_finite_N.cpu(), norm_N.cpu(), (1 - best_N).cpu(), nearest_N.cpu())

    @torch.inference_mode()
    def directions(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        """The thoughts normalised to length 1, in fp32; zeros for one that is not finite."""
        return _directions(self.rule.map(hidden_NE, keys_N))

    @torch.inference_mode()
    def inspect(
        self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = (), geometry: ThoughtGeometry | None = None
    ) -> list[Thought]:
        """Return all measurements of each thought. A thought that is not finite has no tokens and zeros; one whose next
        token's distribution is not finite has no tokens."""
        if not len(hidden_NE):
            return []
        geometry = geometry or self.geometry(hidden_NE, keys_N)
        says = [self._project(chunk_NE) for chunk_NE in hidden_NE.split(_THOUGHT_CHUNK)]
        shares_NK, ids_NK, entropy_N = (torch.cat(parts).tolist() for parts in zip(*says, strict=True))
        xy_N2 = self.plane.place(self.rule(hidden_NE, keys_N)).tolist()
        return [
            Thought(
                tokens=tuple((self._token(token), share) for token, share in zip(ids, shares, strict=True))
                if math.isfinite(entropy)
                else (),
                entropy=entropy if math.isfinite(entropy) else 0.0,
                norm=norm,
                distance=distance,
                nearest=self._token(nearest),
                xy=(x, y),
            )
            if is_finite
            else Thought(tokens=(), entropy=0.0, norm=0.0, distance=0.0, nearest="", xy=(0.0, 0.0))
            for is_finite, ids, shares, entropy, norm, distance, nearest, (x, y) in zip(
                geometry.is_finite_N.tolist(),
                ids_NK,
                shares_NK,
                entropy_N,
                geometry.norm_N.tolist(),
                geometry.distance_N.tolist(),
                geometry.nearest_N.tolist(),
                xy_N2,
                strict=True,
            )
        ]

    @cached_property
    def plane(self) -> Plane:
        """The plane of all finite input embeddings; computed once."""
        size = self.lm.spec.hidden_size
        count, total_E = 0, torch.zeros(size, dtype=torch.float64, device=self.lm.device)
        products_EE = torch.zeros(size, size, dtype=torch.float64, device=self.lm.device)
        for _, embeds_VE in self._embeddings():
            good_VE = embeds_VE[embeds_VE.isfinite().all(-1)]
            count += len(good_VE)
            total_E += good_VE.sum(dim=0)
            products_EE += good_VE.T @ good_VE
        mean_E = total_E / max(count, 1)
        values_E, vectors_EE = torch.linalg.eigh(products_EE / max(count, 1) - mean_E.outer(mean_E))
        axes_E2 = vectors_EE[:, [-1, -2]]
        signs = axes_E2.gather(0, axes_E2.abs().argmax(dim=0, keepdim=True)).sign()
        first, second = (values_E[[-1, -2]] / values_E.sum().clamp_min(_MIN_NORM)).tolist()
        return Plane(mean_E.float(), (axes_E2 * signs).float(), (first, second))

    @cached_property
    def embedding_map(self) -> EmbeddingMap:
        """The plane with `NUM_SAMPLED` tokens, evenly spaced in the vocabulary."""
        num_tokens = self.lm.num_embeddings
        ids = torch.linspace(0, num_tokens - 1, min(num_tokens, NUM_SAMPLED)).round().long()
        with torch.inference_mode():
            embeds_NE = self.lm.embed(ids).float()
        is_finite = embeds_NE.isfinite().all(-1).tolist()
        places = self.plane.place(embeds_NE).tolist()
        return EmbeddingMap(
            explained=self.plane.explained,
            tokens=tuple(
                (self._token(token), x, y)
                for token, good, (x, y) in zip(ids.tolist(), is_finite, places, strict=True)
                if good
            ),
        )

    @cached_property
    def _inverse_norms(self) -> Tensor:
        return torch.cat([1 / part_VE.norm(dim=-1).clamp_min(_MIN_NORM) for _, part_VE in self._embeddings()])

    def _project(self, hidden_NE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest next tokens' probabilities and ids, [N, K], and the entropy of the next token, [N]."""
        logs_NV = torch.log_softmax(self.lm.logits(hidden_NE), dim=-1)
        top = logs_NV.topk(min(NUM_TOKENS, logs_NV.shape[-1]), dim=-1)
        # The clamp makes 0 · log 0 = 0.
        entropy_N = -(logs_NV.exp() * logs_NV.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1)
        return top.values.exp().cpu(), top.indices.cpu(), entropy_N.clamp_min(0.0).cpu()

    def _embeddings(self) -> Iterator[tuple[int, Tensor]]:
        """E_in in fp32, in parts, each with its first token."""
        for first in range(0, self.lm.num_embeddings, _VOCABULARY_CHUNK):
            stop = min(first + _VOCABULARY_CHUNK, self.lm.num_embeddings)
            yield first, self.lm.embed(torch.arange(first, stop)).float()

    def _token(self, token: int) -> str:
        return self.lm.chat.show([token]) or f"#{token}"  # a vocabulary may have more entries than its tokenizer


def _directions(mapped_NE: Tensor) -> Tensor:
    finite_NE = mapped_NE.double().nan_to_num(0.0, 0.0, 0.0)
    unit_NE: Tensor = finite_NE / finite_NE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    return unit_NE.float()
