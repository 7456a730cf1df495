"""What all routes that ask the team share: a place in the queue, the questions, time-outs, clients that leave, and the
form of a stream."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from latentmas_ray.serve.api.errors import ApiError, timed_out, translate
from latentmas_ray.serve.api.handlers import error_response
from latentmas_ray.serve.api.responses import DONE_EVENT, ResponsePart, event
from latentmas_ray.serve.conversations.asked import ConversationAsked
from latentmas_ray.serve.conversations.turn import conversation_turn
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.reply import AgentRecord, Reply, ReplyEvent, TeamAnswer, TextPiece
from latentmas_ray.serve.teams.settings import TeamRequest

_T = TypeVar("_T")
CLIENT_LEFT = 499
_SSE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not collect a stream


class ClientLeftError(Exception):
    """The client has closed its connection: there is nobody to answer."""


class ResponseForm(Protocol):
    """How one route writes what a team says. `reply` is the number of the question among those of the request."""

    def whole(self, answers: Sequence[TeamAnswer]) -> ResponsePart:
        """Return the body of a whole response."""

    def begin(self) -> list[ResponsePart]:
        """Return the chunks before the first text."""

    def piece(self, reply: int, piece: TextPiece) -> ResponsePart:
        """Return the chunk of a piece of text."""

    def end(self, reply: int, answer: TeamAnswer) -> list[ResponsePart]:
        """Return the chunks that end the choices of one question."""

    def usage(self, answers: Sequence[TeamAnswer]) -> list[ResponsePart]:
        """Return the last chunk, if it is wanted."""


@dataclass(eq=False, kw_only=True)
class HttpQuestions:
    """The questions of one HTTP request, and the form of its answer."""

    request: Request
    asked: Sequence[TeamRequest]
    form: ResponseForm
    conversation: ConversationAsked | None = None  # of a single question

    @property
    def endpoint(self) -> Endpoint:
        """Where they are asked."""
        found: Endpoint = self.request.app.state.endpoint
        return found

    async def answer(self) -> Response:
        """Ask, and return the response: whole, or a stream that has its first event. Raises ApiError."""
        begin, streams = time.monotonic(), self.asked[0].streams
        self.endpoint.num_open += 1
        deadline = begin + self.endpoint.request_seconds
        status = CLIENT_LEFT
        stack = AsyncExitStack()
        try:
            async with asyncio.timeout(self.endpoint.request_seconds):
                replies = await self._unless_gone(self._open(stack))
                events = _merged(replies)
                if not streams:
                    answers = await self._unless_gone(_answers(events, len(replies)))
                    status = 200
                    return Response(self.form.whole(answers).to_json(), media_type="application/json")
                first = await self._unless_gone(anext(events))
            stream, streams = self._stream(stack, begin, deadline, events, first, len(replies)), False
            stack = AsyncExitStack()  # the other is the stream's now
            status = 0
            return StreamingResponse(stream, media_type="text/event-stream", headers=_SSE)
        except ClientLeftError:
            return Response(status_code=CLIENT_LEFT)  # it reaches nobody
        except Exception as error:
            found = self._translated(error)
            status = found.status
            if found.status == 500 and not isinstance(error, ApiError):
                raise
            return error_response(found)
        finally:
            await stack.aclose()
            if status:
                self._end(status, begin)

    async def _open(self, stack: AsyncExitStack) -> list[Reply]:
        """Wait for a place in the queue, then ask. What is opened is closed with `stack`."""
        turn = stack.enter_context(conversation_turn(self.endpoint.conversations, self.conversation))
        await stack.enter_async_context(self.endpoint.admit(self.request, self.asked))
        asked = await turn.prepare(self.asked)
        return [await stack.enter_async_context(self.endpoint.teams.ask(one)) for one in asked]

    async def _stream(
        self,
        stack: AsyncExitStack,
        begin: float,
        deadline: float,
        events: AsyncIterator[tuple[int, ReplyEvent]],
        first: tuple[int, ReplyEvent],
        num_replies: int,
    ) -> AsyncIterator[str]:
        """Yield server-sent events. An error that comes now can only be one of them."""
        status, answers, has_text = CLIENT_LEFT, dict[int, TeamAnswer](), False
        try:
            async with stack:
                for part in self.form.begin():
                    yield event(part)
                item: tuple[int, ReplyEvent] | None = first
                while item is not None:
                    index, what = item
                    if isinstance(what, AgentRecord):
                        yield _record(what)
                    elif isinstance(what, TextPiece):
                        if not has_text:
                            has_text = True
                            self.endpoint.metrics.observe_first(self.asked[0].model, time.monotonic() - begin)
                        yield event(self.form.piece(index, what))
                    else:
                        answers[index] = what
                        for part in self.form.end(index, what):
                            yield event(part)
                    if len(answers) == num_replies:
                        break
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                        item = await anext(events, None)
                for part in self.form.usage([answers[index] for index in sorted(answers)]):
                    yield event(part)
            status = 200
            yield DONE_EVENT
        except Exception as error:  # noqa: BLE001  the response has begun: the client reads it in an event
            found = self._translated(error)
            status = found.status
            yield f"data: {error_response(found).body.decode()}\n\n"
            yield DONE_EVENT
        finally:
            self._end(status, begin)

    def _end(self, status: int, begin: float) -> None:
        self.endpoint.num_open -= 1
        self.endpoint.metrics.count(self.asked[0].model, status, time.monotonic() - begin)

    def _translated(self, error: Exception) -> ApiError:
        return timed_out(self.endpoint.request_seconds) if isinstance(error, TimeoutError) else translate(error)

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


async def _merged(replies: Sequence[Reply]) -> AsyncIterator[tuple[int, ReplyEvent]]:
    """Yield the events of several replies as they come, each with the number of its reply. Raises their errors."""
    if len(replies) == 1:
        async with aclosing(aiter(replies[0])) as events:
            async for what in events:
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


def _record(what: AgentRecord) -> str:
    return f"event: latentmas\ndata: {json.dumps(what.record, ensure_ascii=False)}\n\n"
