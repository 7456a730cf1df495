"""The accuracies of agents: from reference answers, or from their votes on many questions alone.

An estimate from votes is kept within 1/K, so that no vote counts against its own answer because of an estimate, and
1 - 1 / (2 (M + 1)): M questions cannot show that an agent is never wrong. Accuracies from reference answers may be
below chance: then the vote does count against its answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.agreement import Pair, agents_of, measure_agreement, pairs_of
from latentmas_ray.voting.dawid_skene import accuracies_by_em
from latentmas_ray.voting.rules import (
    BY_ACCURACY,
    BY_AGREEMENT,
    AgreementRates,
    RuleName,
    VoteDecision,
    agreement_of,
    decide,
)
from latentmas_ray.voting.votes import QuestionVotes

_MAX_ITERATIONS = 10_000
_CONVERGED = 1e-10  # largest change of an accuracy in one iteration
_SAME_ERROR = 1e-6  # fits whose errors differ by a smaller share are equally good
MIN_AGENTS = 3  # the products of two accuracies beyond chance tell them apart from three agents on


@dataclass(frozen=True, kw_only=True)
class FittedRule:
    """A rule with what it needs to decide: make it with `fit_rule`."""

    rule: RuleName
    accuracies: Mapping[str, float] | None = None  # None for majority, sp and isp
    agreement: AgreementRates | None = None  # sp and isp
    note: str | None = None  # why it is not what its name says
    seed: int = 0

    def decide(self, votes: QuestionVotes) -> VoteDecision:
        """Return the decision of one question. Agents that the rule was not fitted with must not vote."""
        return decide(votes, self.rule, accuracies=self.accuracies, agreement=self.agreement, seed=self.seed)


def fit_rule(
    questions: Sequence[QuestionVotes], rule: RuleName, *, golds: Mapping[str, str] | None = None, seed: int = 0
) -> FittedRule:
    """Learn from these questions what the rule needs. `golds` are labels of right answers by question, for rule ow, and
    for no other.

    Raises ConfigError for rule ow without golds of any of the questions.
    """
    if rule in BY_AGREEMENT:
        return FittedRule(rule=rule, agreement=measure_agreement(questions), seed=seed)
    if rule not in BY_ACCURACY:
        return FittedRule(rule=rule, seed=seed)
    if rule == "ow":
        return FittedRule(rule=rule, accuracies=accuracies_from_golds(questions, golds or {}), seed=seed)
    if (equal := _equal_accuracies(questions)) is not None:
        accuracies, note = equal
        return FittedRule(rule=rule, accuracies=accuracies, note=note, seed=seed)
    if rule == "ow-l":
        found = accuracies_from_agreement(questions)
    elif rule == "ow-i":
        found = accuracies_from_isp(questions, seed=seed)
    else:
        found = accuracies_by_em(questions)
    return FittedRule(rule=rule, accuracies=_kept_possible(found, questions), seed=seed)


def accuracies_from_golds(questions: Sequence[QuestionVotes], golds: Mapping[str, str]) -> dict[str, float]:
    """Return each agent's (right + c) / (votes + 1) on the questions that have a gold, c being chance: as if it had
    voted once more, by chance. So none is 0 or 1, and no votes are no weight. Raises ConfigError if no question has a
    gold."""
    graded = [question for question in questions if question.question in golds]
    if not graded:
        raise ConfigError("golds", len(golds), "rule ow needs those of some of the questions, to calibrate on")
    chance = chance_of(questions)
    right = dict.fromkeys(agents_of(questions), 0)
    votes = dict(right)
    for question in graded:
        for agent, label in question.cast.items():
            votes[agent] += 1
            right[agent] += label == golds[question.question]
    return {agent: (right[agent] + chance) / (votes[agent] + 1) for agent in right}


def accuracies_from_agreement(questions: Sequence[QuestionVotes]) -> dict[str, float]:
    """Return the accuracies that explain best how often agents agree (OW-L), in 0 to 1.

    Minimises Σ n_ij (d_ij - p_ij)² over pairs, with d_ij the observed rate of agreement on n_ij questions and p_ij that
    of the model, which is linear in each accuracy alone: alternating least squares. With one K it is the fit of rank
    one u_i u_j = K (K - 1) (d_ij - 1/K) off the diagonal, u_i = K x_i - 1. With several, each K has its own d_ij and
    p_ij. As u and -u fit alike, agents are taken to be better than chance on average; with several K the one of the two
    that fits better is taken. Needs three agents.
    """
    agents = agents_of(questions)
    by_options = _agreed_counts(questions, agents)
    mean_options = sum(question.num_options for question in questions) / len(questions)
    first = _fitted(dict.fromkeys(agents, _equal_start(questions)), by_options)
    second = _fitted({agent: 2 / mean_options - value for agent, value in first.items()}, by_options)  # u to -u
    errors = [_squared_error(x, by_options) for x in (first, second)]
    if abs(errors[0] - errors[1]) > _SAME_ERROR * max(1.0, *errors):
        return first if errors[0] < errors[1] else second
    voting = {agent for question in questions for agent in question.cast}
    return max(first, second, key=lambda x: math.fsum(x[agent] for agent in voting))


def _fitted(start: Mapping[str, float], by_options: Mapping[int, Mapping[Pair, tuple[int, int]]]) -> dict[str, float]:
    """Return the accuracies that alternating least squares reach from `start`. Each step stays in 0 to 1: without that
    agreement near chance is explained best by an agent that is right far more often than always."""
    x = {agent: min(max(value, 0.0), 1.0) for agent, value in start.items()}
    others = {agent: [other for other in x if other != agent] for agent in x}
    for _ in range(_MAX_ITERATIONS):
        change = 0.0
        for agent in x:
            fresh = min(max(_best_accuracy(agent, others[agent], x, by_options), 0.0), 1.0)
            change = max(change, abs(fresh - x[agent]))
            x[agent] = fresh
        if change < _CONVERGED:
            break
    return x


def _squared_error(x: Mapping[str, float], by_options: Mapping[int, Mapping[Pair, tuple[int, int]]]) -> float:
    """Return Σ n_ij (d_ij - p_ij)² of what alternating least squares minimise."""
    return math.fsum(
        total * (agreed / total - agreement_of(x[one], x[other], num_options)) ** 2
        for num_options, counts in by_options.items()
        for (one, other), (agreed, total) in counts.items()
    )


def accuracies_from_isp(questions: Sequence[QuestionVotes], *, seed: int = 0) -> dict[str, float]:
    """Return the share of an agent's votes that are the decisions of rule isp on the same questions (OW-I)."""
    rule = FittedRule(rule="isp", agreement=measure_agreement(questions), seed=seed)
    same = dict.fromkeys(agents_of(questions), 0)
    votes = dict(same)
    for question in questions:
        decided = rule.decide(question).label
        for agent, label in question.cast.items():
            votes[agent] += 1
            same[agent] += label == decided
    return {agent: same[agent] / votes[agent] if votes[agent] else chance_of(questions) for agent in same}


