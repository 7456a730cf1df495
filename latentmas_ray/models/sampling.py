"""Sampling: from logits to token ids. The random number of each token depends on (seed, question, agent, step) only, so
batch size, order, replica and retries do not change answers.

Dimensions: B rows, V vocabulary, S most probable tokens, in order.
"""

import hashlib

import torch
from torch import Tensor

_HEAD_TOKENS = 1024


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
        probs_BV = probs_BV.masked_fill(probs_BV < _smallest_in_nucleus(probs_BV, top_p), 0.0)
    cumulative_BV = probs_BV.cumsum(dim=-1)
    targets_B1 = uniforms_B.to(cumulative_BV)[:, None] * cumulative_BV[:, -1:]
    drawn_B = torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0]
    if bool((drawn_B < probs_BV.shape[1]).all()):
        return drawn_B
    # A target that rounds up to the whole mass selects the last token with probability.
    last_B = (probs_BV > 0).int().cumsum(dim=-1).argmax(dim=-1)
    return torch.minimum(drawn_B, last_B)


def _smallest_in_nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """The smallest probability in the nucleus of mass `top_p` < 1 of each row, [B, 1].

    A nucleus mostly has few tokens, and sorting a large vocabulary is slow on a CPU, so its head is tried first.
    """
    for num_sorted in (min(_HEAD_TOKENS, probs_BV.shape[1]), probs_BV.shape[1]):
        sorted_BS = probs_BV.topk(num_sorted).values
        is_outside_BS = sorted_BS.cumsum(dim=-1) - sorted_BS >= top_p
        if num_sorted == probs_BV.shape[1] or bool(is_outside_BS[:, -1].all()):
            break
    return sorted_BS.masked_fill(is_outside_BS, torch.inf).amin(dim=-1, keepdim=True)
