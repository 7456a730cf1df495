"""Actors of text agents: several turns at the same time, and each question that ends is reported at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.actors import RayRuntime
from latentmas_ray.actors.text.setup import TextSetup
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.scheduler.protocol import (
    Event,
    QuestionDone,
    TokensWritten,
    TurnDone,
    TurnFailed,
    TurnHandle,
    TurnLost,
)
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.scripted_engine import scripted_runner, text_of
from tests.ray.actor_cases import PATIENCE_SECONDS, actors_of
from tests.ray.stand_ins import StandIn, number_of

pytestmark = pytest.mark.usefixtures("cluster")

PAIR = ("planner", "judger")


MAX_RUNNING = 4


@contextmanager
def started(folder: Path, **more: Any) -> Iterator[RayRuntime]:
    """A thinker and a writer, of which the latter misbehaves once if `folder` has a file `armed` and a prompt asks."""
    setup = TextSetup(make_runner=partial(scripted_runner, MAX_RUNNING, folder / "armed"), max_running=MAX_RUNNING)
    with actors_of(PAIR, partial(StandIn, folder), texts={"judger": setup}, **more) as (runtime, info):
        assert info.writes_at_once == {"judger": MAX_RUNNING}
        yield runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def runtime(cluster: None, folder: Path) -> Iterator[RayRuntime]:
    """One for all tests that leave nothing running on it."""
    with started(folder) as runtime:
        yield runtime


def request(agent: str, *prompts: str, **changes: Any) -> TurnRequest:
    fields: dict[str, Any] = {"thinks": "latent" if agent == "planner" else "text", "latent_steps": 1} | changes
    return TurnRequest(
        agent=agent,
        batch=0,
        question_ids=tuple(f"q{index}" for index in range(len(prompts))),
        prompts=tuple(Prompt(messages=({"role": "user", "content": text},)) for text in prompts),
        sampling=Sampling(max_new_tokens=200),
        is_last=agent == "judger",
        **fields,
    )


def poll_until(runtime: RayRuntime, is_enough: Callable[[list[Event]], bool]) -> list[Event]:
    """All events until there are enough."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_enough(events):
        assert time.monotonic() < deadline, events
        events += runtime.poll(1.0)
    return events


def has_ended(*handles: TurnHandle) -> Callable[[list[Event]], bool]:
    def is_enough(events: list[Event]) -> bool:
        over = [event.handle for event in events if isinstance(event, TurnDone | TurnFailed | TurnLost)]
        return all(handle in over for handle in handles)

    return is_enough


def of(kind: type[Any], events: list[Event], handle: TurnHandle) -> list[Any]:
    return [event for event in events if isinstance(event, kind) and event.handle is handle]


def test_questions_are_reported_when_they_end_and_turns_overlap(runtime: RayRuntime) -> None:
    long = runtime.submit(request("judger", "write 2", "write 40 sleep 0.05"), {})
    short = runtime.submit(request("judger", "write 3"), {})
    events = poll_until(runtime, has_ended(long, short))
    first, last = of(QuestionDone, events, long)
    (result,) = [event.result for event in of(TurnDone, events, long)]
    order = [event for event in events if isinstance(event, QuestionDone | TurnDone)]
    # The short question of the long turn and the short turn do not wait for the long question.
    assert order.index(first) < len(order) - 2
    assert order[-2:] == [*of(TurnDone, events, long), last]
    assert order.index(of(TurnDone, events, short)[0]) < len(order) - 2
    assert (first.question_id, first.result.texts) == ("q0", (text_of("write 2", 2),))
    assert (last.question_id, last.result) == ("q1", None)
    assert result.texts == (text_of("write 2", 2), text_of("write 40 sleep 0.05", 40))
    grown = [event.num_tokens for event in of(TokensWritten, events, long) if event.question_id == "q1"]
    assert len(grown) >= 2, "tokens are reported while the text grows"
    assert grown == sorted(grown)


