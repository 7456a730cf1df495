"""What an actor reports of texts that are wanted as they are written."""

import threading

import pytest

from latentmas_ray.actors.text.event_queue import MOST_STREAM_SECONDS, STREAM_SECONDS, EventQueue
from latentmas_ray.engine.turn import NewTokens, TurnResult
from latentmas_ray.writing.events import TextEnded, TextGrown


class Clock:
    """Time that only waits advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STEP = 0.002


class SteppedClock(Clock):
    """Time that each look at it advances."""

    def __call__(self) -> float:
        self.now += STEP / 4
        return self.now


def grown(name: str, first: int, *ids: int, sample: int = 0) -> TextGrown:
    new = NewTokens(token_ids=ids, first=first, sample=sample)
    return TextGrown(number=1, question_id=name, num_tokens=first + len(ids), new=new)


def test_tokens_of_a_text_are_reported_together_in_order() -> None:
    clock = Clock()
    queue = EventQueue(clock)
    for event in (grown("a", 0, 7), grown("b", 0, 9, sample=1), grown("a", 1, 8), grown("b", 0, 5)):
        queue.put(event)
    clock.now = STREAM_SECONDS
    assert [(one.question_id, one.new) for one in queue.take(1.0) if isinstance(one, TextGrown)] == [
        ("a", NewTokens(token_ids=(7, 8), first=0)),
        ("b", NewTokens(token_ids=(9,), first=0, sample=1)),
        ("b", NewTokens(token_ids=(5,), first=0)),
    ]
    queue.put(grown("a", 2, 6))
    clock.now = 2 * STREAM_SECONDS
    (event,) = queue.take(1.0)
    assert isinstance(event, TextGrown)
    assert event.new == NewTokens(token_ids=(6,), first=2)
    assert event.num_tokens == 3


def test_the_first_token_of_a_stream_wakes_who_waits() -> None:
    queue = EventQueue()
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.extend(queue.take(60.0)))
    waiting.start()
    queue.put(grown("a", 0, 7))
    waiting.join()
    assert len(taken) == 1


def test_many_texts_are_reported_less_often_but_their_first_tokens() -> None:
    clock = SteppedClock()
    queue = EventQueue(clock)

    def seconds_until_report(*events: TextGrown) -> float:
        begin = clock.now
        for event in events:
            queue.put(event)
        assert len(queue.take(60.0)) == len(events)
        return clock.now - begin

    names = [f"q{number}" for number in range(16)]
    assert seconds_until_report(grown("a", 0, 7)) == pytest.approx(STREAM_SECONDS, abs=STEP)
    assert seconds_until_report(grown("a", 1, 7)) == pytest.approx(STREAM_SECONDS, abs=STEP)
    begun = [grown(name, 0, 7) for name in names]
    assert seconds_until_report(*begun) == pytest.approx(STREAM_SECONDS, abs=STEP)
    later = [grown(name, 1, 7) for name in names]
    assert seconds_until_report(*later) == pytest.approx(MOST_STREAM_SECONDS, abs=STEP)
    few = seconds_until_report(*later[:4])
    assert STREAM_SECONDS + STEP < few < MOST_STREAM_SECONDS - STEP
    assert seconds_until_report(*later, grown("late", 0, 7)) == pytest.approx(STREAM_SECONDS, abs=STEP)


def test_a_text_that_has_ended_is_reported_by_its_result_alone() -> None:
    clock = Clock()
    queue = EventQueue(clock)
    queue.put(grown("a", 0, 7))
    queue.put(grown("a", 0, 7, sample=1))
    queue.put(TextEnded(number=1, question_id="a", result=TurnResult(agent="judger", prompt_tokens=(1,))))
    assert [type(event) for event in queue.take(0.0)] == [TextEnded]
