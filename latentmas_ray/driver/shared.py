"""One scheduler for several threads and event loops: each caller gets the results of its own questions.

No thread of its own works for callers that wait in a `for` loop: one of them drives the scheduler at a time, a step at
a time, for all of them, and the others wait for their results or for their turn. So a single caller runs everything in
its own thread, where Ctrl-C and a debugger work as usual. For callers in an event loop a background thread drives.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import TypeVar

from latentmas_ray.driver.run import Result, Run, RunRequest
from latentmas_ray.driver.scheduler import Scheduler

T = TypeVar("T")

_PATIENCE_SECONDS = 1.0  # how long a thread waits at most before it looks again; every change wakes it


class SharedScheduler:
    """Thread-safe. After `close` every run ends with the error that was given."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._driver: int | None = None  # the thread that drives now
        self._is_in_step = False
        self._async_runs: set[Run] = set()
        self._background: threading.Thread | None = None
        self._closed_by: BaseException | None = None

    def run(self, request: RunRequest) -> Generator[Result, None, None]:
        """Yield a result for every open question of the request's batches, in the order in which they finish.

        Whatever ends the loop early, Ctrl-C and closing this generator included, cancels what is in flight for this
        caller and drops its memory; use `contextlib.closing` where the loop over the results may be left. Raises
        `Run.error` after the last result.
        """
        run = self._call(lambda: self._scheduler.begin(request))
        try:
            while not run.is_over or run.results:
                if (result := self._wait_or_drive(run)) is not None:
                    yield result
            _raise_error(run)
        finally:
            self._end(run)

    async def arun(self, request: RunRequest) -> AsyncGenerator[Result, None]:
        """Like `run`, for a caller in an event loop, which goes on meanwhile."""
        loop, has_news = asyncio.get_running_loop(), asyncio.Event()
        run = await self._begin_async(request, lambda: _wake(loop, has_news))
        try:
            while True:
                has_news.clear()
                with self._changed:
                    result, is_over = run.results.popleft() if run.results else None, run.is_over
                if result is not None:
                    yield result
                elif is_over:
                    break
                else:
                    await has_news.wait()
            _raise_error(run)
        finally:
            self._cancel_async(run)

    @property
    def is_busy(self) -> bool:
        """Whether any run is not over."""
        return self._scheduler.has_runs

    def close(self, error: BaseException) -> None:
        """End all runs: each raises `error` where its results are fetched. Safe to call twice."""

        def end_all() -> None:
            self._closed_by = self._closed_by or error
            self._scheduler.end_all(error)

        self._call(end_all, even_if_closed=True)

    def _wait_or_drive(self, run: Run) -> Result | None:
        """The next result of a run. None after one step that this thread has driven, and where the run is over."""
        with self._changed:
            while not run.results and not run.is_over and self._driver is not None:
                self._changed.wait(_PATIENCE_SECONDS)
            if run.results:
                return run.results.popleft()
            if run.is_over:
                return None
            self._driver = threading.get_ident()
        self._step()
        return None

    def _call(self, action: Callable[[], T], *, even_if_closed: bool = False) -> T:
        """Do something with the scheduler between two steps. Raises what closed it."""
        with self._changed:
            while self._driver is not None:
                self._changed.wait(_PATIENCE_SECONDS)
            if self._closed_by is not None and not even_if_closed:
                raise type(self._closed_by)(*self._closed_by.args)
            self._driver = threading.get_ident()
        try:
            return action()
        finally:
            self._hand_over()

    def _step(self) -> None:
        """One step for all runs, by the thread that has said that it drives."""
        self._is_in_step = True
        try:
            self._scheduler.step()
        except BaseException:
            # Ctrl-C, or a fault of ours, in the middle of something: no other run may lose a question by it.
            self._scheduler.start_over()
            raise
        finally:
            self._is_in_step = False
            self._hand_over()

    def _hand_over(self) -> None:
        with self._changed:
            self._driver = None
            self._changed.notify_all()
            for run in self._async_runs:
                if run.wake is not None:
                    run.wake()

    def _end(self, run: Run) -> None:
        """The caller wants no more of its results."""
        with self._changed:
            run.is_cancelled = True
            if self._driver == threading.get_ident():
                if self._is_in_step:  # a finalizer, called by chance in the middle of a step: the next one ends the run
                    return
                self._driver = None  # Ctrl-C came between two lines
        if not run.is_over:
            self._call(lambda: self._scheduler.end(run), even_if_closed=True)

    async def _begin_async(self, request: RunRequest, wake: Callable[[], None]) -> Run:
        def begin() -> Run:
            run = self._scheduler.begin(request)
            run.wake = wake
            with self._changed:
                self._async_runs.add(run)
                if self._background is None:
                    self._background = threading.Thread(target=self._drive_in_background, name="scheduler", daemon=True)
                    self._background.start()
            return run

        begun = asyncio.ensure_future(asyncio.to_thread(self._call, begin))
        try:
            run = await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(self._cancel_begun)
            raise
        return run

    def _cancel_async(self, run: Run) -> None:
        """The background thread ends it, if it is not over: an event loop must not wait for a step."""
        with self._changed:
            run.wake, run.is_cancelled = None, True
            if run.is_over:
                self._async_runs.discard(run)
            self._changed.notify_all()

    def _cancel_begun(self, begun: "asyncio.Future[Run]") -> None:
        """Its caller was cancelled while the run began."""
        if not begun.cancelled() and begun.exception() is None:
            self._cancel_async(begun.result())

    def _drive_in_background(self) -> None:
        """Drive until no event loop waits any more."""
        while True:
            with self._changed:
                while self._driver is not None:
                    self._changed.wait(_PATIENCE_SECONDS)
                self._async_runs = {run for run in self._async_runs if not run.is_over}
                if not self._async_runs:
                    self._background = None
                    return
                self._driver = threading.get_ident()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  a fault of ours, which only those who wait can tell
                self.close(error)


def _raise_error(run: Run) -> None:
    """What ended a run, if that was no good end."""
    error, run.error = run.error, None
    try:
        if error is not None:
            raise error
    finally:
        error = None  # its traceback knows this frame


def _wake(loop: asyncio.AbstractEventLoop, has_news: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(has_news.set)
