"""Accuracies that are estimated from votes, next to those of the agents that gave them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.accuracies import (
    accuracies_from_agreement,
    accuracies_from_golds,
    accuracies_from_isp,
    fit_rule,
)
from latentmas_ray.voting.agreement import measure_agreement
from latentmas_ray.voting.dawid_skene import accuracies_by_em
from latentmas_ray.voting.rules import RULES, RuleName, agreement_of
from latentmas_ray.voting.votes import QuestionVotes
from tests.cases.votes import AGENTS, drawn_votes, even_votes, question

ESTIMATED: tuple[RuleName, ...] = ("ow-l", "ow-i", "dawid-skene")
FIVE = {"a": 0.55, "b": 0.65, "c": 0.72, "d": 0.8, "e": 0.9}


def errors(found: dict[str, float], accuracies: dict[str, float] = AGENTS) -> list[float]:
    return [abs(found[agent] - accuracy) for agent, accuracy in accuracies.items()]


@pytest.mark.parametrize("num_options", [2, 4, 6, 8, 10])
@pytest.mark.parametrize(("count", "error"), [(200, 0.02), (20_000, 0.001)])
def test_agreement_alone_gives_the_accuracies(num_options: int, count: int, error: float) -> None:
    votes, _ = even_votes(count, num_options)
    assert max(errors(accuracies_from_agreement(votes))) < error


def test_of_independent_draws_the_estimates_are_right_on_average() -> None:
    found = [accuracies_from_agreement(drawn_votes(200, 4, seed)[0]) for seed in range(60)]
    means = {agent: sum(one[agent] for one in found) / len(found) for agent in AGENTS}
    assert max(errors(means)) < 0.02
    # Of one sample of 200 they are off by 0.03, as golds of 200 questions would be.
    squares = [error**2 for one in found for error in errors(one)]
    assert (sum(squares) / len(squares)) ** 0.5 < 0.05


def test_the_other_estimates_are_near_too() -> None:
    votes, golds = even_votes(4000, 4)
    assert max(errors(accuracies_by_em(votes))) < 0.01
    assert max(errors(accuracies_from_golds(votes, golds))) < 0.005
    # Decisions by isp are right in 94.4 % and are taken for the truth, so these estimates are biased.
    assert max(errors(accuracies_from_isp(votes))) < 0.04


def test_questions_may_have_different_numbers_of_options() -> None:
    votes = [*even_votes(2000, 3, FIVE)[0], *even_votes(2000, 5, FIVE)[0], *even_votes(500, 10, FIVE)[0]]
    assert max(errors(accuracies_from_agreement(votes), FIVE)) < 0.005
    assert max(errors(accuracies_by_em(votes), FIVE)) < 0.01


def without(votes: list[QuestionVotes], every: int) -> list[QuestionVotes]:
    """The same votes, but every so many-th of them cannot be read."""
    kept = [
        {agent: None if (row + column) % every == 0 else vote for column, (agent, vote) in enumerate(one.votes.items())}
        for row, one in enumerate(votes)
    ]
    return [question(one, votes[0].num_options, name=f"q{row}") for row, one in enumerate(kept)]


@pytest.mark.parametrize("every", [5, 7])
def test_missing_votes_are_left_out(every: int) -> None:
    votes = without(even_votes(3000, 4)[0], every)
    assert max(errors(accuracies_from_agreement(votes))) < 0.02
    assert max(errors(accuracies_by_em(votes))) < 0.02


def test_an_agent_below_chance_has_no_weight_where_that_is_only_estimated() -> None:
    liar = {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.05}
    votes, golds = even_votes(2000, 4, liar)
    assert max(errors(accuracies_from_agreement(votes), liar)) < 0.01
    for rule in ESTIMATED:
        known = fit_rule(votes, rule).accuracies
        assert known is not None
        assert known["d"] == pytest.approx(0.25, abs=0.06)
        assert all(weight >= 0 for weight in fit_rule(votes, rule).decide(votes[0]).weights.values())
    true = fit_rule(votes, "ow", golds=golds)
    assert true.decide(votes[0]).weights["d"] < -1


@pytest.mark.parametrize("rule", ESTIMATED)
@pytest.mark.parametrize("agents", [1, 2])
def test_fewer_than_three_agents_decide_as_majority_and_say_so(rule: RuleName, agents: int) -> None:
    votes, _ = even_votes(200, 4, dict(list(AGENTS.items())[-agents:]))
    fitted = fit_rule(votes, rule)
    assert fitted.note is not None
    assert f"it takes 3 agents that vote to estimate accuracies from votes, and there are {agents}" in fitted.note
    majority = fit_rule(votes, "majority")
    assert [fitted.decide(one).label for one in votes] == [majority.decide(one).label for one in votes]


def test_a_third_agent_without_any_vote_does_not_help() -> None:
    votes = [question(f"{vote}-", name=str(index)) for index, vote in enumerate(("AB", "AA", "CC"))]
    note = fit_rule(votes, "ow-l").note
    assert note is not None
    assert "there are 2" in note


def test_agents_that_agree_by_chance_only_decide_as_majority_and_say_so() -> None:
    votes = [question(text, 3, name=str(index)) for index, text in enumerate(("ABC", "BCA", "CAB", "ACB"))]
    for rule in ESTIMATED:
        fitted = fit_rule(votes, rule)
        assert fitted.note is not None
        assert "no more than by chance" in fitted.note
        assert set(fitted.decide(question("AAB", 3)).weights.values()).__len__() == 1


@pytest.mark.parametrize("rule", ESTIMATED)
def test_agents_that_never_disagree_are_not_taken_to_be_never_wrong(rule: RuleName) -> None:
    votes = [question("AAA", name=str(index)) for index in range(9)]
    known = fit_rule(votes, rule).accuracies
    assert known is not None
    assert list(known.values()) == pytest.approx([0.95] * 3, abs=0.03)  # 1 - 1/20, or one vote by chance in ten


def test_golds_count_one_vote_by_chance_for_each_agent() -> None:
    votes = [question("AAB-", name="x"), question("ABB-", name="y"), question("BBB-", name="z")]
    found = accuracies_from_golds(votes, {"x": "A", "y": "A"})
    assert found == pytest.approx({"0": 2.25 / 3, "1": 1.25 / 3, "2": 0.25 / 3, "3": 0.25})


def test_optimal_weights_need_golds() -> None:
    votes, _ = even_votes(8, 4)
    for golds in (None, {}, {"elsewhere": "A"}):
        with pytest.raises(ConfigError, match="rule ow needs"):
            fit_rule(votes, "ow", golds=golds)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "ow"])
def test_golds_are_not_seen_by_any_other_rule(rule: RuleName) -> None:
    votes, golds = even_votes(60, 4)
    wrong = dict.fromkeys(golds, "D")
    assert fit_rule(votes, rule, golds=golds) == fit_rule(votes, rule, golds=wrong)


@given(st.permutations(list(AGENTS)), st.sampled_from(RULES[2:]))
def test_the_order_of_agents_changes_no_estimate(order: list[str], rule: RuleName) -> None:
    votes, _ = even_votes(64, 3)
    other = [question({agent: one.votes[agent] for agent in order}, 3, one.question) for one in votes]
    found, same = fit_rule(votes, rule).accuracies or {}, fit_rule(other, rule).accuracies or {}
    assert {agent: same[agent] for agent in found} == pytest.approx(found, abs=1e-6)


def test_agreement_is_how_often_agents_agree() -> None:
    votes = [question(text, name=str(index)) for index, text in enumerate(("AAB", "AA-", "ABB", "CCC"))]
    found = measure_agreement(votes)
    assert found.rate("0", "1", 4) == pytest.approx(3 / 4)
    assert found.rate("2", "0", 4) == found.rate("0", "2", 4) == pytest.approx(1 / 3)
    assert found.num_questions == {("0", "1"): 4, ("0", "2"): 3, ("1", "2"): 3}
    apart = measure_agreement([question("A-", name="x"), question("-A", name="y")])
    assert apart.rate("0", "1", 4) == 1 / 4  # they never voted together


def test_over_questions_with_other_options_agreement_is_what_is_beyond_chance() -> None:
    votes = [*even_votes(4000, 3)[0], *even_votes(4000, 3)[0], *even_votes(4000, 6)[0]]
    expected = {count: agreement_of(AGENTS["c"], AGENTS["d"], count) for count in (3, 6)}
    found = measure_agreement(votes)
    assert {count: found.rate("c", "d", count) for count in (3, 6)} == pytest.approx(
        expected, abs=0.04
    )  # accuracies are equal, not skills


def mixed_votes(accuracies: dict[str, float], counts: tuple[int, ...], seed: int) -> list[QuestionVotes]:
    """Independent draws on 150 questions of each number of options."""
    found = [one for count in counts for one in drawn_votes(150, count, seed, accuracies)[0]]
    return [question(dict(one.votes), one.num_options, name=f"q{row}") for row, one in enumerate(found)]


@pytest.mark.parametrize(
    ("accuracies", "counts"),
    [
        ({"a": 0.9, "b": 0.6, "c": 0.1}, (2, 3, 5)),  # the mirror image fits worse, and is found first
        ({"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.2}, (4,)),  # some draws are explained best by accuracies above 1
    ],
)
def test_the_best_possible_fit_is_found_with_agents_below_chance(
    accuracies: dict[str, float], counts: tuple[int, ...]
) -> None:
    for seed in range(6):
        found = accuracies_from_agreement(mixed_votes(accuracies, counts, seed))
        assert all(0 <= value <= 1 for value in found.values())
        assert max(errors(found, accuracies)) < 0.2


def test_an_agent_without_votes_does_not_decide_which_of_two_fits_is_taken() -> None:
    votes = drawn_votes(300, 2, 5, {"a": 0.9, "b": 0.8, "c": 0.4})[0]
    silent = [question({**one.votes, "n": None}, 2, one.question) for one in votes]
    found = accuracies_from_agreement(silent)
    assert {name: found[name] for name in "abc"} == pytest.approx(accuracies_from_agreement(votes), abs=1e-6)
