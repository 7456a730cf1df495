"""How thoughts converge, as figures of a question and of a run."""

import json
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.diagnostics.alarms import LIMITS
from latentmas_ray.engine.diagnostics.convergence import ConvergenceStats, ThoughtConvergence, describe_repeating

LIKE, UNLIKE = 0.9995, 0.5


def found(*cosines: float, **more: int) -> ThoughtConvergence:
    thoughts = len(cosines) + 1
    return ThoughtConvergence.of(cosines, **{"thoughts": thoughts, "steps": thoughts, **more})


@pytest.mark.parametrize(
    ("cosines", "first", "is_repeating"),
    [
        ((), None, False),
        ((LIKE,), 1, False),
        ((UNLIKE, LIKE, LIKE), 2, False),
        ((UNLIKE, LIKE, LIKE, LIKE), 2, True),
        ((UNLIKE, *[1.0] * 8), 2, True),
        ((*[LIKE] * 5, UNLIKE), None, False),
        ((*[LIKE] * 5, UNLIKE, LIKE), 7, False),
    ],
)
def test_where_thoughts_begin_to_repeat(cosines: tuple[float, ...], first: int | None, is_repeating: bool) -> None:
    one = found(*cosines)
    assert (one.repeats_from(), one.is_repeating()) == (first, is_repeating)
    assert one.cosines == cosines
    assert one.last_cosine == (cosines[-1] if cosines else None)


def test_ten_steps_suffice_for_an_alarm() -> None:
    assert LIMITS.num_alike <= 3
    assert found(0.69, 0.92, 0.99, 0.998, *[LIKE] * 5).is_repeating()


@given(st.lists(st.floats(-1, 1), max_size=12))
def test_cosines_are_kept_to_four_digits_in_few_numbers(cosines: list[float]) -> None:
    one = found(*cosines, 1.0, 1.0)
    assert one.cosines == tuple(round(cosine, 4) for cosine in [*cosines, 1.0, 1.0])
    row = json.loads(json.dumps(one.to_row()))
    assert len(row["cosines"]) <= len(cosines)
    assert row["repeats_from"] is not None


def test_more_cosines_than_thoughts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 cosines of 2 thoughts"):
        ThoughtConvergence(thoughts=2, steps=2, short_cosines=(0.1, 0.2))


def test_the_figures_of_a_run_are_means_by_step() -> None:
    questions = [found(0.5, *[1.0] * 4), found(0.7, 0.9, *[1.0] * 3), found(0.6)]
    stats = ConvergenceStats.of(questions)
    assert stats.mean_cosines == (0.6, round(fmean([1.0, 0.9]), 4), 1.0, 1.0, 1.0)
    assert (stats.num_questions, stats.num_repeating, stats.repeats_from) == (3, 2, 2.5)
    assert stats.last_cosine == round(fmean([1.0, 1.0, 0.6]), 4)
    assert (stats.thoughts, stats.steps, stats.allowed_steps) == (14 / 3, 14 / 3, None)
    assert ConvergenceStats.of([found(0.5, steps=1, allowed_steps=9)]).allowed_steps == 9


def test_repeating_thoughts_are_told_if_they_are_not_rare() -> None:
    many, rare = [found(0.5, *[1.0] * 4)], [found(0.5, *[1.0] * 4)] + [found(0.5)] * 20
    by_agent = {"a": ConvergenceStats.of(many), "b": ConvergenceStats.of(rare), "c": ConvergenceStats.of([found()])}
    assert describe_repeating(by_agent) == "thoughts of a repeat from step 2 on (1 of 1 question)"
    by_agent["b"] = ConvergenceStats.of(many * 2)
    assert describe_repeating(by_agent).endswith(", of b repeat from step 2 on (2 of 2 questions)")
    assert describe_repeating({"b": ConvergenceStats.of(rare)}) == ""
