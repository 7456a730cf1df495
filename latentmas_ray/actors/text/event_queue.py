"""What an actor reports of its texts while it writes them: collected until the driver fetches it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.writing.events import TextEnded, TextGrown, WriterEvent

GROWN_SECONDS = 0.5  # between two reports of numbers of tokens alone
STREAM_SECONDS = 0.04  # between two reports of tokens that are wanted as they are written, of a single text
# More for each further text: a report costs the actor and its readers as much as steps of a small model, and with
# sixteen texts at a time they cost a twentieth of all there is. No first token of a text waits longer for that.
_EACH_TEXT_SECONDS = 0.004
MOST_STREAM_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """What happened since the last report. `num_steps` are all steps of the engine so far."""

    num_steps: int
    events: tuple[WriterEvent, ...]


class EventQueue:
    """Events in order; of a question's tokens only the newest number, and those of a stream together. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: list[TextEnded] = []
        self._grown: dict[tuple[int, str, int], TextGrown] = {}  # the last part of the key: of a stream, the sample
        self._has_stream = self._has_first = False  # some of them have tokens, and the first ones of their texts
        self._has_ended = threading.Condition()
        self._taken_at = clock()

    def put(self, event: WriterEvent) -> None:
        """Add an event."""
        with self._has_ended:
            if isinstance(event, TextGrown):
                self._add_grown(event)
                return
            for key in [key for key in self._grown if key[:2] == (event.number, event.question_id)]:
                del self._grown[key]  # the result has all
            self._ended.append(event)
            self._has_ended.notify()

    def _add_grown(self, event: TextGrown) -> None:
        """Add tokens to those of the same text; `take` is woken for the first ones alone: there are many."""
        key = (event.number, event.question_id, -1 if event.new is None else event.new.sample)
        before = self._grown.get(key)
        if event.new is not None and before is not None and before.new is not None:
            event = replace(event, new=_joined(before.new, event.new))
        self._grown[key] = event
        if event.new is None:
            return
        is_first = event.new.first == 0
        if not self._has_stream or (is_first and not self._has_first):
            self._has_ended.notify()
        self._has_stream, self._has_first = True, self._has_first or is_first

    def take(self, timeout_seconds: float) -> tuple[WriterEvent, ...]:
        """Return what there is: at once if a question has ended, tokens every `STREAM_SECONDS`, or up to
        `MOST_STREAM_SECONDS` if there are many texts, their number alone every `GROWN_SECONDS`, nothing after the
        timeout."""
        with self._has_ended:
            deadline = self._clock() + timeout_seconds
            while not self._ended and (left := deadline - self._clock()) > 0:
                due = self._taken_at + self._pause_seconds - self._clock()
                if self._grown and due <= 0:
                    break
                self._has_ended.wait(min(left, due) if due > 0 else min(left, GROWN_SECONDS))
            events: tuple[WriterEvent, ...] = (*self._grown.values(), *self._ended)
            self._ended, self._grown = [], {}
            self._has_stream = self._has_first = False
            self._taken_at = self._clock()
            return events

    @property
    def _pause_seconds(self) -> float:
        """The time from the last report to the next one."""
        if not self._has_stream:
            return GROWN_SECONDS
        if self._has_first:
            return STREAM_SECONDS
        num_texts = sum(event.new is not None for event in self._grown.values())
        return min(STREAM_SECONDS + max(0, num_texts - 1) * _EACH_TEXT_SECONDS, MOST_STREAM_SECONDS)


def _joined(first: NewTokens, then: NewTokens) -> NewTokens:
    return replace(first, token_ids=first.token_ids + then.token_ids)
