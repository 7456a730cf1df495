"""The stream of results that `map` and `as_completed` return, for a `for` loop or an `async for` loop."""

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
    """A stream of results. The run starts when the first result is fetched; leaving the loop early (`close`, or
    dropping the stream) cancels the turns in flight.

    It is read once, by `for` or by `async for`; threads or tasks may share it. After the last result it raises
    QuestionsFailedError if questions failed (unless failures are returned), ActorError or ClusterError if the run was
    aborted, InputError for invalid input that was found during the run. Raises RunError if it is read again after
    Ctrl-C or a cancelled task has interrupted it.
    """

    def __init__(
        self,
        run: Callable[[], Generator[Result, None, None]],
        arun: Callable[[], AsyncGenerator[Result, None]],
        ids: Sequence[str],
        *,
        finish: Callable[[Answer | Failure], Answer | Failure],
        decide: Callable[[list[Answer]], list[Answer]] | None = None,
        in_order: bool,
        return_failures: bool,
    ) -> None:
        """`run` and `arun` start the run; `ids` are the ids of the questions, in order; `finish` is called with each
        result before it is returned. `decide` makes one answer of several for all questions together, where the rule
        needs all of them: then nothing is returned before the last question is answered."""
        self._run, self._arun, self._finish = run, arun, finish
        self._order = _Order(ids, in_order=in_order, return_failures=return_failures, decide=decide)
        self._lock = threading.RLock()
        self._results: Generator[Item_co, None, None] | None = None
        self._async_lock = asyncio.Lock()
        self._async_results: AsyncGenerator[Item_co, None] | None = None
        self._is_closed = False
        self._is_interrupted = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item_co:
        with self._lock:
            self._check_readable(self._async_results, "async for")
            if self._results is None:
                if self._is_closed:
                    raise StopIteration
                self._results = self._fetch()
            try:
                return next(self._results)
            except Exception:
                raise
            except BaseException:  # Ctrl-C: the generator would end as if it were complete
                self._is_interrupted = True
                raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item_co:
        async with self._async_lock:
            self._check_readable(self._results, "for")
            if self._async_results is None:
                if self._is_closed:
                    raise StopAsyncIteration
                self._async_results = self._afetch()
            try:
                return await anext(self._async_results)
            except Exception:
                raise
            except BaseException:  # its task is cancelled
                self._is_interrupted = True
                raise

    def close(self) -> None:
        """Cancel all unfinished questions: in a `for` loop after the result that another thread may wait for, in an
        `async for` loop soon. Safe to call twice."""
        self._is_closed = True
        self._async_results = None  # its event loop closes an unreferenced generator
        with self._lock:
            if self._results is not None:
                self._results.close()

    async def aclose(self) -> None:
        """Like `close`, for a stream that is read by `async for`."""
        self._is_closed = True
        if self._async_results is not None:
            await self._async_results.aclose()
        self.close()

    def _check_readable(self, other: object, other_loop: str) -> None:
        """Raise RunError if the stream cannot be read: it would compute all results again, and return some twice."""
        if other is not None:
            raise RunError(f"this stream is already read by another kind of loop ({other_loop}); call map again")
        if self._is_interrupted:
            raise RunError("this stream was interrupted, and has no more results; call map again for the missing ones")

    def _fetch(self) -> Generator[Item_co, None, None]:
        with closing(self._run()) as results:
            try:
                for result in results:
                    yield from self._finished(result)
            except LatentMASError:
                yield from cast("list[Item_co]", self._order.flush())
                raise
        yield from cast("list[Item_co]", self._order.finish())
        self._order.raise_failures()

    async def _afetch(self) -> AsyncGenerator[Item_co, None]:
        async with aclosing(self._arun()) as results:
            try:
                async for result in results:
                    for item in self._finished(result):
                        yield item
            except LatentMASError:
                for item in cast("list[Item_co]", self._order.flush()):
                    yield item
                raise
        for item in cast("list[Item_co]", self._order.finish()):
            yield item
        self._order.raise_failures()

    def _finished(self, result: Result) -> list[Item_co]:
        assert isinstance(result, Answer | Failure)
        return cast("list[Item_co]", self._order.add(self._finish(result)))


class _Order:
    """Returns results in the order of the questions, or as they finish; with `decide` all of them at the end."""

    def __init__(
        self,
        ids: Sequence[str],
        *,
        in_order: bool,
        return_failures: bool,
        decide: Callable[[list[Answer]], list[Answer]] | None = None,
    ) -> None:
        self._ids, self._decide = ids, decide
        self._in_order = in_order
        self._return_failures = return_failures
        self._failures: list[Failure] = []
        self._waiting: dict[str, Answer | Failure] = {}
        self._num_returned = 0

    def add(self, result: Answer | Failure) -> list[Answer | Failure]:
        """Add a result. Returns the results that can be returned now."""
        if isinstance(result, Failure):
            self._failures.append(result)
        if self._decide is not None:
            self._waiting[result.id] = result
            return []
        if not self._in_order:
            return self._wanted([result])
        self._waiting[result.id] = result
        ready = []
        while self._num_returned < len(self._ids) and self._ids[self._num_returned] in self._waiting:
            ready.append(self._waiting.pop(self._ids[self._num_returned]))
            self._num_returned += 1
        return self._wanted(ready)

    def flush(self) -> list[Answer | Failure]:
        """Return the waiting results, after an error that ends the stream."""
        waiting, self._waiting = self._waiting, {}
        return self._wanted([waiting[name] for name in self._ids if name in waiting])

    def finish(self) -> list[Answer | Failure]:
        """Decide the waiting results, all of them, and return them."""
        if self._decide is not None:
            decided = self._decide([one for one in self._waiting.values() if isinstance(one, Answer)])
            self._waiting.update((one.id, one) for one in decided)
            if not self._in_order:
                waiting, self._waiting = self._waiting, {}
                return self._wanted(list(waiting.values()))
        return self.flush()

    def _wanted(self, results: list[Answer | Failure]) -> list[Answer | Failure]:
        return [result for result in results if self._return_failures or isinstance(result, Answer)]

    def raise_failures(self) -> None:
        """Raise QuestionsFailedError if questions failed and failures are not returned."""
        if self._failures and not self._return_failures:
            raise QuestionsFailedError(tuple(self._failures), len(self._ids))
