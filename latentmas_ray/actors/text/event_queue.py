"""What an actor reports of its texts while it writes them: collected until the driver fetches it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from latentmas_ray.writing.writer import TextEnded, TextGrown, WriterEvent

GROWN_SECONDS = 0.5  # between two reports of tokens alone


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """What happened since the last report. `num_steps` are all steps of the engine so far."""

    num_steps: int
    events: tuple[WriterEvent, ...]


class EventQueue:
    """Events in order; of a question's tokens only the newest number. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: list[TextEnded] = []
        self._grown: dict[tuple[int, str], TextGrown] = {}
        self._has_ended = threading.Condition()
        self._taken_at = clock()

    def put(self, event: WriterEvent) -> None:
        """Add an event."""
        with self._has_ended:
            if isinstance(event, TextGrown):  # nobody is woken: there are many
                self._grown[event.number, event.question_id] = event
                return
            self._grown.pop((event.number, event.question_id), None)
            self._ended.append(event)
            self._has_ended.notify()

    def take(self, timeout_seconds: float) -> tuple[WriterEvent, ...]:
        """Return what there is: at once if a question has ended, tokens alone every `GROWN_SECONDS`, nothing after the
        timeout."""
        with self._has_ended:
            deadline = self._clock() + timeout_seconds
            while not self._ended and (left := deadline - self._clock()) > 0:
                due = self._taken_at + GROWN_SECONDS - self._clock()
                if self._grown and due <= 0:
                    break
                self._has_ended.wait(min(left, due) if due > 0 else min(left, GROWN_SECONDS))
            events: tuple[WriterEvent, ...] = (*self._grown.values(), *self._ended)
            self._ended, self._grown = [], {}
            self._taken_at = self._clock()
            return events
