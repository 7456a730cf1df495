"""The queue in front of the team: bounds on questions and on memory, and turns by key.

The team works on a bounded number of questions, with a bounded number of bytes of working memory; further requests
wait. Of those that wait, the keys take turns, by questions (start-time fair queueing: Goyal, Vin and Cheng, 1996): one
with a hundred requests delays another's single one by one request, and one whose request has 64 questions then waits
until others have had as many. When the queue is full, the newest request of the key with most questions in it is
refused (429), so no key can fill it alone.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from latentmas_ray.serve.api.errors import ApiError, aborted
from latentmas_ray.units import format_bytes

_FIRST_SECONDS: Final = 2.0  # of a question, until some have been answered
_NEW_SHARE: Final = 0.1  # of the newest question in the mean
_MAX_RETRY_SECONDS: Final = 120.0
_MAX_KEYS: Final = 10_000  # whose past turns are known; without keys they are addresses, and there may be many


@dataclass(eq=False)
class Ticket:
    """A request's place. `async with ticket:` waits for its turn, and frees its place at the end.

    Waiting raises ApiError: 429 if the queue is full and others come first, 503 if the server shuts down. Cancelling
    the task that waits gives the place up.
    """

    admission: "Admission" = field(repr=False)
    key: str
    num_questions: int
    num_bytes: int
    admitted: "asyncio.Future[None]"
    begun: float | None = None  # when its turn began, in seconds of the clock
    is_closed: bool = False

    async def __aenter__(self) -> Self:
        try:
            await self.admitted
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the place up. Safe to call twice."""
        self.admission.leave(self)


