"""The stream that `map` and `as_completed` return: read once, by one kind of loop, by one or several readers."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from latentmas_ray.errors import RunError
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.run import Result
from latentmas_ray.system.stream import ResultStream
from tests.unit.scheduler.test_shared import in_threads


def answer(number: int) -> Answer:
    plain: dict[str, Any] = {"question": "?", "gold": None, "prediction": None, "correct": None, "seconds": 0.0}
    return Answer(id=str(number), answer=f"{number}!", answer_token_ids=(), **plain)


class Source:
    """What a stream reads, and what became of it."""

    def __init__(self, count: int, *, pause: float = 0.0, interrupted_at: int | None = None) -> None:
        self.count, self.pause, self.interrupted_at = count, pause, interrupted_at
        self.times_begun = self.times_ended = 0

    def run(self) -> Generator[Result, None, None]:
        self.times_begun += 1
        try:
            for number in range(self.count):
                time.sleep(self.pause)
                if number == self.interrupted_at:
                    raise KeyboardInterrupt
                yield answer(number)
        finally:
            self.times_ended += 1

    async def arun(self) -> AsyncGenerator[Result, None]:
        self.times_begun += 1
        try:
            for number in range(self.count):
                await asyncio.sleep(self.pause)
                yield answer(number)
        finally:
            self.times_ended += 1

    def stream(self) -> ResultStream[Any]:
        ids = [str(number) for number in range(self.count)]
        return ResultStream(self.run, self.arun, ids, finish=lambda one: one, in_order=True, return_failures=False)


async def collected(stream: ResultStream[Any]) -> list[str]:
    return [one.id async for one in stream]


def test_the_other_kind_of_loop_is_refused() -> None:
    """It would compute everything again, and give some answers twice and others never."""
    source = Source(3)
    stream = source.stream()
    next(stream)
    with pytest.raises(RunError, match="another kind of loop"):
        asyncio.run(collected(stream))
    assert [one.id for one in stream] == ["1", "2"]

    async def both() -> list[str]:
        stream = source.stream()
        first = await anext(stream)
        with pytest.raises(RunError, match="another kind of loop"):
            next(stream)
        return [first.id, *await collected(stream)]

    assert asyncio.run(both()) == ["0", "1", "2"]
    assert source.times_begun == source.times_ended == 2


def test_a_stream_that_was_closed_begins_nothing() -> None:
    source = Source(3)
    stream = source.stream()
    stream.close()
    assert list(stream) == []

    async def close_and_read() -> list[str]:
        stream = source.stream()
        await stream.aclose()
        return await collected(stream)

    assert asyncio.run(close_and_read()) == []
    assert source.times_begun == 0


def test_after_its_end_nothing_more_comes() -> None:
    stream = Source(3).stream()
    assert len(list(stream)) == 3
    assert list(stream) == []
    stream.close()


def test_threads_that_share_a_stream_get_each_answer_once() -> None:
    source = Source(60, pause=0.001)
    stream = source.stream()
    found = in_threads(*[lambda: [one.id for one in stream]] * 4)
    assert sorted(int(name) for part in found for name in part) == list(range(60))
    assert source.times_begun == 1


def test_tasks_that_share_a_stream_get_each_answer_once() -> None:
    async def share() -> list[list[str]]:
        stream = Source(60, pause=0.0001).stream()
        return await asyncio.gather(*[collected(stream) for _ in range(4)])

    assert sorted(int(name) for part in asyncio.run(share()) for name in part) == list(range(60))


def test_what_breaks_a_stream_off_is_not_taken_for_its_end() -> None:
    stream = Source(3, interrupted_at=1).stream()
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(RunError, match="was interrupted"):
        next(stream)

    async def time_out() -> None:
        source = Source(3, pause=5.0)
        stream = source.stream()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        assert source.times_ended == 1
        with pytest.raises(RunError, match="was interrupted"):
            await anext(stream)

    asyncio.run(time_out())


def test_a_loop_that_is_left_ends_what_it_reads() -> None:
    source = Source(9)

    async def leave(how: str) -> None:
        stream = source.stream()
        async for _ in stream:
            break
        if how == "dropped":
            del stream
            gc.collect()
        elif how == "closed":
            stream.close()
        else:
            await stream.aclose()
        async with asyncio.timeout(20):
            while source.times_ended < source.times_begun:
                await asyncio.sleep(0.001)

    for how in ("dropped", "closed", "awaited"):
        asyncio.run(leave(how))
    for one in source.stream():
        assert one.id == "0"
        break
    gc.collect()
    assert source.times_begun == source.times_ended == 4


def test_to_close_what_another_thread_reads_waits_for_its_next_answer() -> None:
    source = Source(1000, pause=0.01)
    stream = source.stream()
    reads = threading.Event()

    def read() -> int:
        count = 0
        for _ in stream:
            reads.set()
            count += 1
        return count

    def close() -> None:
        assert reads.wait(20.0)
        stream.close()

    count, nothing = in_threads(read, close)
    assert nothing is None
    assert 1 <= count < 1000
    assert source.times_ended == 1
