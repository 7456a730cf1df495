"""What `map` and `as_completed` return: results for a `for` loop or an `async for` loop."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import Generic, Self, TypeVar, cast

from latentmas_ray.driver import Answer, Failure, Result
from latentmas_ray.errors import LatentMASError, QuestionsFailedError

Item = TypeVar("Item", bound=Answer | Failure)


class ResultStream(Generic[Item]):
    """Results of some questions. Work begins with the first one that is fetched, and ends with the loop: leaving the
    loop early (`close`, or dropping the stream) cancels what is in flight.

    It is read once, by `for` or by `async for`. Raises at the end, after every result: QuestionsFailedError for
    questions that have no answer (unless failures are results, too), ActorError and ClusterError where the run broke
    off, InputError for a mistake that showed only while it went on.
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
        self._results: Generator[Item, None, None] | None = None
        self._async_results: AsyncGenerator[Item, None] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if self._results is None:
            self._results = self._fetch()
        return next(self._results)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._async_results is None:
            self._async_results = self._afetch()
        return await anext(self._async_results)

    def close(self) -> None:
        """Cancel what is not finished. Safe to call twice."""
        if self._results is not None:
            self._results.close()

    async def aclose(self) -> None:
        """Like `close`, for a stream that is read by `async for`."""
        if self._async_results is not None:
            await self._async_results.aclose()

    def _fetch(self) -> Generator[Item, None, None]:
        with closing(self._run()) as results:
            try:
                for result in results:
                    yield from self._take(result)
            except LatentMASError:
                yield from cast("list[Item]", self._order.rest())
                raise
        self._order.raise_failures()

    async def _afetch(self) -> AsyncGenerator[Item, None]:
        async with aclosing(self._arun()) as results:
            try:
                async for result in results:
                    for item in self._take(result):
                        yield item
            except LatentMASError:
                for item in cast("list[Item]", self._order.rest()):
                    yield item
                raise
        self._order.raise_failures()

    def _take(self, result: Result) -> list[Item]:
        assert isinstance(result, Answer | Failure)
        return cast("list[Item]", self._order.take(self._finish(result)))


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
            raise QuestionsFailedError(self._failures, len(self._ids))
