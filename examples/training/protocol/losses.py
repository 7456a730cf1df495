"""What is minimised: the answers' loss through the memory, a guard against wrong memories, and what thoughts aim at.

Dimensions: A answers, N target tokens of all of them, B rows, T tokens per row, E hidden size, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from examples.training.protocol.documents import KINDS
from examples.training.protocol.rollout import Realigning
from examples.training.protocol.rows import ThoughtRows

_ROW = 100_000  # more than a row has segments


@dataclass(frozen=True)
class AnswerLosses:
    """Each answer's mean negative log-likelihood of a token, in nats, with its number of tokens, its kind (an index of
    KINDS, -1 for other texts), its group, and whether the likeliest tokens are all right."""

    nll_A: Tensor
    num_A: Tensor
    kind_A: Tensor
    group_A: Tensor
    is_right_A: Tensor


def answer_losses(model: Any, rows: ThoughtRows, hidden_BTE: Tensor) -> AnswerLosses:
    """Return the losses of all answers of the rows."""
    targets_BT = rows.rows.targets_BT
    is_target = targets_BT >= 0
    logits_NV = model.get_output_embeddings()(hidden_BTE[is_target]).float()
    targets_N = targets_BT[is_target]
    loss_N = cross_entropy(logits_NV, targets_N, reduction="none")
    names = (torch.arange(len(targets_BT))[:, None] * _ROW + rows.rows.own_BT)[is_target]
    found, answer_N = names.unique(return_inverse=True)
    num_A = torch.bincount(answer_N)
    of_answer = torch.zeros_like(found)
    return AnswerLosses(
        nll_A=loss_N.new_zeros(len(found)).index_add(0, answer_N, loss_N) / num_A,
        num_A=num_A,
        kind_A=of_answer.scatter(0, answer_N, rows.rows.kinds_BT[is_target]),
        group_A=of_answer.scatter(0, answer_N, rows.groups_BT[is_target]),
        is_right_A=torch.ones_like(found)
        .scatter_reduce(0, answer_N, (logits_NV.argmax(-1) == targets_N).long(), "amin")
        .bool(),
    )


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss. The guard's published weight and margin are 0.1 and 0.1 (DRAFT-KV, arXiv
    2609.34754); answers here are a dozen tokens of which one or two are in doubt, hence a smaller margin."""

    guard: float = 0.3
    margin: float = 0.02
    blind: float = 0.1  # of answers without memory, so that those to notes stay guesses
    aim: float = 0.3


def guard_loss(answers: AnswerLosses, margin: float) -> Tensor:
    """Return the mean of max(0, N_D − sg(N_R) − margin) over the answers with a wrong memory, N_D their loss and N_R
    that of the same answer without memory (DRAFT-KV, arXiv 2609.34754); 0 without any."""
    is_wrong, is_blind = answers.group_A > 0, answers.group_A < 0
    if not is_wrong.any():
        return answers.nll_A.new_zeros(())
    wrong_A = answers.nll_A[is_wrong][answers.group_A[is_wrong].argsort()]
    blind_A = answers.nll_A[is_blind][(-answers.group_A[is_blind]).argsort()].detach()
    return (wrong_A - blind_A - margin).clamp_min(0).mean()


def aim_loss(model: Any, rule: Realigning, rows: ThoughtRows, hidden_BTE: Tensor) -> Tensor:
    """Return the mean of 1 − cos(h W_a, E_in[v]) over the thoughts that aim at a token v, h the hidden state before the
    thought (RecursiveMAS, arXiv 2604.25917, which trains links between models so); 0 without any."""
    has_aim = rows.aims_BT >= 0
    if not has_aim.any():
        return hidden_BTE.new_zeros((), dtype=torch.float32)
    aims_NE = model.get_input_embeddings().weight.detach()[rows.aims_BT[has_aim]].float()
    before_NE = hidden_BTE[:, :-1][has_aim[:, 1:]]
    return (1 - cosine_similarity(rule(before_NE), aims_NE, dim=-1)).mean()


def total_loss(answers: AnswerLosses, aimed: Tensor, weights: LossWeights) -> tuple[Tensor, dict[str, float]]:
    """Return the loss, and figures: its parts, and for each kind of answer the share that is right and the loss."""
    is_plain = answers.group_A == 0
    num_A = answers.num_A * is_plain
    plain = (answers.nll_A * num_A).sum() / num_A.sum().clamp_min(1)  # of a token
    guard = guard_loss(answers, weights.margin)
    blind_A = answers.nll_A[answers.group_A < 0]
    blind = blind_A.mean() if len(blind_A) else plain.new_zeros(())
    loss = plain + weights.guard * guard + weights.blind * blind + weights.aim * aimed
    parts = {"loss": plain, "guard": guard, "aim": aimed}
    return loss, {**{name: float(part.detach()) for name, part in parts.items()}, **_by_kind(answers)}


def _by_kind(answers: AnswerLosses) -> Mapping[str, float]:
    figures = {}
    for index, kind in enumerate(KINDS):
        chosen = answers.kind_A == index
        if chosen.any():
            figures[kind] = float(answers.is_right_A[chosen].float().mean())
            figures[f"{kind} loss"] = float(answers.nll_A[chosen].detach().mean())
    return figures
