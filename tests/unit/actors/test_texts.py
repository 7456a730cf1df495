"""What actors of text agents report and free, and when a replica of them hangs: no Ray, no actors."""

import threading
from typing import Any

import pytest

from latentmas_ray.actors.health.monitor import HangDetector
from latentmas_ray.actors.replicas.replica import ReplicaState, Turn
from latentmas_ray.actors.text.event_queue import EventQueue
from latentmas_ray.actors.text.text_actor import text_groups
from latentmas_ray.actors.text.text_rank_actor import TextRankActor
from latentmas_ray.actors.text.text_replica import SingleTextReplica
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import ActorError
from latentmas_ray.memory import TPRank
from latentmas_ray.writing.writer import TextEnded, TextGrown
from tests.unit.writing.test_writer import request

RESULT = TurnResult(agent="judger", prompt_tokens=(1,))


def grown(number: int, name: str, count: int) -> TextGrown:
    return TextGrown(number=number, question_id=name, num_tokens=count)


def ended(number: int, name: str) -> TextEnded:
    return TextEnded(number=number, question_id=name, result=RESULT)


def shown(queue: EventQueue, timeout_seconds: float = 0.0) -> list[Any]:
    return [
        (event.number, event.question_id, event.num_tokens if isinstance(event, TextGrown) else "ended")
        for event in queue.take(timeout_seconds)
    ]


def test_only_the_newest_number_of_tokens_is_kept() -> None:
    queue = EventQueue()
    for event in (grown(1, "a", 1), grown(1, "b", 1), grown(1, "a", 2), grown(2, "a", 1), ended(1, "b")):
        queue.put(event)
    assert shown(queue) == [(1, "a", 2), (2, "a", 1), (1, "b", "ended")]
    assert shown(queue) == []


def test_a_question_that_ends_wakes_the_one_who_waits() -> None:
    queue = EventQueue()
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(shown(queue, 60.0)))
    waiting.start()
    queue.put(ended(1, "a"))
    waiting.join(30.0)
    assert found == [(1, "a", "ended")]


def test_tokens_alone_are_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = EventQueue()
    queue.put(grown(1, "a", 3))
    monkeypatch.setattr("latentmas_ray.actors.text.event_queue.GROWN_SECONDS", 0.01)
    assert shown(queue, 60.0) == [(1, "a", 3)]


def test_turns_have_threads_for_a_full_engine_and_for_those_that_come_next() -> None:
    assert [text_groups(count)["turns"] for count in (1, 8, 64, 500, 1024)] == [8, 16, 128, 564, 1088]


def replica_of(*turns: Turn) -> SingleTextReplica:
    replica = SingleTextReplica([None], ["here"])
    replica.state = ReplicaState.READY
    replica.pending = dict.fromkeys(turns)
    return replica


def turn(number: int, submitted_at: float = 0.0) -> Turn:
    return Turn(number, submitted_at, (), {})


def test_a_replica_hangs_if_its_engine_makes_no_step() -> None:
    """Not if a turn takes long: it may wait for its place while others are written."""
    replica, detector = replica_of(turn(1)), HangDetector(10.0)
    members = {"judger": [replica]}
    for now in (0.0, 8.0, 16.0, 24.0):
        replica.stepped_at = now
        assert detector.find_hung(members, now) == []
    assert detector.find_hung(members, 33.0) == []
    assert detector.find_hung(members, 35.0) == [("judger", replica)]
    assert detector.describe(replica) == "its engine made no step in 10.0 s (turn_timeout), and was taken to hang"


@pytest.mark.parametrize("stepped_at", [None, 8.0])
def test_time_in_which_nobody_looked_does_not_count(stepped_at: float | None) -> None:
    """A caller that reads results slowly polls rarely."""
    replica, detector = replica_of(turn(1)), HangDetector(10.0)
    members = {"judger": [replica]}
    replica.stepped_at = stepped_at
    assert detector.find_hung(members, 8.0) == []
    for now in (500.0, 600.0, 605.0):
        assert detector.find_hung(members, now) == []
    assert detector.find_hung(members, 609.0) == []
    assert detector.find_hung(members, 611.0) == [("judger", replica)]


def test_a_replica_without_turns_does_not_hang() -> None:
    replica, detector = replica_of(), HangDetector(10.0)
    replica.stepped_at = 0.0
    assert detector.find_hung({"judger": [replica]}, 100.0) == []
    replica.pending = {turn(1): None}
    assert detector.find_hung({"judger": [replica]}, 105.0) == []


def test_the_turn_without_tokens_is_suspected() -> None:
    turns = [turn(1, 1.0), turn(2, 2.0), turn(3, 3.0)]
    replica = replica_of(*turns)
    assert replica.current_turn is turns[0]
    replica._writes = {1}
    assert replica.current_turn is turns[1]
    replica._writes = {1, 2, 3}
    assert replica.current_turn is turns[0]


@pytest.mark.parametrize("is_dead", [False, True])
def test_the_ranks_hear_that_a_turn_is_over_unless_the_engine_has_ended(is_dead: bool) -> None:
    """They hold its memory until then, also if rank 0's own part of the memory is what did not come."""

    class Parts:
        def __init__(self) -> None:
            self.is_dead, self.released = is_dead, list[int]()
            self.release = self.start = self.released.append

    def receive(*_: Any) -> Any:
        raise ActorError("its producer is gone")

    parts: Any = Parts()
    actor = TextRankActor(lambda **_: parts, 1, TPRank(0, 2))
    actor._writer = parts
    actor._receive = receive  # type: ignore[method-assign]
    with pytest.raises(ActorError, match="its producer"):
        actor._lead(parts, 3, request("a 1"), [])
    assert parts.released == ([] if is_dead else [3])
