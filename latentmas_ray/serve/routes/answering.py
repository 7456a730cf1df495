"""What all routes that ask the team share: a place in the queue, the questions, time-outs, clients that leave, and the
form of a stream."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from latentmas_ray.serve.api.errors import ApiError, timed_out, translate
from latentmas_ray.serve.api.handlers import error_response, log_mistake
from latentmas_ray.serve.api.responses import DONE_EVENT, ResponsePart, event
from latentmas_ray.serve.conversations.asked import ConversationAsked
from latentmas_ray.serve.conversations.turn import conversation_turn
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.reply import AgentRecord, Reply, ReplyEvent, TeamAnswer, TextPiece
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.serve.tracing import with_spans

_T = TypeVar("_T")
CLIENT_LEFT = 499
LAST_SECONDS = 5.0  # for the event that says that a stream has no more time
_SSE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not collect a stream


class ClientLeftError(Exception):
    """The client has closed its connection: no response can be sent."""


class ResponseForm(Protocol):
    """How one route writes what a team says. `reply` is the number of the question among those of the request."""

    def whole(self, answers: Sequence[TeamAnswer]) -> ResponsePart:
        """Return the body of a whole response."""

    def begin(self) -> list[ResponsePart]:
        """Return the chunks before the first text."""

    def piece(self, reply: int, piece: TextPiece) -> ResponsePart:
        """Return the chunk of a piece of text."""

    def record(self, record: AgentRecord) -> ResponsePart:
        """Return the chunk of a record of what an agent does. It is a chunk like the others, without choices: the
        client `openai` reads every event as one, whatever its name."""

    def end(self, reply: int, answer: TeamAnswer) -> list[ResponsePart]:
        """Return the chunks that end the choices of one question."""

    def usage(self, answers: Sequence[TeamAnswer]) -> list[ResponsePart]:
        """Return the last chunk, if it is wanted."""


class _OpenRequest:
    """What is open for one HTTP request. `status` is that of its response, once it is known."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint, self._model = endpoint, model
        self._begin = time.monotonic()
        self.deadline = asyncio.get_running_loop().time() + endpoint.request_seconds
        self.stack = AsyncExitStack()  # its place in the queue, and its questions
        self.status = CLIENT_LEFT
        self._has_text = self._is_closed = False
        self.teams = endpoint.teams  # which answer it, whatever is served meanwhile
        self.teams.num_open += 1
        endpoint.num_open += 1

    def note_text(self) -> None:
        """Note that text is written."""
        if not self._has_text:
            self._has_text = True
            self._endpoint.metrics.observe_first(self._model, time.monotonic() - self._begin)

    async def aclose(self) -> None:
        """Cancel its questions and free its place. Safe to call twice."""
        await self.stack.aclose()
        if not self._is_closed:
            self._is_closed = True
            self.teams.num_open -= 1
            self._endpoint.num_open -= 1
            self._endpoint.metrics.count(self._model, self.status, time.monotonic() - self._begin)


class _TeamStream(StreamingResponse):
    """A stream that closes its job at its end, also where the client leaves before the first event is sent."""

    def __init__(self, job: _OpenRequest, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_SSE)
        self._job, self._events = job, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Of a client that reads it too slowly, the connection is closed after the request's time."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._job.deadline + LAST_SECONDS):
                    await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._job.aclose()


