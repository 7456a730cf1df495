"""Figures of thoughts: length, nearness to embeddings, coverage of tokens, convergence.

Dimensions: N vectors, V embeddings, W tokens that were written, S steps, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.bench.thoughts.sample import ThoughtSample
from latentmas_ray.engine.diagnostics.replay import ThoughtChain

NEIGHBOUR = 5  # k of the coverage
_CHUNK = 256
_MIN_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class PlaceFigures:
    """Where vectors of one kind are among the input embeddings."""

    kind: str
    norm: float  # mean ‖x‖ over mean_v ‖E_in[v]‖
    spread: float  # standard deviation of the entries, over that of the entries of E_in
    nearest: float  # mean over x of max_v cos(x, E_in[v])
    coverage: float | None  # of the tokens that were written; None if there are too few


@dataclass(frozen=True, kw_only=True)
class ThoughtFigures:
    """All figures of a sample. `convergence[s]` is about step s + 1: the mean cosine between a thought and the one
    before, and its 10th and 90th percentile over agents and questions."""

    model: str
    thoughts: str
    task: str
    num_questions: int
    num_thoughts: int
    num_written: int
    places: tuple[PlaceFigures, ...]
    convergence: tuple[tuple[float, float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return asdict(self)


def find_figures(sample: ThoughtSample, *, model: str, thoughts: str, task: str) -> ThoughtFigures:
    """Compute all figures."""
    fed_NE = sample.fed_NE
    noise_NE = torch.randn(fed_NE.shape, generator=torch.Generator().manual_seed(0))
    kinds = {
        "hidden state": sample.hidden_NE,
        "after the rule": sample.mapped_NE,
        "as fed": fed_NE,
        "noise": noise_NE / noise_NE.norm(dim=-1, keepdim=True) * sample.target_norm,
    }
    return ThoughtFigures(
        model=model,
        thoughts=thoughts,
        task=task,
        num_questions=sample.num_questions,
        num_thoughts=len(fed_NE),
        num_written=len(sample.written_WE),
        places=tuple(_place(kind, vectors_NE, sample) for kind, vectors_NE in kinds.items()),
        convergence=find_convergence(sample.chains),
    )


def coverage(written_WE: Tensor, vectors_NE: Tensor, k: int = NEIGHBOUR) -> float | None:
    """The share of written tokens that vectors cover: 1/W Σ_i 1[∃ j: ‖x_j − w_i‖ ≤ r_i], r_i the distance of w_i to its
    k-th nearest neighbour among the other written tokens (Naeem et al., arXiv 2002.09797, section 3.2, with the tokens
    as real samples). None unless there are more than k tokens.
    """
    if len(written_WE) <= k:
        return None
    among_WW = torch.cdist(written_WE, written_WE)
    radius_W = among_WW.topk(k + 1, dim=-1, largest=False).values[:, -1]  # the nearest is the token itself
    nearest_W = torch.cdist(written_WE, vectors_NE).amin(dim=-1)
    return float((nearest_W <= radius_W).float().mean())


def find_convergence(chains: Sequence[ThoughtChain]) -> tuple[tuple[float, float, float], ...]:
    """Mean, 10th and 90th percentile of cos(e_s, e_{s-1}) over chains, for each step s from 1 on; chains that end
    earlier are left out."""
    found = []
    cosines = [torch.cosine_similarity(chain.fed_NE[1:], chain.fed_NE[:-1], dim=-1) for chain in chains]
    for step in range(max(map(len, cosines), default=0)):
        values = torch.stack([one[step] for one in cosines if len(one) > step])
        low, high = torch.quantile(values, torch.tensor([0.1, 0.9])).tolist()
        found.append((float(values.mean()), low, high))
    return tuple(found)


def _place(kind: str, vectors_NE: Tensor, sample: ThoughtSample) -> PlaceFigures:
    return PlaceFigures(
        kind=kind,
        norm=float(vectors_NE.norm(dim=-1).mean()) / sample.target_norm,
        spread=float(vectors_NE.std() / sample.embeddings_VE.std()),
        nearest=_nearest(vectors_NE, sample.embeddings_VE),
        coverage=coverage(sample.written_WE, vectors_NE),
    )


def _nearest(vectors_NE: Tensor, embeddings_VE: Tensor) -> float:
    units_VE = embeddings_VE / embeddings_VE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    units_NE = vectors_NE / vectors_NE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    best = [(chunk_NE @ units_VE.T).amax(dim=-1) for chunk_NE in units_NE.split(_CHUNK)]
    return float(torch.cat(best).mean())
