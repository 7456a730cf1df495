"""`LatentMAS.stream` and `astream`: the text of one answer while it is written, then the answer."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, suppress
from typing import Any

from latentmas_ray.errors import QuestionsFailedError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import RunEvent, TextWritten
from latentmas_ray.scheduler.run import Result, WithdrawnQuestions
from latentmas_ray.system.call import Call
from latentmas_ray.system.serving.text_growth import TextGrowth
from latentmas_ray.system.setup import QuestionLike, Setup
from latentmas_ray.tasks import questions_from

_Item = TextWritten | Result | BaseException | None  # None: the end


class _TextListener:
    """Passes the texts of a run on, in the scheduler's thread."""

    def __init__(self, put: Callable[[_Item], None]) -> None:
        self._put = put

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, TextWritten):
            self._put(event)


class _Pieces:
    """Makes what the caller gets of what a run reports."""

    def __init__(self, setup: Setup, call: Call) -> None:
        self._setup, self._call = setup, call
        self._growth: TextGrowth | None = None

    def of(self, item: _Item) -> list[str | Answer]:
        """Return the pieces. Raises an item that is an error, and QuestionsFailedError."""
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Failure):
            raise QuestionsFailedError((item,), 1)
        if isinstance(item, TextWritten):
            growth = self._growth = self._growth or TextGrowth(self._setup.chat_of(item.agent).decode)
            return [piece] if (piece := growth.add(item.new)) else []
        assert isinstance(item, Answer)
        rest = item.answer if self._growth is None else self._growth.finish(item.answer)
        return [rest, item] if rest else [item]


def _planned(setup: Setup, question: QuestionLike, put: Callable[[_Item], None]) -> tuple[Call, WithdrawnQuestions]:
    withdrawn = WithdrawnQuestions()
    (asked,) = questions_from([question])
    streamed = (asked.id,) if setup.answers_once else ()
    call = setup.call([asked], observer=_TextListener(put), withdrawn=withdrawn, streamed=streamed)
    return call, withdrawn


def stream_text(setup: Setup, question: QuestionLike) -> Generator[str | Answer, None, None]:
    """See `LatentMAS.stream`. A thread of its own executes the run."""
    items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    call, withdrawn = _planned(setup, question, items.put)

    def execute() -> None:
        try:
            for result in setup.live.run(call.request, call.check_memory):
                items.put(result)
        except BaseException as error:  # noqa: BLE001  the caller raises it
            items.put(error)
        items.put(None)

    thread = threading.Thread(target=execute, name="stream", daemon=True)
    thread.start()
    try:
        pieces = _Pieces(setup, call)
        while (item := items.get()) is not None:
            yield from pieces.of(item)
    finally:
        withdrawn.add(call.questions[0].id)
        thread.join()


async def astream_text(setup: Setup, question: QuestionLike) -> AsyncGenerator[str | Answer, None]:
    """See `LatentMAS.astream`."""
    items: asyncio.Queue[_Item] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(item: _Item) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(items.put_nowait, item)

    call, _ = _planned(setup, question, put)

    async def execute() -> None:
        try:
            async with aclosing(setup.live.arun(call.request, call.check_memory)) as results:
                async for result in results:
                    put(result)
        except Exception as error:  # noqa: BLE001  the caller raises it
            put(error)
        put(None)

    task = asyncio.create_task(execute())
    try:
        pieces: Any = _Pieces(setup, call)
        while (item := await items.get()) is not None:
            for piece in pieces.of(item):
                yield piece
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
