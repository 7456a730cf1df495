"""The exact accuracy of rules under their model, by enumeration instead of sampling.

Only who is right and which of the others agree makes a difference to a decision, so the cases are the partitions of
the agents and the truth: Bell's number of N + 1, whatever K is (203 for five agents, 115,975 for nine).
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.rules import RuleName, leading_labels, weights_of
from latentmas_ray.voting.votes import QuestionVotes

MAX_AGENTS = 9
KNOWN_ACCURACIES: tuple[RuleName, ...] = ("majority", "sp", "isp", "ow")  # rules that estimate nothing


def exact_accuracies(
    accuracies: Sequence[float], num_options: int, rules: Sequence[RuleName] = KNOWN_ACCURACIES
) -> dict[RuleName, float]:
    """Return the probability that each rule decides for the right answer, of agents with these accuracies that vote
    independently on questions with `num_options` options. Ties are split evenly.

    Raises ConfigError for fewer than two agents or more than `MAX_AGENTS`, an accuracy that is not in 0 to 1, and fewer
    than two options.
    """
    if not 2 <= len(accuracies) <= MAX_AGENTS:
        given = ",".join(f"{accuracy:g}" for accuracy in accuracies)
        raise ConfigError("accuracies", given, f"it must be 2 to {MAX_AGENTS} of them")
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:  # NaN neither
            raise ConfigError("accuracies", accuracy, "each must be in 0 to 1")
    names = [str(number) for number in range(len(accuracies))]
    all_vote = QuestionVotes(question="", votes=dict.fromkeys(names, "right"), num_options=num_options)
    known = dict(zip(names, accuracies, strict=True))
    weights = {rule: weights_of(all_vote, rule, accuracies=known) for rule in rules}
    shares: dict[RuleName, list[float]] = {rule: [] for rule in rules}
    for probability, groups in _cases(list(known.items()), num_options):
        for rule in rules:
            shares[rule].append(probability * _share_right(groups, weights[rule], num_options))
    return {rule: math.fsum(found) for rule, found in shares.items()}


def _share_right(groups: Sequence[Sequence[str]], weights: Mapping[str, float], num_options: int) -> float:
    """Return 1 over the number of answers that could win if the right one is among them, which is the first; else 0."""
    by_label = {label: [weights[agent] for agent in group] for label, group in enumerate(groups)}
    num_unused = num_options - len(groups)  # wrong answers without votes: one stands for all
    leading = leading_labels(by_label | ({len(groups): []} if num_unused else {}))
    if 0 not in leading:
        return 0.0
    return 1 / (len(leading) + (num_unused - 1 if len(groups) in leading else 0))


def _cases(agents: Sequence[tuple[str, float]], num_options: int) -> Iterator[tuple[float, list[list[str]]]]:
    """Yield the probability of each case, and who gave each of the answers: the right one first, then the wrong ones in
    the order of the agents, which stand for all choices of as many wrong answers."""

    def extend(index: int, probability: float, groups: list[list[str]]) -> Iterator[tuple[float, list[list[str]]]]:
        if not probability:
            return
        if index == len(agents):
            yield probability, groups
            return
        name, x = agents[index]
        wrong = (1 - x) / (num_options - 1)
        for number, group in enumerate(groups):
            chance = wrong if number else x
            yield from extend(
                index + 1, probability * chance, [*groups[:number], [*group, name], *groups[number + 1 :]]
            )
        if unused := num_options - len(groups):
            yield from extend(index + 1, probability * wrong * unused, [*groups, [name]])

    return extend(0, 1.0, [[]])
