"""The figures of hints, from known answers."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.runs.hints.figures import compare_scores, hint_figures, mean_scores, score_questions
from latentmas_ray.runs.hints.rows import HintUse, hint_use, mean_by_question
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks.hints.copies import copies_for_hints
from latentmas_ray.tasks.question import AnswerKind, Question

Predictions = dict[str, list[str | None]]  # of each question, one for each hint


def question(name: str, gold: str | None = "1", kind: AnswerKind = "number") -> Question:
    return Question(id=name, question=f"{name}?", kind=kind, gold=gold, record={})


def rows(given: Predictions, leaks: dict[str, list[bool]] | None = None) -> tuple[list[Answer], dict[str, Question]]:
    """The rows of questions whose gold is 1."""
    found, questions = [], {}
    for name, predictions in given.items():
        for copy, prediction in zip(
            copies_for_hints([question(name)], len(predictions), "own"), predictions, strict=True
        ):
            assert copy.hint is not None
            number = copy.hint.number
            leak = leaks[name][number - 1] if leaks and name in leaks else None
            questions[copy.id] = copy
            found.append(
                Answer(
                    id=copy.id,
                    question=copy.question,
                    gold="1",
                    answer=str(prediction),
                    answer_token_ids=(),
                    prediction=prediction,
                    correct=prediction == "1",
                    seconds=1.0,
                    hint=HintUse(question=name, number=number, of=len(predictions), source="own", leaks=leak),
                )
            )
    return found, questions


def test_average_best_and_voted() -> None:
    answers, questions = rows({"a": ["1", "1", "2", "3"], "b": ["2", "2", "1", None], "c": ["4", "5", "6", "7"]})
    figures = hint_figures(answers, questions)
    assert figures is not None
    assert (figures.num_hints, figures.num_answers, figures.source) == (4, 1, "own")
    assert figures.scores.num_questions == 3
    assert figures.scores.shares == {
        "average": pytest.approx((2 / 4 + 1 / 4 + 0) / 3),
        "best hint": pytest.approx(2 / 3),
        "best answer": pytest.approx(2 / 3),
        "voted": pytest.approx(1 / 3),
    }
    assert (figures.num_read, figures.num_leaks, figures.without_leaks) == (0, 0, None)


def test_leaking_hints_are_counted_and_left_out_of_the_second_figures() -> None:
    given: Predictions = {"a": ["1", "2"], "b": ["1", "1"]}
    answers, questions = rows(given, {"a": [True, False], "b": [True, True]})
    figures = hint_figures(answers, questions)
    assert figures is not None
    assert (figures.num_read, figures.num_leaks) == (4, 3)
    assert figures.scores.shares["average"] == 0.75
    assert figures.without_leaks is not None
    assert figures.without_leaks.num_questions == 1  # of b no hint is left
    assert figures.without_leaks.shares["average"] == 0


@given(
    st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=3, max_size=3), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_scores_are_in_order_and_do_not_depend_on_the_order_of_rows(
    predictions: list[list[str | None]],
    random: "st.random.Random",  # type: ignore[name-defined]
) -> None:
    answers, questions = rows({f"q{number}": each for number, each in enumerate(predictions)})
    scores = score_questions(answers, questions)
    for each in scores.values():
        assert 0 <= each["average"] <= each["best hint"] <= each["best answer"] <= 1
        assert each["voted"] <= each["best answer"]
    random.shuffle(answers)
    assert score_questions(answers, questions) == scores


def test_a_vote_is_by_value_and_an_unreadable_answer_is_no_vote() -> None:
    answers, questions = rows({"a": ["1", None, None, None]})
    assert score_questions(answers, questions)["a"]["voted"] == 1
    answers, questions = rows({"a": [None, None]})
    assert score_questions(answers, questions)["a"]["voted"] == 0


def test_programs_have_no_vote() -> None:
    answers, questions = rows({"a": ["1", "1"]})
    record = {"prompt": "def f():", "test": "assert f()", "entry_point": "f"}
    code = {
        name: Question(id=name, question="f", kind="code", gold=None, record=record, hint=one.hint)
        for name, one in questions.items()
    }
    figures = hint_figures(answers, code)
    assert figures is not None
    assert set(figures.scores.shares) == {"average", "best hint", "best answer"}


def test_gains_are_paired_by_question() -> None:
    with_hints = score_questions(*rows({"a": ["1", "1"], "b": ["1", "2"], "c": ["1", "1"]}))
    without = score_questions(*rows({"a": ["2", "1"], "b": ["2", "2"], "d": ["1", "1"]}))
    gains = compare_scores(without, with_hints)
    assert gains["average"].num_questions == 2
    assert gains["average"].difference == pytest.approx((0.5 + 0.5) / 2)
    assert gains["best hint"].difference == pytest.approx(0.5)
    assert compare_scores({}, with_hints) == {}


def test_scores_over_seeds_are_means() -> None:
    first, second = (
        score_questions(*rows({"a": ["1", "1"]})),
        score_questions(*rows({"a": ["2", "2"], "b": ["1", "1"]})),
    )
    assert mean_scores([first, second]) == {"a": dict.fromkeys(("average", "best hint", "best answer", "voted"), 0.5)}
    assert mean_scores([]) == {}


def test_rows_of_one_question_are_one_value() -> None:
    answers, _ = rows({"a": ["1", "2"], "b": ["1", "1"]})
    assert mean_by_question(answers) == {"a": 0.5, "b": 1.0}


def test_runs_without_hints_or_golds_have_no_figures() -> None:
    assert hint_figures([], {}) is None


@pytest.mark.parametrize(
    ("hint", "texts", "leaks"),
    [
        ("it is 1", [], True),
        (None, ["it is 1", "two"], True),
        (None, ["two"], False),
        (None, [], None),
        ("two", ["1"], True),
    ],
)
def test_a_row_says_whether_its_hint_leaks(hint: str | None, texts: list[str], leaks: bool | None) -> None:
    source = question("a")
    record = {"hints": [hint]} if hint else {}
    copies = copies_for_hints(
        [Question(id="a", question="a?", kind="number", gold="1", record=record)], 1, "oracle" if hint else "own"
    )
    found = hint_use(copies[0], texts)
    assert found is not None
    assert (found.question, found.leaks, found.text) == ("a", leaks, hint)
    assert hint_use(source, texts) is None
    answers, _ = rows({"a": ["1"]})
    row = Answer(**{**vars(answers[0]), "hint": found}).to_row()
    assert Answer.from_row(json.loads(json.dumps(row))).hint == found
    assert row["hint"] == asdict(found)
