"""How much of the agents' agreement their accuracies explain, and how many independent votes they amount to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.voting.agreement import Pair, agents_of, pairs_of
from latentmas_ray.voting.rules import agreement_of
from latentmas_ray.voting.votes import QuestionVotes

NOTABLE_EXCESS = 0.1
_NOTABLE_DEVIATIONS = 3.0


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """The agreement of two agents."""

    one: str
    other: str
    num_questions: int  # that both voted on
    agreement: float  # share of them on which they agree
    expected: float  # the share that their accuracies explain, if they are independent
    # (agreement - expected) / (1 - expected): 0 for independent agents, 1 if they always agree. Shared difficulty of
    # questions counts as well as a shared model. None where accuracies explain all there is: both are always right.
    excess: float | None
    is_notable: bool  # above NOTABLE_EXCESS, and by three standard deviations above what is expected


def pair_agreements(questions: Sequence[QuestionVotes], accuracies: Mapping[str, float]) -> tuple[PairAgreement, ...]:
    """Return the agreement of each two agents that voted on a question together, largest excess first."""
    agents = agents_of(questions)
    agreed: dict[Pair, list[bool]] = {}
    expected: dict[Pair, list[float]] = {}
    for question in questions:
        for pair, is_same in pairs_of(question, agents):
            x, y = (accuracies[agent] for agent in pair)
            agreed.setdefault(pair, []).append(is_same)
            expected.setdefault(pair, []).append(agreement_of(x, y, question.num_options))
    found = (_compared(pair, agreed[pair], expected[pair]) for pair in agreed)
    return tuple(sorted(found, key=lambda pair: -math.inf if pair.excess is None else pair.excess, reverse=True))


def effective_votes(pairs: Sequence[PairAgreement], num_agents: int) -> float | None:
    """Return N / (1 + (N - 1) e) with the mean excess e of the pairs, those below 0 counted as 0: the number of
    independent agents that say as much as these, by the design effect of a cluster of N (Kish 1965, section 5.4).

    N for independent agents, 1 for agents that always agree. None if no pair has an excess: agents that are always
    right, or never voted on the same question, may be independent or copies.
    """
    excesses = [max(0.0, pair.excess) for pair in pairs if pair.excess is not None]
    if not excesses:
        return None
    mean = math.fsum(excesses) / len(excesses)
    return num_agents / (1 + (num_agents - 1) * mean)


def _compared(pair: Pair, agreed: Sequence[bool], expected: Sequence[float]) -> PairAgreement:
    count = len(agreed)
    share, explained = sum(agreed) / count, math.fsum(expected) / count
    excess = (share - explained) / (1 - explained) if explained < 1 else None
    deviation = math.sqrt(math.fsum(one * (1 - one) for one in expected)) / count
    is_notable = excess is not None and excess > NOTABLE_EXCESS and share - explained > _NOTABLE_DEVIATIONS * deviation
    return PairAgreement(
        one=pair[0],
        other=pair[1],
        num_questions=count,
        agreement=share,
        expected=explained,
        excess=excess,
        is_notable=is_notable,
    )
