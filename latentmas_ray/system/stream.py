"""What `map` and `as_completed` return: results for a `for` loop or an `async for` loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import Generic, Self, TypeVar, cast

from latentmas_ray.errors import LatentMASError, QuestionsFailedError, RunError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.scheduler.run import Result

Item_co = TypeVar("Item_co", bound=Answer | Failure, covariant=True)


class ResultStream(Generic[Item_co]):
    """Results of some questions. Work begins with the first one that is fetched, and ends with the loop: leaving the
    loop early (`close`, or dropping the stream) cancels what is in flight.

    It is read once, by `for` or by `async for`, by as many threads or tasks as share it. Raises at the end, after every
    result: QuestionsFailedError for questions that have no answer (unless failures are results, too), ActorError and
    ClusterError where the run broke off, InputError for a mistake that showed only while it went on. Raises RunError
    where it is read again after Ctrl-C or a cancelled task has broken it off.
    """

    def __init__(
        self,
        run: Callable[[], Generator[Result, None, None]],
        arun: Callable[[], AsyncGenerator[Result, None]],
        ids: Sequence[str],
        *,
        finish: Callable[[Answer | Failure], Answer | Failure],
        in_order: bool,
        return_failures: bool,
    ) -> None:
        """`run` and `arun` begin the work; `ids` are those of the questions, in their order; `finish` is called with
        each result before it is given out."""
        self._run, self._arun, self._finish = run, arun, finish
        self._order = _Order(ids, in_order=in_order, return_failures=return_failures)
        self._lock = threading.RLock()
        self._results: Generator[Item_co, None, None] | None = None
        self._async_lock = asyncio.Lock()
        self._async_results: AsyncGenerator[Item_co, None] | None = None
        self._is_closed = False
        self._is_broken_off = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item_co:
        with self._lock:
            self._refuse(self._async_results, "async for")
            if self._results is None:
                if self._is_closed:
                    raise StopIteration
                self._results = self._fetch()
            try:
                return next(self._results)
            except Exception:
                raise
            except BaseException:  # Ctrl-C: what the generator would say next is that this was all
                self._is_broken_off = True
                raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item_co:
        async with self._async_lock:
            self._refuse(self._results, "for")
            if self._async_results is None:
                if self._is_closed:
                    raise StopAsyncIteration
                self._async_results = self._afetch()
            try:
                return await anext(self._async_results)
            except Exception:
                raise
            except BaseException:  # its task is cancelled
                self._is_broken_off = True
                raise

    def close(self) -> None:
        """Cancel what is not finished: at once in a `for` loop, after the result that another thread may wait for; soon
        in an `async for` loop. Safe to call twice."""
        self._is_closed = True
        self._async_results = None  # its event loop closes a generator that nobody has any more
        with self._lock:
            if self._results is not None:
                self._results.close()

    async def aclose(self) -> None:
        """Like `close`, for a stream that is read by `async for`."""
        self._is_closed = True
        if self._async_results is not None:
            await self._async_results.aclose()
        self.close()

    def _refuse(self, other: object, other_loop: str) -> None:
        """Raises RunError where the results are not to be had: all of them would be computed again, and some given out
        twice."""
        if other is not None:
            raise RunError(f"this stream is read by another kind of loop already ({other_loop}); call map again")
        if self._is_broken_off:
            raise RunError("this stream was broken off, and has no more results; call map again for those that lack")

    def _fetch(self) -> Generator[Item_co, None, None]:
        with closing(self._run()) as results:
            try:
                for result in results:
                    yield from self._take(result)
            except LatentMASError:
                yield from cast("list[Item_co]", self._order.rest())
                raise
        self._order.raise_failures()

    async def _afetch(self) -> AsyncGenerator[Item_co, None]:
        async with aclosing(self._arun()) as results:
            try:
                async for result in results:
                    for item in self._take(result):
                        yield item
            except LatentMASError:
                for item in cast("list[Item_co]", self._order.rest()):
                    yield item
                raise
        self._order.raise_failures()

    def _take(self, result: Result) -> list[Item_co]:
        assert isinstance(result, Answer | Failure)
        return cast("list[Item_co]", self._order.take(self._finish(result)))


class _Order:
    """Holds results back until it is their turn."""

    def __init__(self, ids: Sequence[str], *, in_order: bool, return_failures: bool) -> None:
        self._ids = ids
        self._in_order = in_order
        self._return_failures = return_failures
        self._failures: list[Failure] = []
        self._held: dict[str, Answer | Failure] = {}
        self._num_given = 0

    def take(self, result: Answer | Failure) -> list[Answer | Failure]:
        """What can be given out now that this result is there."""
        if isinstance(result, Failure):
            self._failures.append(result)
        if not self._in_order:
            return self._wanted([result])
        self._held[result.id] = result
        ready = []
        while self._num_given < len(self._ids) and self._ids[self._num_given] in self._held:
            ready.append(self._held.pop(self._ids[self._num_given]))
            self._num_given += 1
        return self._wanted(ready)

    def rest(self) -> list[Answer | Failure]:
        """What was held back, where nothing more comes."""
        held, self._held = self._held, {}
        return self._wanted([held[name] for name in self._ids if name in held])

    def _wanted(self, results: list[Answer | Failure]) -> list[Answer | Failure]:
        return [result for result in results if self._return_failures or isinstance(result, Answer)]

    def raise_failures(self) -> None:
        """Raises QuestionsFailedError if a question failed and its failure was no result."""
        if self._failures and not self._return_failures:
            raise QuestionsFailedError(tuple(self._failures), len(self._ids))
