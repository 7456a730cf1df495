"""What comes back for one question: texts as they grow, records of what the agents do, and the answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from latentmas_ray.runs.results import Answer
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.tasks.question import Question

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class TextPiece:
    """The next piece of one choice's text."""

    choice: int
    text: str


@dataclass(frozen=True, kw_only=True)
class AgentRecord:
    """What one agent does with the question, as JSON: see `events`."""

    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedChoice:
    """One of the texts of an answer, without the stop text that ended it."""

    text: str
    finish_reason: FinishReason
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class TeamAnswer:
    """The answer to one question."""

    choices: tuple[FinishedChoice, ...]
    answer: Answer  # with what every agent used
    cached_tokens: int = 0  # of memory that was kept, which the agents read instead of computing it
    records: tuple[dict[str, Any], ...] = ()  # what the agents did, if it was asked for


ReplyEvent = TextPiece | AgentRecord | TeamAnswer


@dataclass(eq=False)
class Reply:
    """The reply to one request. Iterate it once; the last event is the `TeamAnswer`. Leaving it early (`async with`)
    cancels the question: its turns end and its memory is freed.

    Raises the error that ended the question: QuestionsFailedError, a RunError kind or an InputError kind.
    """

    request: TeamRequest
    question: Question
    cancel: Callable[["Reply"], None]
    events: "asyncio.Queue[ReplyEvent | BaseException]" = field(default_factory=asyncio.Queue)
    is_over: bool = False  # it has its answer or its error, or was cancelled
    on_over: Callable[[], None] | None = None  # called when it has its answer or its error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel(self)

    async def __aiter__(self) -> AsyncIterator[ReplyEvent]:
        while True:
            event = await self.events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, TeamAnswer):
                return

    def send(self, event: ReplyEvent) -> None:
        """Add an event, unless the reply is over."""
        if self.is_over:
            return
        if isinstance(event, TeamAnswer) and self.request.on_answer is not None:
            self.request.on_answer([choice.text for choice in event.choices])
        self.events.put_nowait(event)
        if isinstance(event, TeamAnswer):
            self._end()

    def fail(self, error: BaseException) -> None:
        """End the reply with an error, unless it is over."""
        if not self.is_over:
            self.events.put_nowait(error)
            self._end()

    def _end(self) -> None:
        self.is_over = True
        if self.on_over is not None:
            self.on_over()

    async def answered(self) -> TeamAnswer:
        """Wait for the answer. Raises like the iteration."""
        async for event in self:
            if isinstance(event, TeamAnswer):
                return event
        raise AssertionError("a reply ends with its answer")
