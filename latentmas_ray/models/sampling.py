"""Sampling: from logits to token ids. The random number of each token depends on (seed, question, agent, step) only, so
batch size, order, replica and retries do not change answers.

Dimensions: B rows, V vocabulary.
"""

import hashlib

import torch
from torch import Tensor


def uniform(seed: int, question_id: str, agent: str, step: int) -> float:
    """The random number in [0, 1) of one token: 53 bits of a hash used as a counter-based generator."""
    counter = "\x1f".join((str(seed), question_id, agent, str(step)))
    digest = hashlib.blake2b(counter.encode(), digest_size=8, person=b"latentmas-sample").digest()
    return float(int.from_bytes(digest, "little") >> 11) / float(1 << 53)


def greedy(logits_BV: Tensor) -> Tensor:
    """The most probable token of each row, int64 [B]."""
    return logits_BV.argmax(dim=-1)


def sample(logits_BV: Tensor, uniforms_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row, int64 [B], drawn from the nucleus of mass `top_p` at `temperature` (> 0).

    The nucleus is the smallest set of most probable tokens whose mass reaches `top_p` (arXiv 1904.09751). The draw
    inverts the cumulative distribution in *vocabulary* order: in order of probability, rounding could swap two nearly
    equal tokens and change the answer.
    """
    probs_BV = torch.softmax(logits_BV.double() / temperature, dim=-1)
    if top_p < 1.0:
        sorted_BV = probs_BV.sort(dim=-1, descending=True).values
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        smallest_B1 = sorted_BV.masked_fill(before_BV >= top_p, torch.inf).amin(dim=-1, keepdim=True)
        probs_BV = probs_BV.masked_fill(probs_BV < smallest_B1, 0.0)
    cumulative_BV = probs_BV.cumsum(dim=-1)
    targets_B1 = uniforms_B.to(cumulative_BV)[:, None] * cumulative_BV[:, -1:]
    drawn_B = torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0]
    # A target that rounds up to the whole mass must not select a token after the last with probability.
    last_B = (probs_BV > 0).int().cumsum(dim=-1).argmax(dim=-1)
    return torch.minimum(drawn_B, last_B)