def test_memory_reaches_the_questions_that_read_it(runtime: RayRuntime) -> None:
    planner = runtime.submit(request("planner", "wait 0.2 x", "wait 0.2 yy"), {})
    reads = (AgentMemory("planner"),)
    judger = runtime.submit(
        request("judger", "write 3", "write 4 sleep 0.2", reads=reads), {"planner": planner.segment}
    )
    events = poll_until(runtime, has_ended(planner, judger))
    (done,) = of(TurnDone, events, judger)
    number = number_of("planner")
    assert done.result.texts == (text_of("write 3", 3, number), text_of("write 4 sleep 0.2", 4, number))
    (read,) = done.result.reads
    (question,) = [event.result for event in of(QuestionDone, events, judger) if event.result is not None]
    assert question.reads == done.result.reads
    assert (read.source, read.link, read.moved_bytes) == ("planner", "same_node", read.num_bytes)
    assert 0.0 <= read.exposed_seconds <= read.seconds


def test_cancelled_questions_leave_the_engine(runtime: RayRuntime) -> None:
    """Else the other turn would wait for a place."""
    forever = runtime.submit(request("judger", *["write 200 sleep 0.3"] * MAX_RUNNING), {})
    half = runtime.submit(request("judger", "write 3", "write 200 sleep 0.3"), {})
    poll_until(runtime, lambda events: bool(of(TokensWritten, events, forever)))
    runtime.cancel([half], {"q1"})
    runtime.cancel([forever])
    events = poll_until(runtime, has_ended(half))
    assert not of(TurnDone, events, forever)
    (done,) = of(TurnDone, events, half)
    assert done.result.texts[0] == text_of("write 3", 3)
    assert [event.question_id for event in of(QuestionDone, events, half)] == ["q0"]


def test_people_who_wait_see_how_far_the_turns_are(runtime: RayRuntime) -> None:
    turns = [runtime.submit(request("judger", f"write {100 + index} sleep 0.05"), {}) for index in range(2)]
    poll_until(runtime, lambda events: all(of(TokensWritten, events, turn) for turn in turns))
    running = runtime.running_turns()
    runtime.cancel(turns)
    assert len(running) == 2, running
    assert all(one.step == "token" and 0 < one.num_done <= one.num_total for one in running), running


@pytest.mark.parametrize(
    "deed",
    ["die", pytest.param("exit", marks=pytest.mark.slow)],  # `test_failures.py` has a process that ends
)
def test_an_engine_that_dies_loses_its_turns_and_is_replaced(runtime: RayRuntime, folder: Path, deed: str) -> None:
    (folder / "armed").touch()
    # It writes for longer than anything delays the second turn, which ends it.
    turns = [request("judger", "write 2", "write 200 sleep 0.1"), request("judger", f"write 3 {deed}")]
    first = runtime.submit(turns[0], {})
    seen = poll_until(runtime, lambda events: bool(of(QuestionDone, events, first)))
    second = runtime.submit(turns[1], {})
    events = poll_until(runtime, has_ended(first, second))
    (lost,), (suspect,) = of(TurnLost, events, first), of(TurnLost, events, second)
    assert "died" in lost.reason
    if deed == "die":
        assert "the device is gone" in lost.reason
    assert suspect.is_suspect
    assert not lost.is_suspect, "it had written tokens"
    assert [event.question_id for event in of(QuestionDone, seen, first)] == ["q0"]
    again = [runtime.submit(turn, {}) for turn in (request("judger", "write 2", "write 60"), turns[1])]
    events = poll_until(runtime, has_ended(*again))
    texts = [event.result.texts for handle in again for event in of(TurnDone, events, handle)]
    assert texts == [
        (text_of("write 2", 2), text_of("write 60", 60)),
        (text_of(f"write 3 {deed}", 3),),
    ]


