"""Controls that run together: their names, gains, churn and adoption, from known answers."""

from typing import Any

import pytest

from latentmas_ray import Answer, churn
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.controls.adoption import Adoption, adoption_figures
from latentmas_ray.runs.controls.churn import churn_over_seeds
from latentmas_ray.runs.controls.gains import PAIRING_GAIN, SYSTEM_GAIN, gains_over
from latentmas_ray.runs.controls.names import DEFAULT_CONTROLS, check_controls, parse_controls


def answer(name: str, prediction: str | None, *, gold: str | None = "1", tokens: tuple[int, ...] = (1,)) -> Answer:
    return Answer(
        id=name,
        question=f"{name}?",
        gold=gold,
        answer=str(prediction),
        answer_token_ids=tokens,
        prediction=prediction,
        correct=None if gold is None else prediction in ("1", "1.0"),
        seconds=1.0,
    )


@pytest.mark.parametrize("given", [True, "matched,deranged,none", ["matched", "deranged", "none"]])
def test_names_of_controls(given: Any) -> None:
    assert parse_controls(given) == DEFAULT_CONTROLS
    assert parse_controls(" matched, corrupted") == ("matched", "corrupted")


@pytest.mark.parametrize(
    "given", ["", "matched", "none,deranged", "matched,other", "matched,none,none", "matched,,none", False, 3, [1]]
)
def test_names_that_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"controls: got .*; it must be matched and at least one other of deranged"):
        parse_controls(given)


@pytest.mark.parametrize(
    ("controls", "fields", "expected"),
    [
        ("matched,none", {"method": "single"}, "controls: got 'matched,none'; method single hands over no memory"),
        ("matched,corrupted,none", {"method": "text"}, "method text hands over no memory, so none means nothing"),
        ("matched,none", {"memory": "deranged"}, "it cannot be used with memory deranged"),
    ],
)
def test_controls_that_mean_nothing_are_refused(controls: str, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_controls(parse_controls(controls), make_config(fields))


def test_text_can_be_told_something_wrong_and_one_agent_alone_cannot() -> None:
    check_controls(("matched", "corrupted"), make_config({"method": "text"}))
    assert make_config({"method": "text", "memory": "corrupted"}).memory == "corrupted"
    with pytest.raises(ConfigError, match="memory: got 'corrupted'; one agent alone hands nothing on"):
        make_config({"method": "single", "memory": "corrupted"})


def test_gains_are_paired_on_the_questions_of_both() -> None:
    gains = gains_over({"none": {"a": 0, "b": 0}, "matched": {"a": 1, "b": 0, "c": 1}, "deranged": {"z": 1}})
    assert [(gain.kind, gain.control) for gain in gains] == [(SYSTEM_GAIN, "none"), (PAIRING_GAIN, "deranged")]
    assert gains[0].paired is not None
    assert (gains[0].paired.difference, gains[0].paired.num_questions) == (0.5, 2)
    assert gains[1].paired is None


def test_churn_counts_what_changes_and_whether_for_the_better() -> None:
    base = [answer("a", "1"), answer("b", "2"), answer("c", "1"), answer("d", "2"), answer("e", "1"), answer("x", "1")]
    other = [
        answer("e", "1", tokens=(1, 2)),
        answer("d", "3"),
        answer("c", "1.0"),
        answer("b", "1"),
        answer("a", None),
        answer("y", "1"),
    ]
    found = churn(base, other)
    assert (found.num_answers, found.changed, found.changed_texts) == (5, 4, 5)
    assert (found.right_to_wrong, found.wrong_to_right) == (1, 1)
    assert (found.right_otherwise, found.wrong_otherwise, found.share) == (1, 1, 0.8)
    assert churn(base, base).changed == churn(base, base).changed_texts == 0
    assert churn([answer("a", "1", gold=None)], [answer("a", "2", gold=None)]).changed == 1
    twice = churn_over_seeds([base, base], [other, base, other])
    assert (twice.num_answers, twice.changed) == (11, 4)
    assert churn([], []).share == 0


def test_adoption_over_questions_and_seeds() -> None:
    first = {name: Adoption(agent="a", wrong_gold="2", outcome="adopted") for name in "ab"}
    second = {**first, "b": Adoption(agent="a", wrong_gold="2", outcome="right")}
    found = adoption_figures([first, second])
    assert found is not None
    assert (found.num_questions, found.adopted, found.right, found.neither) == (2, 0.75, 0.25, 0.0)
    assert adoption_figures([{}]) is None
    assert adoption_figures([]) is None
