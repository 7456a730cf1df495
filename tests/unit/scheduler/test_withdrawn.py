"""A caller gives single questions of its run up: their turns end, and nothing of them comes or is left."""

import pytest

from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.run import WithdrawnQuestions
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.question_runtime import QuestionRuntime
from tests.cases.scheduler import ALL, CHAIN, make_driver, make_questions

SECONDS = {"q0": 1.0, "q1": 50.0, "q2": 2.0, "q3": 40.0}


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("after", [0, 1, 3])
def test_the_others_get_their_answers(name: str, after: int) -> None:
    """`after` so many answers; one question of the first batch, one of a later one, which may not have begun."""
    runtime = FakeRuntime()
    driver, withdrawn = make_driver(runtime, ALL[name]), WithdrawnQuestions()
    found: list[str] = []
    if not after:
        withdrawn.add("q1")
        withdrawn.add("q6")
    for result in driver.scheduler.run(driver.request(plan_batches(make_questions(8), 2), withdrawn=withdrawn)):
        found.append(result.id)
        if len(found) == after:
            withdrawn.add("q1")
            withdrawn.add("q6")
    assert {f"q{number}" for number in range(8)} - {"q1", "q6"} <= set(found)
    assert "q6" not in found
    assert "q1" not in found or found.index("q1") < max(after, 2)
    assert not runtime.handles
    assert not runtime.segments


def test_a_run_ends_when_nothing_of_it_is_wanted() -> None:
    runtime = QuestionRuntime(question_seconds=lambda work, name: SECONDS[name])
    driver, withdrawn = make_driver(runtime, CHAIN), WithdrawnQuestions()
    results = driver.scheduler.run(driver.request(plan_batches(make_questions(4), 4), withdrawn=withdrawn))
    assert next(results).id == "q0"
    for name in ("q1", "q2", "q3"):
        withdrawn.add(name)
        withdrawn.add(name)
    assert list(results) == []
    assert runtime.now < min(SECONDS["q1"], SECONDS["q3"])
    assert ("judger", "q1") in runtime.cancelled_questions or "judger" in runtime.cancelled
    assert not runtime.handles
    assert not runtime.segments


def test_another_run_is_not_touched() -> None:
    runtime = FakeRuntime()
    driver, withdrawn = make_driver(runtime, CHAIN), WithdrawnQuestions()
    batches = plan_batches(make_questions(2), 2)
    first = driver.scheduler.run(driver.request(batches, withdrawn=withdrawn))
    second = driver.scheduler.run(driver.request(batches))
    started = [next(second).id]
    withdrawn.add("q0")
    assert [result.id for result in first] in (["q1"], ["q0", "q1"])
    assert sorted([*started, *(result.id for result in second)]) == ["q0", "q1"]