@dataclass(eq=False, kw_only=True)
class HttpQuestions:
    """The questions of one HTTP request, and the form of its answer."""

    request: Request
    asked: Sequence[TeamRequest]
    form: ResponseForm
    conversation: ConversationAsked | None = None  # of a single question
    texts: Literal["messages", "prompt"] = "messages"  # the field that has them, as errors name it

    @property
    def endpoint(self) -> Endpoint:
        """Where they are asked."""
        found: Endpoint = self.request.app.state.endpoint
        return found

    async def answer(self) -> Response:
        """Ask, and return the response: whole, or a stream that has its first event. Raises ApiError."""
        job = _OpenRequest(self.endpoint, self.asked[0].model)
        is_handed_on = False
        try:
            async with asyncio.timeout_at(job.deadline):
                replies = await self._unless_gone(self._open(job))
                events = _merged(replies)
                if not self.asked[0].streams:
                    answers = await self._unless_gone(_answers(events, len(replies)))
                    job.status = 200
                    return Response(self.form.whole(answers).to_json(), media_type="application/json")
                first = await self._unless_gone(anext(events))
            is_handed_on = True
            return _TeamStream(job, self._stream(job, events, first, len(replies)))
        except ClientLeftError:
            return Response(status_code=CLIENT_LEFT)  # it reaches nothing
        except Exception as error:  # noqa: BLE001  every error is translated
            found = self._translated(error)
            job.status = found.status
            log_mistake(found, error, self.request.scope)
            return error_response(found)
        finally:
            if not is_handed_on:
                await job.aclose()

    async def _open(self, job: _OpenRequest) -> list[Reply]:
        """Wait for a place in the queue, then ask. What is opened is closed with the job."""
        stack = job.stack
        turn = stack.enter_context(conversation_turn(self.endpoint.conversations, self.conversation))
        ticket = await stack.enter_async_context(self.endpoint.admit(self.request, self.asked))
        asked = with_spans(self.request, await turn.prepare(self.asked))
        replies = [await stack.enter_async_context(job.teams.ask(one)) for one in asked]

        def free() -> None:
            """Free the place once the team is done: others need not wait until the client has read its stream."""
            if all(reply.is_over for reply in replies):
                ticket.close()

        for reply in replies:
            reply.on_over = free
        return replies

    async def _stream(
        self,
        job: "_OpenRequest",
        events: AsyncGenerator[tuple[int, ReplyEvent], None],
        first: tuple[int, ReplyEvent],
        num_replies: int,
    ) -> AsyncGenerator[str, None]:
        """Yield server-sent events. An error that comes now can only be one of them."""
        answers: dict[int, TeamAnswer] = {}
        item = first
        try:
            for part in self.form.begin():
                yield event(part)
            while True:
                for text in self._written(job, *item):
                    yield text
                if isinstance(item[1], TeamAnswer):
                    answers[item[0]] = item[1]
                if len(answers) == num_replies:
                    break
                async with asyncio.timeout_at(job.deadline):
                    item = await anext(events)
            for part in self.form.usage([answers[index] for index in sorted(answers)]):
                yield event(part)
            job.status = 200
        except Exception as error:  # noqa: BLE001  the response has begun: the client reads it in an event
            found = self._translated(error)
            log_mistake(found, error, self.request.scope)
            job.status = found.status
            yield f"data: {json.dumps(found.body)}\n\n"
        finally:
            await events.aclose()
        yield DONE_EVENT

    def _written(self, job: "_OpenRequest", index: int, what: ReplyEvent) -> Iterator[str]:
        """Yield the events of a stream for one of a reply."""
        if isinstance(what, AgentRecord):
            yield event(self.form.record(what))
        elif isinstance(what, TextPiece):
            job.note_text()
            yield event(self.form.piece(index, what))
        else:
            for part in self.form.end(index, what):
                yield event(part)

    def _translated(self, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            return timed_out(self.endpoint.request_seconds)
        return translate(error).about(self.texts)

    async def _unless_gone(self, work: Awaitable[_T]) -> _T:
        """Return what `work` returns. Raises ClientLeftError, and cancels it, if the client leaves before."""
        doing: asyncio.Future[_T] = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise ClientLeftError
            return doing.result()
        finally:
            for one in (doing, leaving):
                one.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    async def _until_gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


async def _answers(events: AsyncIterator[tuple[int, ReplyEvent]], count: int) -> list[TeamAnswer]:
    """Return the answers, each with its records."""
    answers: dict[int, TeamAnswer] = {}
    records: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    async for index, what in events:
        if isinstance(what, AgentRecord):
            records[index].append(what.record)
        elif isinstance(what, TeamAnswer):
            answers[index] = replace(what, records=tuple(records[index]))
            if len(answers) == count:
                break
    return [answers[index] for index in range(count)]


async def _merged(replies: Sequence[Reply]) -> AsyncGenerator[tuple[int, ReplyEvent], None]:
    """Yield the events of several replies as they come, each with the number of its reply. Raises their errors."""
    if len(replies) == 1:
        async for what in replies[0]:
            yield 0, what
        return
    merged: asyncio.Queue[tuple[int, ReplyEvent] | BaseException] = asyncio.Queue()

    async def forward(index: int, reply: Reply) -> None:
        try:
            async for what in reply:
                merged.put_nowait((index, what))
        except Exception as error:  # noqa: BLE001  raised where the events are read
            merged.put_nowait(error)

    tasks = [asyncio.create_task(forward(index, reply)) for index, reply in enumerate(replies)]
    left = len(replies)
    try:
        while left:
            item = await merged.get()
            if isinstance(item, BaseException):
                raise item
            left -= isinstance(item[1], TeamAnswer)
            yield item
    finally:
        for task in tasks:
            task.cancel()
