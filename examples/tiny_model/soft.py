"""Soft tokens: random vectors, made from embeddings, that take the place of an agent's thoughts in training.

They match measured properties of thoughts: the mean embedding norm, no common component of all embeddings, a cosine of
0.2 to 0.3 to the nearest word, and a cosine of 0.4 to 0.7 within a run; runs are similar to each other too. No latent
step is used.

Dimensions: N soft tokens of all runs, R runs, S soft tokens of the longest run, K words, V vocabulary, E hidden size.
"""

import torch
from torch import Tensor

_NUM_WORDS = 6  # mixed into one soft token in addition to its own
_WITH_COMMON = 0.2  # share of the runs that keep the common component of all embeddings
_NUM_SPECIAL = 3  # ids that are not words


def soft_embeddings(matrix_VE: Tensor, ids_N: Tensor, runs_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return input embeddings [N, E], fp32, for soft tokens with these ids. Consecutive tokens with equal numbers in
    `runs_N` are one run.

    A token is the sum of three components with random weights: a direction for all runs of the step, a direction for
    its run, and a walk over signed mixtures of words, which include its own word. The persistence of the walk is
    random: from all tokens equal to all independent.
    """
    if not len(ids_N):
        return matrix_VE.new_zeros(0, matrix_VE.shape[1], dtype=torch.float32)
    matrix_VE = matrix_VE.detach().float()
    norm, mean_E = matrix_VE.norm(dim=-1).mean(), matrix_VE.mean(0)
    _, run_N, lengths_R = runs_N.unique_consecutive(return_inverse=True, return_counts=True)
    num_runs = len(lengths_R)
    place_N = torch.arange(len(ids_N)) - (lengths_R.cumsum(0) - lengths_R)[run_N]

    common_R = (torch.rand(num_runs, generator=generator) < _WITH_COMMON).float()
    words_NE = matrix_VE[ids_N] - (1 - common_R[run_N])[:, None] * mean_E
    own_N = torch.rand(len(ids_N), generator=generator)
    mixed_NE = _unit(
        own_N[:, None] * _unit(words_NE) + (1 - own_N)[:, None] * _mixtures(matrix_VE, mean_E, len(ids_N), generator)
    )

    steps_RSE = mixed_NE.new_zeros(num_runs, int(lengths_R.max()), matrix_VE.shape[1])
    steps_RSE[run_N, place_N] = mixed_NE
    walk_NE = _unit(_walk(steps_RSE, _persistence(num_runs, generator))[run_N, place_N])
    directions_RE = _mixtures(matrix_VE, mean_E, num_runs, generator)
    direction_E = _mixtures(matrix_VE, mean_E, 1, generator)
    shares_R3 = -torch.rand(num_runs, 3, generator=generator).clamp_min(1e-6).log()
    weights_R3 = (shares_R3 / shares_R3.sum(1, keepdim=True)).sqrt()
    parts_N3E = torch.stack([direction_E.expand_as(walk_NE), directions_RE[run_N], walk_NE], dim=1)
    soft_NE: Tensor = norm * _unit((weights_R3[run_N][..., None] * parts_N3E).sum(1))
    return soft_NE


def _mixtures(matrix_VE: Tensor, mean_E: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Return `num` unit vectors, each a signed mixture of words without the common component of all embeddings."""
    ids = torch.randint(_NUM_SPECIAL, len(matrix_VE), (num, _NUM_WORDS), generator=generator)
    signed = torch.randn(num, _NUM_WORDS, generator=generator)
    return _unit((signed[..., None] * (matrix_VE[ids] - mean_E)).sum(1))


def _persistence(num_runs: int, generator: torch.Generator) -> Tensor:
    """Return each run's persistence from step to step: 1 for a sixth of the runs, 0 for another sixth, else uniform."""
    kind_R, value_R = torch.rand(2, num_runs, generator=generator)
    return torch.where(kind_R < 1 / 6, 1.0, torch.where(kind_R < 1 / 3, 0.0, value_R))


def _walk(steps_RSE: Tensor, persistence_R: Tensor) -> Tensor:
    old, new = persistence_R[:, None], (1 - persistence_R.square()).sqrt()[:, None]
    walked = [steps_RSE[:, 0]]
    for step_RE in steps_RSE.unbind(1)[1:]:
        walked.append(old * walked[-1] + new * step_RE)
    return torch.stack(walked, dim=1)


def _unit(vectors: Tensor) -> Tensor:
    units: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return units