class Admission:
    """Decides which requests the team gets, and when. Everything here runs in one event loop."""

    def __init__(
        self,
        *,
        max_running: int,
        max_waiting: int,
        max_memory_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_running` and `max_waiting` count questions; None: memory is not bounded here."""
        self._max_running, self._max_waiting, self._max_bytes = max_running, max_waiting, max_memory_bytes
        self._clock = clock
        self._waiting: dict[str, deque[Ticket]] = {}  # by key, the one that has waited longest first
        # While some wait: how many questions of each key have had their turn, and of the one whose turn was last. A key
        # that comes begins there: it has no turns to make up for.
        self._turns: dict[str, int] = {}
        self._now = 0
        self._running: set[Ticket] = set()
        self._seconds = _FIRST_SECONDS
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Questions that wait for their turn."""
        return sum(ticket.num_questions for tickets in self._waiting.values() for ticket in tickets)

    @property
    def num_running(self) -> int:
        """Questions that the team has."""
        return sum(ticket.num_questions for ticket in self._running)

    @property
    def running_bytes(self) -> int:
        """Estimated bytes of working memory of the questions that the team has."""
        return sum(ticket.num_bytes for ticket in self._running)

    def admit(self, key: str, *, num_questions: int = 1, weight: int = 1, num_bytes: int = 0) -> Ticket:
        """Return a place for a request, which may have to wait for its turn.

        It counts as `weight` questions, if those are more: with several samples of each it is as much work. One that
        counts as more than the team ever has is taken when the team has nothing else. `num_bytes` is an estimate of its
        working memory. Raises ApiError: 429 if the queue is full, 400 for a request that can never be taken, 503 after
        `close`.
        """
        if self._is_closed:
            raise aborted()
        self._check_size(num_questions, num_bytes)
        num_questions = max(num_questions, min(weight, self._max_running))
        ticket = Ticket(self, key, num_questions, num_bytes, asyncio.get_running_loop().create_future())
        if not self._waiting and self._fits(ticket):
            self._begin(ticket)
            return ticket
        if num_questions > self._max_waiting:
            raise self._full()
        for other in self._in_its_place(key, num_questions):
            self._refuse(other, self._full())
        if key not in self._waiting:
            self._turns[key] = max(self._now, self._turns.get(key, 0))
        self._waiting.setdefault(key, deque()).append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Free the place of a ticket, and begin those that now fit."""
        if ticket.is_closed:
            return
        ticket.is_closed = True
        if ticket in self._running:
            self._running.discard(ticket)
            assert ticket.begun is not None
            self._seconds += _NEW_SHARE * (self._clock() - ticket.begun - self._seconds)
        else:
            self._remove(ticket)
        self._begin_next()

    def close(self) -> None:
        """Refuse all requests from now on, and those that wait; what the team has may finish."""
        self._is_closed = True
        for tickets in list(self._waiting.values()):
            for ticket in list(tickets):
                self._refuse(ticket, aborted())

    def _check_size(self, num_questions: int, num_bytes: int) -> None:
        if num_questions > (most := self._max_running):
            message = f"the request has {num_questions} questions; at most {most} are answered at the same time"
            raise ApiError(400, message, "prompt", "too_many_questions")
        if self._max_bytes is not None and num_bytes > self._max_bytes:
            message = (
                f"the request needs about {format_bytes(num_bytes)} of working memory; there are "
                f"{format_bytes(self._max_bytes)}: use a shorter prompt, fewer latent steps or a smaller n"
            )
            raise ApiError(400, message, "messages", "too_much_memory")

    def _fits(self, ticket: Ticket) -> bool:
        if self.num_running + ticket.num_questions > self._max_running:
            return False
        return self._max_bytes is None or self.running_bytes + ticket.num_bytes <= self._max_bytes

    def _begin(self, ticket: Ticket) -> None:
        ticket.begun = self._clock()
        self._running.add(ticket)
        if not ticket.admitted.done():
            ticket.admitted.set_result(None)

    def _begin_next(self) -> None:
        """Begin requests that fit, the next of the key that has had fewest turns. A large one that does not fit yet
        holds the others back, so that it comes to its turn."""
        while self._waiting:
            key = min(self._waiting, key=self._turns.__getitem__)
            ticket = self._waiting[key][0]
            if not self._fits(ticket):
                return
            self._now = self._turns[key]
            self._turns[key] += ticket.num_questions
            self._remove(ticket)
            self._begin(ticket)
        self._turns.clear()
        self._now = 0

    def _in_its_place(self, key: str, num_questions: int) -> list[Ticket]:
        """Return the requests to refuse so that this one can wait: each the newest of the key with most that wait.
        Raises ApiError, and none is to be refused, if that comes to be the newcomer's own."""
        left = {one: list(tickets) for one, tickets in self._waiting.items()}
        counts = {one: sum(ticket.num_questions for ticket in tickets) for one, tickets in left.items()}
        found: list[Ticket] = []
        while sum(counts.values()) + num_questions > self._max_waiting:
            longest = max(counts, key=lambda one: counts[one], default=key)
            if longest == key or counts[longest] <= counts.get(key, 0) + num_questions:
                raise self._full()
            found.append(left[longest].pop())
            counts[longest] -= found[-1].num_questions
        return found

    def _full(self) -> ApiError:
        message = f"the team is busy, and {self.num_waiting} of at most {self._max_waiting} questions wait; ask later"
        return ApiError(429, message, None, "queue_full", retry_after=self._retry_seconds())

    def _retry_seconds(self) -> float:
        """When half of those that wait will have had their turn, by the mean time of a question."""
        return min(_MAX_RETRY_SECONDS, self._seconds * (self.num_waiting / 2 + 1) / self._max_running)

    def _refuse(self, ticket: Ticket, error: ApiError) -> None:
        self._remove(ticket)
        if not ticket.admitted.done():
            ticket.admitted.set_exception(error)
            ticket.admitted.exception()  # it may be that no task waits for it yet, or ever

    def _remove(self, ticket: Ticket) -> None:
        tickets = self._waiting.get(ticket.key)
        if tickets is not None and ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._waiting[ticket.key]
            if len(self._turns) > _MAX_KEYS:
                self._turns = {key: self._turns[key] for key in self._waiting}
