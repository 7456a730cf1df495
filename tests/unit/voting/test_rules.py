"""The decision of one question: the formulas as they are published, ties, missing votes, agents below chance."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.accuracies import fit_rule
from latentmas_ray.voting.rules import (
    BY_ACCURACY,
    RULES,
    AgreementOfAccuracies,
    RuleName,
    agreement_of,
    decide,
    optimal_weight,
    weights_of,
)
from latentmas_ray.voting.votes import QuestionVotes, open_num_options
from tests.cases.votes import letters, question

CHANCES = st.floats(0.05, 0.95)
VOTES = st.text("ABC-", min_size=1, max_size=6)
SIX = {str(agent): accuracy for agent, accuracy in enumerate((0.9, 0.55, 0.7, 0.62, 0.85, 0.48))}


def published_scores(votes: Mapping[str, str], num_options: int, rule: RuleName) -> dict[str, float]:
    """SP and ISP as sums of conditional probabilities, as arXiv 2510.01499 defines them."""
    labels = letters(num_options)

    def probability(i: str, s: str, j: str, a: str) -> float:
        same = agreement_of(SIX[i], SIX[j], num_options)
        return same if s == a else (1 - same) / (num_options - 1)

    def expected(i: str, s: str, j: str) -> float:
        if rule == "sp":
            return probability(i, s, j, votes[j])
        others = [a for a in labels if a != votes[j]]
        return sum(probability(i, s, j, a) for a in others) / (num_options - 1)

    def surprise(s: str) -> float:
        count = sum(vote == s for vote in votes.values())
        means = (sum(expected(i, s, j) for j in votes if j != i) / (len(votes) - 1) for i in votes)
        return count - sum(means)

    return {s: surprise(s) for s in labels}


@given(st.text("ABCD", min_size=2, max_size=6), st.sampled_from(["sp", "isp"]))
def test_weighted_votes_decide_as_the_published_sums(votes: str, rule: RuleName) -> None:
    asked = question(votes)
    sums = published_scores(asked.cast, 4, rule)
    found = decide(asked, rule, accuracies=SIX).scores
    shift = sums["A"] - found["A"]
    assert {label: score + shift for label, score in found.items()} == pytest.approx(sums, abs=1e-9)


@given(st.lists(CHANCES, min_size=2, max_size=6), st.integers(2, 9))
def test_weights_of_isp_are_what_the_formula_says(accuracies: list[float], num_options: int) -> None:
    known = {str(agent): accuracy for agent, accuracy in enumerate(accuracies)}
    weights = weights_of(question("A" * len(known), num_options), "isp", accuracies=known)
    for j, x in known.items():
        terms = [num_options * agreement_of(x, known[i], num_options) - 1 for i in known if i != j]
        expected = 1 + sum(terms) / ((len(known) - 1) * (num_options - 1) ** 2)
        assert weights[j] == pytest.approx(expected)
    if min(accuracies) >= 1 / num_options:
        bound = 1 + 1 / (num_options - 1)
        assert all(1 - 1e-9 <= weight <= bound + 1e-9 for weight in weights.values())


@given(CHANCES, CHANCES, st.integers(2, 9))
def test_agreement_beyond_chance_is_a_product(x: float, y: float, num_options: int) -> None:
    left = num_options * (num_options - 1) * (agreement_of(x, y, num_options) - 1 / num_options)
    assert left == pytest.approx((num_options * x - 1) * (num_options * y - 1), abs=1e-9)
    rates = AgreementOfAccuracies({"i": x, "j": y})
    assert rates.rate("i", "j", num_options) == agreement_of(x, y, num_options)


@given(VOTES, st.floats(0.34, 0.95))
def test_with_equal_accuracies_optimal_weights_are_majority(votes: str, accuracy: float) -> None:
    asked = question(votes, 3)
    found = decide(asked, "ow", accuracies=dict.fromkeys(asked.votes, accuracy))
    assert (found.label, found.tied) == (decide(asked, "majority").label, decide(asked, "majority").tied)


@given(VOTES, st.randoms(use_true_random=False), st.sampled_from(RULES))
def test_the_order_of_agents_decides_nothing(votes: str, random: object, rule: RuleName) -> None:
    asked = question(votes)
    shuffled = list(asked.votes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = question({agent: asked.votes[agent] for agent in shuffled})
    found, same = decide(asked, rule, accuracies=SIX), decide(other, rule, accuracies=SIX)
    assert (found.label, found.tied, found.scores) == (same.label, same.tied, same.scores)


@given(VOTES, st.permutations(letters(4)), st.sampled_from(RULES))
def test_other_names_of_options_change_names_only(votes: str, names: list[str], rule: RuleName) -> None:
    asked, renamed = question(votes), dict(zip(letters(4), names, strict=True))
    other = question({agent: renamed[vote] if vote else None for agent, vote in asked.votes.items()})
    found, same = decide(asked, rule, accuracies=SIX), decide(other, rule, accuracies=SIX)
    assert sorted(renamed[label] for label in found.tied) == sorted(same.tied)
    assert {renamed[label]: score for label, score in found.scores.items()} == pytest.approx(same.scores)


def test_ties_are_drawn_evenly_and_always_alike() -> None:
    asked = [question("AABB", name=f"q{number}") for number in range(2000)]
    found = [decide(one, "majority") for one in asked]
    assert all(one.is_tie and one.tied == ("A", "B") for one in found)
    assert 900 < sum(one.label == "A" for one in found) < 1100
    assert [decide(one, "majority").label for one in asked] == [one.label for one in found]
    assert [decide(one, "majority", seed=1).label for one in asked] != [one.label for one in found]


def test_an_answer_that_cannot_be_read_is_no_vote() -> None:
    assert decide(question("A--"), "majority").label == "A"
    assert decide(question("A--"), "isp", accuracies=SIX).weights == {"0": 1.0}
    nothing = decide(question("---"), "ow", accuracies=SIX)
    assert (nothing.label, nothing.tied, nothing.scores, nothing.weights) == (None, (), {}, {})


def test_one_good_agent_outweighs_two_bad_ones() -> None:
    known = {"0": 0.95, "1": 0.5, "2": 0.5}
    assert decide(question("ABB"), "majority").label == "B"
    assert decide(question("ABB"), "ow", accuracies=known).label == "A"


def test_votes_of_an_agent_below_chance_count_against_their_answer() -> None:
    found = decide(question("A", 2), "ow", accuracies={"0": 0.1})
    assert (found.label, found.scores["A"]) == ("B", pytest.approx(math.log(0.1 / 0.9)))
    unnamed = QuestionVotes(question="q", votes={"0": "A", "1": "B"}, num_options=4)
    assert decide(unnamed, "ow", accuracies={"0": 0.2, "1": 0.1}).label == "A"  # the others have no name


def test_agents_at_chance_leave_it_to_what_has_votes() -> None:
    assert decide(question("A-"), "ow", accuracies={"0": 0.25, "1": 0.25}).tied == ("A",)


def test_an_agent_that_is_never_wrong_decides() -> None:
    known = {"0": 1.0, **{str(agent): 0.999 for agent in range(1, 3)}}
    assert decide(question("ABB"), "ow", accuracies=known).label == "A"
    assert math.isfinite(optimal_weight(0.0, 4))


def test_weights_depend_on_the_options_of_the_question() -> None:
    known = {"0": 0.6, "1": 0.7}
    few, many = (weights_of(question("AB", count), "ow", accuracies=known) for count in (2, 26))
    assert few == pytest.approx({"0": math.log(0.6 / 0.4), "1": math.log(0.7 / 0.3)})
    assert many == pytest.approx({agent: weight + math.log(25) for agent, weight in few.items()})


@pytest.mark.parametrize("rule", sorted(BY_ACCURACY))
def test_missing_and_impossible_accuracies_are_told(rule: RuleName) -> None:
    with pytest.raises(ConfigError, match=f"rule {rule} needs the accuracy"):
        decide(question("AB"), rule)
    with pytest.raises(ConfigError, match="that of agent 1, too"):
        decide(question("AB"), rule, accuracies={"0": 0.5})
    with pytest.raises(ConfigError, match="in 0 to 1"):
        decide(question("AB"), rule, accuracies={"0": 0.5, "1": math.nan})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_options": 1}, "at least 2"),
        ({"num_options": 3, "options": ("A", "B")}, "they must be 3, all different"),
        ({"num_options": 2, "options": ("A", "A")}, "all different"),
        ({"num_options": 2, "options": ("B", "C")}, "one of B, C"),
        ({"num_options": 2, "votes": {"0": "A", "1": "B", "2": "C"}}, "3 different labels"),
    ],
)
def test_votes_that_cannot_be_are_told(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        QuestionVotes(**{"question": "q", "votes": {"0": "A"}, **fields})  # type: ignore[arg-type]


def test_open_questions_have_one_option_more_than_were_given() -> None:
    assert open_num_options([{"a": "7", "b": "8", "c": None}, {"a": "7", "b": "7"}]) == 3
    assert open_num_options([{"a": "7", "b": "7"}]) == 2
    assert open_num_options([]) == 2


def test_rules_that_learn_nothing_need_no_questions() -> None:
    assert fit_rule([], "majority").decide(question("AAB")).label == "A"
