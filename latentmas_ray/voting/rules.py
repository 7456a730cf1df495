"""The decision of one question by a rule.

The model (arXiv 2510.01499): given the right answer agents are independent; agent i is right with probability x_i, and
each of the K - 1 wrong answers has probability (1 - x_i) / (K - 1). Then all rules are weighted votes: the answer with
the largest sum of the weights of those who gave it.

majority     w_i = 1
ow           w_i = ln((K - 1) x_i / (1 - x_i)): optimal weights, for accuracies that are known
ow-l, ow-i   the same with accuracies that are estimated from the votes alone, see `accuracies.py`
dawid-skene  the same, estimated by expectation maximisation
sp           surprising popularity: w_j = 1 - Σ_{i≠j} (K p_ij - 1) / ((N - 1) (K - 1))
isp          inverse surprising popularity: w_j = 1 + Σ_{i≠j} (K p_ij - 1) / ((N - 1) (K - 1)²)

p_ij is the probability that i and j agree, N the number of votes on the question. The weights of sp and isp are what
their sums over P(A_i = s | A_j = a), p_ij for s = a and (1 - p_ij) / (K - 1) for all others, come to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol, TypeVar, get_args

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.votes import QuestionVotes

RuleName = Literal["majority", "ow", "sp", "isp", "ow-l", "ow-i", "dawid-skene"]
RULES: tuple[RuleName, ...] = get_args(RuleName)
# Weighted by accuracies; sp and isp are weighted by how often agents agree, and majority by nothing.
BY_ACCURACY: frozenset[RuleName] = frozenset({"ow", "ow-l", "ow-i", "dawid-skene"})
BY_AGREEMENT: frozenset[RuleName] = frozenset({"sp", "isp"})
Label = TypeVar("Label")

_CERTAIN = 1e-9  # an accuracy this close to 0 or 1 counts as this close: no weight is infinite
_SAME = 1e-9  # scores that differ by less are tied: the rest is rounding error


class AgreementRates(Protocol):
    """How often two agents agree: `agreement.Agreement`, or `AgreementOfAccuracies`."""

    def rate(self, one: str, other: str, num_options: int) -> float:
        """Return the probability that these two agents give the same one of `num_options` answers."""
        ...


@dataclass(frozen=True)
class AgreementOfAccuracies:
    """The rates that follow from accuracies: p_ij = x_i x_j + (1 - x_i)(1 - x_j) / (K - 1)."""

    accuracies: Mapping[str, float]

    def rate(self, one: str, other: str, num_options: int) -> float:
        return agreement_of(self.accuracies[one], self.accuracies[other], num_options)


@dataclass(frozen=True, kw_only=True)
class VoteDecision:
    """The decision of one question, and how it was made."""

    rule: RuleName
    label: str | None  # None if no agent voted
    tied: tuple[str, ...]  # all labels that could have won, sorted; one label where there was no tie
    scores: Mapping[str, float]  # of each label that got a vote; of each option where all are known
    weights: Mapping[str, float]  # of each agent that voted

    @property
    def is_tie(self) -> bool:
        """Whether several labels had the largest score."""
        return len(self.tied) > 1


def decide(
    votes: QuestionVotes,
    rule: RuleName,
    *,
    accuracies: Mapping[str, float] | None = None,
    agreement: AgreementRates | None = None,
    seed: int = 0,
) -> VoteDecision:
    """Return the decision of one question.

    `accuracies` (0 to 1, by agent) are needed by `BY_ACCURACY`; `BY_AGREEMENT` takes `agreement`, or those that follow
    from `accuracies`. Agents without a vote are left out. Agents below chance (x < 1/K) have negative weights under ow
    and its kin, so that an option without votes may win where all options are known.

    Of tied labels, those that got votes before those that got none, the one whose digest with seed and question is
    smallest wins: as good as drawn, the same in every process, whatever the order of agents and options.

    Raises ConfigError if an accuracy is missing or not in 0 to 1.
    """
    weights = weights_of(votes, rule, accuracies=accuracies, agreement=agreement)
    return decide_weighted(votes, rule, weights, seed=seed)


def decide_weighted(
    votes: QuestionVotes, rule: RuleName, weights: Mapping[str, float], *, seed: int = 0
) -> VoteDecision:
    """Return the decision with these weights, one for each agent that voted. See `decide`."""
    by_label: dict[str, list[float]] = {label: [] for label in votes.options}
    for agent, label in votes.cast.items():
        by_label.setdefault(label, []).append(weights[agent])
    scores = _scores(by_label) if votes.cast else {}
    tied = tuple(sorted(leading_labels(by_label))) if votes.cast else ()
    winner = min(tied, key=lambda label: _digest(seed, votes.question, label), default=None)
    return VoteDecision(rule=rule, label=winner, tied=tied, scores=scores, weights=dict(weights))


def leading_labels(by_label: Mapping[Label, Sequence[float]]) -> list[Label]:
    """Return the labels that could win, given the weights of the votes for each: those with the largest sum; of these
    only those with votes, if there are any."""
    scores = _scores(by_label)
    best = max(scores.values())
    highest = [label for label, score in scores.items() if best - score <= _SAME * max(1.0, abs(best))]
    return [label for label in highest if by_label[label]] or highest


def _scores(by_label: Mapping[Label, Sequence[float]]) -> dict[Label, float]:
    # fsum rounds once, so that the order of agents decides nothing.
    return {label: math.fsum(weights) for label, weights in by_label.items()}


def weights_of(
    votes: QuestionVotes,
    rule: RuleName,
    *,
    accuracies: Mapping[str, float] | None = None,
    agreement: AgreementRates | None = None,
) -> dict[str, float]:
    """Return the weight of each agent that voted on the question. See `decide`."""
    agents, num_options = list(votes.cast), votes.num_options
    if rule == "majority":
        return dict.fromkeys(agents, 1.0)
    if rule in BY_ACCURACY or agreement is None:
        accuracies = _checked(agents, rule, accuracies)
    if rule in BY_ACCURACY:
        assert accuracies is not None
        return {agent: optimal_weight(accuracies[agent], num_options) for agent in agents}
    rates = AgreementOfAccuracies(accuracies or {}) if agreement is None else agreement
    sign, power = (-1, 1) if rule == "sp" else (1, 2)
    return {
        agent: 1 + sign * _beyond_chance(agent, agents, rates, num_options) / (num_options - 1) ** power
        for agent in agents
    }


def optimal_weight(accuracy: float, num_options: int) -> float:
    """Return ln((K - 1) x / (1 - x)): 0 at chance, x = 1/K. Accuracies of 0 and 1 count as nearly that, so that the
    weight is finite and still outweighs all others."""
    x = min(max(accuracy, _CERTAIN), 1 - _CERTAIN)
    return math.log((num_options - 1) * x / (1 - x))


def agreement_of(one: float, other: float, num_options: int) -> float:
    """Return the probability that two independent agents with these accuracies give the same answer."""
    return one * other + (1 - one) * (1 - other) / (num_options - 1)


def _beyond_chance(agent: str, agents: list[str], rates: AgreementRates, num_options: int) -> float:
    """Return Σ (K p_ij - 1) / (N - 1) over the other agents; 0 for one that voted alone."""
    others = [other for other in agents if other != agent]
    terms = [num_options * rates.rate(agent, other, num_options) - 1 for other in others]
    return math.fsum(terms) / len(others) if others else 0.0


def _checked(agents: list[str], rule: RuleName, accuracies: Mapping[str, float] | None) -> Mapping[str, float]:
    if accuracies is None:
        raise ConfigError("accuracies", None, f"rule {rule} needs the accuracy of each agent")
    for agent in agents:
        if agent not in accuracies:
            raise ConfigError("accuracies", ", ".join(accuracies), f"rule {rule} needs that of agent {agent}, too")
        if not 0 <= accuracies[agent] <= 1:  # NaN neither
            raise ConfigError(f"accuracies: {agent}", accuracies[agent], "it must be in 0 to 1")
    return accuracies


def _digest(seed: int, question: str, label: str) -> tuple[bytes, str]:
    text = f"{seed}\0{question}\0{label}".encode(errors="surrogatepass")
    return blake2b(text, digest_size=8).digest(), label
