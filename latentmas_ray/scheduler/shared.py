"""One scheduler for several threads and event loops: each caller gets the results of its own questions.

No thread of its own works for callers that wait in a `for` loop: one of them drives the scheduler at a time, a step at
a time, for all of them, and the others wait for their results or for their turn. So a single caller runs everything in
its own thread, where Ctrl-C and a debugger work as usual. For callers in an event loop a background thread drives.
Whoever wants to begin a run, or to close the scheduler, goes before the next step.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from latentmas_ray.errors import RunError
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.run import Result, Run, RunRequest

T = TypeVar("T")

_PATIENCE_SECONDS = 1.0  # how long a thread waits at most before it looks again; every change wakes it
_FROM_WITHIN = (
    "it was called from within its own work, as by an observer or a signal handler; call it from another thread"
)


@dataclass(eq=False)
class _Hold:
    """A thread has the scheduler to itself, for one step of `run` or for something between two steps."""

    run: Run | None = None
    thread: int = field(default_factory=threading.get_ident)


@dataclass(eq=False)
class _AsyncCall:
    """A caller in an event loop. Its run is there once the background thread has begun it."""

    request: RunRequest
    wake: Callable[[], None] | None  # None: the caller is gone
    run: Run | None = None
    error: BaseException | None = None  # instead of a run


class SharedScheduler:
    """Thread-safe. After `close` every run ends with the error that was given."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._hold: _Hold | None = None
        self._num_calls = 0  # threads that wait to do something between two steps
        self._left: list[Run] = []  # whose callers are gone: ended by whoever has the scheduler to itself
        self._new_calls: deque[_AsyncCall] = deque()
        self._async_calls: list[_AsyncCall] = []  # that have begun
        self._background: threading.Thread | None = None
        self._closed_by: BaseException | None = None

    def run(self, request: RunRequest) -> Generator[Result, None, None]:
        """Yield a result for every open question of the request's batches, in the order in which they finish.

        Whatever ends the loop early, Ctrl-C and closing this generator included, cancels what is in flight for this
        caller and drops its memory, after the step that another thread may be in; use `contextlib.closing` where the
        loop over the results may be left. Raises `Run.error` after the last result.
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

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(has_news.set)
            except RuntimeError:  # the loop is closed: nobody will ever fetch its results
                self._leave(call)

        call = _AsyncCall(request, wake)
        with self._changed:
            self._raise_if_closed()
            if self._background is None:
                background = threading.Thread(target=self._drive_in_background, name="scheduler", daemon=True)
                background.start()
                self._background = background
            self._new_calls.append(call)
            self._changed.notify_all()
        try:
            while True:
                has_news.clear()
                result, is_over = self._next_of(call)
                if result is not None:
                    yield result
                elif is_over:
                    break
                else:
                    await has_news.wait()
            _raise_error(call.run or call)
        finally:
            self._leave(call)

    @property
    def is_busy(self) -> bool:
        """Whether any run is not over."""
        return self._scheduler.has_runs or bool(self._new_calls)

    def close(self, error: BaseException) -> None:
        """End all runs: each raises `error` where its results are fetched. Safe to call twice. Raises RunError, and
        changes nothing, within a step of this thread."""
        self.refuse_within()

        def end_all() -> None:
            self._closed_by = self._closed_by or error
            self._scheduler.end_all(error)

        self._call(end_all, even_if_closed=True)

    def refuse_within(self) -> None:
        """Raises RunError in an observer or a signal handler, called in the middle of a step of this thread: to wait
        for the end of that step would be to wait for ever."""
        hold = self._hold
        if hold is not None and hold.thread == threading.get_ident():
            raise RunError(_FROM_WITHIN)

    def _wait_or_drive(self, run: Run) -> Result | None:
        """The next result of a run. None after one step that this thread has driven, and where the run is over."""
        hold = _Hold(run)
        with self._changed:
            while not run.results and not run.is_over and (self._hold is not None or self._must_wait):
                self.refuse_within()
                self._changed.wait(_PATIENCE_SECONDS)
            if run.results:
                return run.results.popleft()
            if run.is_over:
                return None
            self._hold = hold
        self._step(hold)
        return None

    @property
    def _must_wait(self) -> bool:
        """Whether somebody goes before the next step. A thread that drives would else take the scheduler again before
        any other thread wakes up."""
        return bool(self._num_calls or self._new_calls)

    def _call(self, action: Callable[[], T], *, even_if_closed: bool = False) -> T:
        """Do something with the scheduler between two steps. Raises what closed it, and RunError within a step."""
        self.refuse_within()
        hold = _Hold()
        try:
            with self._changed:
                self._num_calls += 1
                try:
                    while self._hold is not None:
                        self._changed.wait(_PATIENCE_SECONDS)
                finally:
                    self._num_calls -= 1
                if not even_if_closed:
                    self._raise_if_closed()
                self._hold = hold
            return action()
        finally:
            self._hand_over(hold)

    def _raise_if_closed(self) -> None:
        if self._closed_by is not None:
            raise copy(self._closed_by)

    def _step(self, hold: _Hold) -> None:
        """One step for all runs, by the thread that has the scheduler to itself."""
        try:
            self._scheduler.step()
        except BaseException:
            # Ctrl-C, or a fault of ours, in the middle of something: no other run may lose a question by it.
            self._scheduler.start_over()
            raise
        finally:
            self._hand_over(hold)

    def _hand_over(self, hold: _Hold) -> None:
        """Let others have the scheduler, once those runs have ended whose callers have left meanwhile."""
        if self._hold is not hold:
            return
        try:
            while (run := self._next_left(hold)) is not None:
                self._scheduler.end(run)
        finally:
            if self._hold is hold:  # Ctrl-C
                self._hold = None
            with self._changed:
                self._changed.notify_all()
                for call in self._async_calls:
                    if call.wake is not None:
                        call.wake()

    def _next_left(self, hold: _Hold) -> Run | None:
        """A run that is to be ended. Where there is none others may have the scheduler at once: none can come later."""
        with self._changed:
            if self._left:
                return self._left.pop()
            self._hold = None
            return None

    def _end(self, run: Run) -> None:
        """The caller wants no more of its results. Waits for nobody: it may be the garbage collector that calls this,
        in any thread and in the middle of anything."""
        with self._changed:
            if self._hold is not None and self._hold.run is run:
                self._hold = None  # Ctrl-C came before the step had begun
            if run.is_over:
                return
            run.is_cancelled = True
            self._left.append(run)
            if self._hold is not None:
                return  # whoever has the scheduler now ends this run before anybody else has it
            self._hold = hold = _Hold()
        self._hand_over(hold)

    def _leave(self, call: _AsyncCall) -> None:
        """The background thread ends its run, if that is not over: an event loop must not wait for a step."""
        with self._changed:
            call.wake = None
            if call.run is not None:
                call.run.is_cancelled = True
            self._changed.notify_all()

    def _next_of(self, call: _AsyncCall) -> tuple[Result | None, bool]:
        """Its next result, if there is one, and whether no more will come."""
        with self._changed:
            if call.run is None:
                return None, call.error is not None
            if not call.run.results:
                return None, call.run.is_over
            self._changed.notify_all()  # there is room for more
            return call.run.results.popleft(), False

    def _drive_in_background(self) -> None:
        """Begin what event loops want, and drive until none of them waits any more."""
        while (hold := self._hold_for_event_loops()) is not None:
            try:
                self._begin_new_calls()
                self._step(hold)
            except BaseException as error:  # noqa: BLE001  a fault of ours, which only those who wait can tell
                self._hand_over(hold)
                with suppress(Exception):  # those that are left are tried again
                    self._call(partial(self._scheduler.end_all, error), even_if_closed=True)

    def _hold_for_event_loops(self) -> _Hold | None:
        """Waits until there is something to do for them and nobody else goes first. None if no loop waits any more."""
        with self._changed:
            while True:
                runs = [(call, call.run) for call in self._async_calls if call.run is not None and not call.run.is_over]
                self._async_calls = [call for call, _ in runs]
                if not self._new_calls and not self._async_calls:
                    self._background = None
                    return None
                can_go_on = not all(run.is_held_back for _, run in runs)
                if self._hold is None and (self._new_calls or (can_go_on and not self._num_calls)):
                    self._hold = _Hold()
                    return self._hold
                self._changed.wait(_PATIENCE_SECONDS)

    def _begin_new_calls(self) -> None:
        while self._new_calls:
            call = self._new_calls[0]
            run = None
            try:
                self._raise_if_closed()
                run = None if call.wake is None else self._scheduler.begin(call.request)
            except Exception as error:  # noqa: BLE001  it is its caller's, and no other one's
                call.error = error
            with self._changed:
                self._new_calls.popleft()
                call.run = run
                self._async_calls.append(call)
                if run is not None:
                    run.is_cancelled = call.wake is None


def _raise_error(of: Run | _AsyncCall) -> None:
    """What ended a run, if that was no good end."""
    error, of.error = of.error, None
    try:
        if error is not None:
            raise error
    finally:
        error = None  # its traceback knows this frame
