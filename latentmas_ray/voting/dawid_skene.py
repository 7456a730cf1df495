"""Accuracies from votes alone by expectation maximisation (Dawid and Skene 1979, Applied Statistics 28).

In its form with one accuracy for each agent: a label means something else in every question (letter A is one option
here and another there), so a confusion matrix of labels would have little to learn. crowd-kit has the method too, but
comes with pandas, pyarrow, scikit-learn and nltk, for these few lines.
"""

import math
from collections.abc import Mapping, Sequence

from latentmas_ray.voting.agreement import agents_of
from latentmas_ray.voting.rules import optimal_weight
from latentmas_ray.voting.votes import QuestionVotes

_MAX_ITERATIONS = 1000
_CONVERGED = 1e-8  # largest change of an accuracy in one iteration


def accuracies_by_em(questions: Sequence[QuestionVotes]) -> dict[str, float]:
    """Return the accuracies that make the votes most likely, from where all agents have the same weight.

    In turn: how likely each label is to be right, given the accuracies; and each accuracy, as the mean of how likely
    the agent's votes are to be right. One vote by chance is added for each agent, so that none is 0 or 1.
    """
    agents = agents_of(questions)
    x = _means(questions, agents, [_shares(question) for question in questions])
    for _ in range(_MAX_ITERATIONS):
        fresh = _means(questions, agents, [_posterior(question, x) for question in questions])
        change = max(abs(fresh[agent] - x[agent]) for agent in agents)
        x = fresh
        if change < _CONVERGED:
            break
    return x


def _shares(question: QuestionVotes) -> dict[str, float]:
    """Return the share of the votes that each label has."""
    labels = list(question.cast.values())
    return {label: labels.count(label) / len(labels) for label in labels}


def _posterior(question: QuestionVotes, x: Mapping[str, float]) -> dict[str, float]:
    """Return the probability of each label that has votes, all options being equally likely before the votes."""
    logs: dict[str, float] = {}
    for agent, label in question.cast.items():
        logs[label] = logs.get(label, 0.0) + optimal_weight(x[agent], question.num_options)
    highest = max(0.0, *logs.values()) if logs else 0.0
    unnamed = (question.num_options - len(logs)) * math.exp(-highest)  # options without votes
    parts = {label: math.exp(value - highest) for label, value in logs.items()}
    total = math.fsum(parts.values()) + unnamed
    return {label: part / total for label, part in parts.items()}


def _means(
    questions: Sequence[QuestionVotes], agents: Sequence[str], likely: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    chance = 1 / min(question.num_options for question in questions)
    right, votes = dict.fromkeys(agents, chance), dict.fromkeys(agents, 1)
    for question, by_label in zip(questions, likely, strict=True):
        for agent, label in question.cast.items():
            right[agent] += by_label[label]
            votes[agent] += 1
    return {agent: right[agent] / votes[agent] for agent in agents}
