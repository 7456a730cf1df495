"""How often agents agree, from their votes alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from latentmas_ray.voting.votes import QuestionVotes

Pair = tuple[str, str]  # two agents, in the order of `Agreement.agents`


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often each two of several agents agree. Implements `rules.AgreementRates`."""

    agents: tuple[str, ...]
    # (d - 1/K) / (1 - 1/K) of the rate d of agreement: 0 at chance, 1 if they always agree. Pairs without a question
    # that both voted on are left out.
    beyond_chance: Mapping[Pair, float]
    num_questions: Mapping[Pair, int]  # that both voted on

    def rate(self, one: str, other: str, num_options: int) -> float:
        """Return the probability that they agree on a question with so many options: 1/K + (1 - 1/K) of what is beyond
        chance. Where all questions have as many, it is how often they did. Chance, if they never voted together."""
        pair = (one, other) if (one, other) in self.beyond_chance else (other, one)
        chance = 1 / num_options
        return chance + (1 - chance) * self.beyond_chance.get(pair, 0.0)


def measure_agreement(questions: Sequence[QuestionVotes]) -> Agreement:
    """Return how often the agents of these questions agree. Over questions with different numbers of options, agreement
    and chance are both added up first."""
    agents = agents_of(questions)
    agreed: dict[Pair, float] = {}
    possible: dict[Pair, float] = {}
    counts: dict[Pair, int] = {}
    for question in questions:
        chance = 1 / question.num_options
        for pair, is_same in pairs_of(question, agents):
            agreed[pair] = agreed.get(pair, 0.0) + is_same - chance
            possible[pair] = possible.get(pair, 0.0) + 1 - chance
            counts[pair] = counts.get(pair, 0) + 1
    return Agreement(
        agents=agents,
        beyond_chance={pair: value / possible[pair] for pair, value in agreed.items()},
        num_questions=counts,
    )


def agents_of(questions: Sequence[QuestionVotes]) -> tuple[str, ...]:
    """Return all agents of these questions, in the order in which they first occur, those without a vote too."""
    return tuple(dict.fromkeys(agent for question in questions for agent in question.votes))


def pairs_of(question: QuestionVotes, agents: Sequence[str]) -> Iterator[tuple[Pair, bool]]:
    """Yield each two agents that voted on the question, in the order of `agents`, and whether they agree."""
    cast = question.cast
    for one, other in combinations([agent for agent in agents if agent in cast], 2):
        yield (one, other), cast[one] == cast[other]
