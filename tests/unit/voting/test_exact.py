"""The exact accuracies: published and enumerated values, and what must hold for all accuracies."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.exact import KNOWN_ACCURACIES, MAX_AGENTS, exact_accuracies
from latentmas_ray.voting.rules import RuleName, decide
from tests.cases.votes import letters, question

ACCURACIES = (0.6, 0.7, 0.8, 0.9)
CHANCES = st.floats(0.02, 0.98)


@pytest.mark.parametrize(
    ("num_options", "majority", "sp", "isp", "ow"),
    [
        (2, 85.00, 79.80, 90.20, 91.20),
        (4, 92.37, 90.49, 94.36, 94.69),
        (6, 94.06, 92.71, 95.65, 95.85),
        (8, 94.81, 93.67, 96.25, 96.40),
        (10, 95.23, 94.20, 96.60, 96.71),
    ],
)
def test_the_table_of_four_agents(num_options: int, majority: float, sp: float, isp: float, ow: float) -> None:
    found = exact_accuracies(ACCURACIES, num_options)
    assert list(found) == ["majority", "sp", "isp", "ow"]
    expected = [majority, sp, isp, ow]
    assert [100 * accuracy for accuracy in found.values()] == pytest.approx(expected, abs=0.005)


def by_trying_all(accuracies: tuple[float, ...], num_options: int, rule: RuleName) -> float:
    """The same by all votes there are, each decided as a question is."""
    labels, total = letters(num_options), 0.0
    known = {str(agent): accuracy for agent, accuracy in enumerate(accuracies)}
    for votes in product(labels, repeat=len(accuracies)):
        pairs = zip(votes, accuracies, strict=True)
        chance = math.prod(x if vote == "A" else (1 - x) / (num_options - 1) for vote, x in pairs)
        tied = decide(question("".join(votes), num_options), rule, accuracies=known).tied
        total += chance * ("A" in tied) / len(tied)
    return total


@given(st.lists(CHANCES, min_size=2, max_size=4), st.integers(2, 4), st.sampled_from(KNOWN_ACCURACIES))
def test_it_is_the_sum_over_all_votes(accuracies: list[float], num_options: int, rule: RuleName) -> None:
    found = exact_accuracies(accuracies, num_options, [rule])[rule]
    assert found == pytest.approx(by_trying_all(tuple(accuracies), num_options, rule), abs=1e-9)


@given(st.integers(2, 6), st.integers(2, 6), st.floats(0.01, 0.99))
def test_all_rules_are_majority_where_accuracies_are_the_same_and_above_chance(
    num_agents: int, num_options: int, beyond: float
) -> None:
    accuracy = (1 + beyond * (num_options - 1)) / num_options
    found = exact_accuracies([accuracy] * num_agents, num_options)
    assert list(found.values()) == pytest.approx([found["majority"]] * len(found), abs=1e-9)


@given(st.lists(CHANCES, min_size=2, max_size=5), st.integers(2, 6))
def test_optimal_weights_are_the_best_and_no_worse_than_the_best_agent(
    accuracies: list[float], num_options: int
) -> None:
    found = exact_accuracies(accuracies, num_options)
    assert found["ow"] >= max(found.values()) - 1e-9
    assert found["ow"] >= max(accuracies) - 1e-9


@given(st.floats(0.3, 0.98), st.integers(2, 6), st.integers(3, 5))
def test_with_equal_accuracies_above_chance_all_weights_decide_like_majority(
    accuracy: float, num_options: int, num_agents: int
) -> None:
    if accuracy > 1.001 / num_options:
        found = exact_accuracies([accuracy] * num_agents, num_options, ["majority", "isp", "ow"])
        assert found["ow"] == pytest.approx(found["majority"], abs=1e-9)
        assert found["isp"] == pytest.approx(found["majority"], abs=1e-9)


@given(st.permutations([0.5, 0.6, 0.8, 0.9]), st.integers(2, 5))
def test_the_order_of_agents_changes_nothing(accuracies: list[float], num_options: int) -> None:
    found, other = exact_accuracies(accuracies, num_options), exact_accuracies(sorted(accuracies), num_options)
    assert list(found.values()) == pytest.approx(list(other.values()), abs=1e-12)


def test_agents_that_are_always_right_or_wrong() -> None:
    assert exact_accuracies([1.0, 0.3, 0.4], 4)["ow"] == pytest.approx(1.0)
    assert exact_accuracies([0.0, 0.0], 2)["ow"] == pytest.approx(1.0)  # what they do not say
    assert exact_accuracies([0.5, 0.5], 2)["ow"] == pytest.approx(0.5)


def test_many_agents_and_options_take_no_longer_than_few() -> None:
    found = exact_accuracies([0.7] * 6, 1000, ["majority"])
    assert 0.9 < found["majority"] < 1


@pytest.mark.parametrize("accuracies", [[0.5], [0.5] * (MAX_AGENTS + 1), [0.5, 1.5], [0.5, float("nan")]])
def test_bad_accuracies_are_told(accuracies: list[float]) -> None:
    with pytest.raises(ConfigError, match="accuracies"):
        exact_accuracies(accuracies, 4)


def test_one_option_is_none() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        exact_accuracies([0.5, 0.6], 1)