@pytest.mark.slow  # `tests/unit/actors/test_texts.py` has what the health check makes of steps
def test_an_engine_that_makes_no_step_is_taken_to_hang_but_long_texts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentmas_ray.actors.health.monitor.CHECK_SECONDS", 0.2)
    monkeypatch.setattr("latentmas_ray.actors.text.text_replica.REPORT_SECONDS", 0.3)
    (tmp_path / "armed").touch()
    with started(tmp_path, turn_seconds=3.0) as runtime:
        # Together the turns take longer than the limit, each question less.
        slow = [runtime.submit(request("judger", *["write 10 sleep 0.02"] * 4), {}) for _ in range(5)]
        events = poll_until(runtime, has_ended(*slow))
        failed = [event.result.failed for handle in slow for event in of(TurnDone, events, handle)]
        assert failed == [{}] * len(slow)
        hangs = runtime.submit(request("judger", "write 1 hang"), {})
        events = poll_until(runtime, has_ended(hangs))
        (lost,) = of(TurnLost, events, hangs)
        assert "its engine made no step in 3.0 s (turn_timeout)" in lost.reason


@pytest.mark.slow  # two actors for the limit alone; `tests/unit/writing/test_writer.py` has it without actors
def test_a_question_that_takes_too_long_fails_alone(tmp_path: Path) -> None:
    with started(tmp_path, turn_seconds=3.0) as runtime:
        turn = runtime.submit(request("judger", "write 200 sleep 0.05", "write 2"), {})
        events = poll_until(runtime, has_ended(turn))
        (done,) = of(TurnDone, events, turn)
        assert done.result.failed == {"q0": "it took longer than 3.0 s (turn_timeout)"}
        assert done.result.texts[1] == text_of("write 2", 2)


@contextmanager
def divided(tmp_path: Path) -> Iterator[RayRuntime]:
    """A writer of two ranks."""
    armed = tmp_path / "armed"
    armed.touch()
    setup = TextSetup(make_runner=partial(scripted_runner, 3, armed), max_running=3, engine="vllm")
    with actors_of(["judger"], partial(StandIn, tmp_path), texts={"judger": setup}, tp=2) as (runtime, info):
        assert info.writes_at_once == {"judger": 3}
        yield runtime


def test_ranks_write_the_same_questions_and_one_fails_alone(tmp_path: Path) -> None:
    with divided(tmp_path) as runtime:
        prompts = ("write 3", "write 9 refuse1", "write 40 sleep 0.02", "write 2")
        turns = [runtime.submit(request("judger", *prompts), {}), runtime.submit(request("judger", "write 5"), {})]
        events = poll_until(runtime, has_ended(*turns))
        first, second = [of(TurnDone, events, turn)[0].result for turn in turns]
        assert first.failed == {"q1": "this memory cannot be read"}
        expected = [text_of(prompt, int(prompt.split()[1])) for prompt in prompts]
        assert [text for text in first.texts if text] == [expected[0], expected[2], expected[3]]
        assert second.texts == (text_of("write 5", 5),)
        assert {event.question_id for event in of(QuestionDone, events, turns[0])} == {"q0", "q1", "q2", "q3"}
        later = runtime.submit(request("judger", "write 4"), {})  # after all ranks were idle
        assert of(TurnDone, poll_until(runtime, has_ended(later)), later)[0].result.texts == (text_of("write 4", 4),)


@pytest.mark.slow  # `tests/ray/test_sharded_replica.py` kills a rank of another kind of replica
def test_a_rank_that_dies_is_the_loss_of_the_replica(tmp_path: Path) -> None:
    with divided(tmp_path) as runtime:
        turn = runtime.submit(request("judger", "write 5 exit"), {})  # on the rank that comes first
        events = poll_until(runtime, has_ended(turn))
        assert "died" in of(TurnLost, events, turn)[0].reason
        again = runtime.submit(request("judger", "write 5 exit"), {})
        events = poll_until(runtime, has_ended(again))
        assert of(TurnDone, events, again)[0].result.texts == (text_of("write 5 exit", 5),)
