"""Votes of made-up agents that follow the rules' model."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from latentmas_ray.voting.votes import QuestionVotes

AGENTS = {"a": 0.6, "b": 0.7, "c": 0.8, "d": 0.9}  # accuracies


def letters(count: int) -> tuple[str, ...]:
    return tuple(chr(ord("A") + index) for index in range(count))


def question(votes: str | Mapping[str, str | None], num_options: int = 4, name: str = "q") -> QuestionVotes:
    """`AB-` as the votes of agents 0, 1 and 2, the last of which gives none."""
    if isinstance(votes, str):
        votes = {str(agent): None if label == "-" else label for agent, label in enumerate(votes)}
    return QuestionVotes(question=name, votes=votes, num_options=num_options, options=letters(num_options))


def even_votes(
    count: int, num_options: int, accuracies: Mapping[str, float] = AGENTS
) -> tuple[list[QuestionVotes], dict[str, str]]:
    """Questions and golds whose votes are spread evenly (the first points of Sobol's sequence, which nothing is drawn
    for), so that rates are nearer to their probabilities than those of independent draws."""
    points = qmc.Sobol(2 * len(accuracies), scramble=False).random(1 << (count - 1).bit_length())[:count]
    return _votes(points, num_options, accuracies)


def drawn_votes(
    count: int, num_options: int, seed: int, accuracies: Mapping[str, float] = AGENTS
) -> tuple[list[QuestionVotes], dict[str, str]]:
    """Questions and golds whose votes are independent draws."""
    points = np.random.default_rng(seed).random((count, 2 * len(accuracies)))
    return _votes(points, num_options, accuracies)


def _votes(
    points: NDArray[np.float64], num_options: int, accuracies: Mapping[str, float]
) -> tuple[list[QuestionVotes], dict[str, str]]:
    labels = letters(num_options)
    golds = {f"q{index}": index % num_options for index in range(len(points))}
    votes = [
        question(dict(_one(point, gold, labels, accuracies)), num_options, name)
        for point, (name, gold) in zip(points, golds.items(), strict=True)
    ]
    return votes, {name: labels[gold] for name, gold in golds.items()}


def _one(
    point: NDArray[np.float64], gold: int, labels: Sequence[str], accuracies: Mapping[str, float]
) -> list[tuple[str, str]]:
    found = []
    for index, (agent, accuracy) in enumerate(accuracies.items()):
        is_right = point[index] < accuracy
        shift = 0 if is_right else 1 + int(point[len(accuracies) + index] * (len(labels) - 1))
        found.append((agent, labels[(gold + shift) % len(labels)]))
    return found