def chance_of(questions: Sequence[QuestionVotes]) -> float:
    """Return 1/K of the question with the fewest options: an accuracy that has a weight of at least 0 everywhere."""
    return 1 / min(question.num_options for question in questions)


def _kept_possible(accuracies: Mapping[str, float], questions: Sequence[QuestionVotes]) -> dict[str, float]:
    low, high = chance_of(questions), 1 - 1 / (2 * (len(questions) + 1))
    return {agent: min(max(value, low), max(low, high)) for agent, value in accuracies.items()}


def _equal_accuracies(questions: Sequence[QuestionVotes]) -> tuple[dict[str, float], str] | None:
    """Return equal accuracies, with which the rule decides like majority, and why, if the votes cannot tell agents
    apart."""
    agents = agents_of(questions)
    voting = {agent for question in questions for agent in question.cast}
    if len(voting) < MIN_AGENTS:
        why = f"it takes {MIN_AGENTS} agents that vote to estimate accuracies from votes, and there are {len(voting)}"
    elif sum(measure_agreement(questions).beyond_chance.values()) <= 0:
        why = "the agents agree no more than by chance"
    else:
        return None
    x = _equal_start(questions) if questions else 0.5
    return dict.fromkeys(agents, x), f"{why}: all get the same weight, as by majority"


def _equal_start(questions: Sequence[QuestionVotes]) -> float:
    """Return the one accuracy of all agents that gives the mean agreement beyond chance, or a little above chance."""
    found = measure_agreement(questions)
    total = math.fsum(found.beyond_chance[pair] * count for pair, count in found.num_questions.items())
    mean = total / max(1, sum(found.num_questions.values()))
    chance = chance_of(questions)
    return chance + (1 - chance) * math.sqrt(min(max(mean, 0.01), 1.0))


def _agreed_counts(questions: Sequence[QuestionVotes], agents: Sequence[str]) -> dict[int, dict[Pair, tuple[int, int]]]:
    """Return, by number of options and pair (in both orders), how often they agree and on how many questions."""
    found: dict[int, dict[Pair, tuple[int, int]]] = {}
    for question in questions:
        counts = found.setdefault(question.num_options, {})
        for (one, other), is_same in pairs_of(question, agents):
            for pair in ((one, other), (other, one)):
                agreed, total = counts.get(pair, (0, 0))
                counts[pair] = agreed + is_same, total + 1
    return found


def _best_accuracy(
    agent: str, others: Sequence[str], x: Mapping[str, float], by_options: Mapping[int, Mapping[Pair, tuple[int, int]]]
) -> float:
    """Return the accuracy of one agent that fits best, with all others given: p_ij = slope · x_i + rest."""
    top = bottom = 0.0
    for num_options, counts in by_options.items():
        for other in others:
            agreed, total = counts.get((agent, other), (0, 0))
            if total:
                rest = (1 - x[other]) / (num_options - 1)
                slope = x[other] - rest
                top += slope * (agreed - total * rest)
                bottom += slope * slope * total
    return top / bottom if bottom > 0 else x[agent]
