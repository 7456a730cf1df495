"""A thread-safe scheduler for several threads and event loops: each caller gets the results of its own questions.

Callers in a `for` loop need no other thread: one of them at a time executes a step for all runs, and the others wait
for results or for the next step. So with a single caller everything runs in the caller's thread, where Ctrl-C and a
debugger work as usual. For callers in an event loop a background thread executes the steps. Calls that start a run or
close the scheduler take precedence over the next step.
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
from latentmas_ray.scheduler.loop import POLL_SECONDS, Scheduler
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result, Run, RunRequest

T = TypeVar("T")

_LOOP_POLL_SECONDS = 0.05  # the wait of a step for event loops, whose new calls come in while others' turns run
_WAIT_SECONDS = 1.0  # upper bound on a wait; every change wakes the threads earlier
_WITHIN_STEP = (
    "it was called from within its own work, as by an observer or a signal handler; call it from another thread"
)


@dataclass(eq=False)
class _Owner:
    """The thread that may use the scheduler now: for one step of `run`, or for a call between two steps."""

    run: Run | None = None
    thread: int = field(default_factory=threading.get_ident)


@dataclass(eq=False)
class _AsyncCall:
    """A caller in an event loop. `run` is set once the background thread has started it."""

    request: RunRequest
    wake: Callable[[], None] | None  # None: the caller has left
    run: Run | None = None
    error: BaseException | None = None  # set instead of `run` if it could not be started


class SharedScheduler:
    """Thread-safe access to a `Scheduler`. After `close` every run raises the error passed to it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._owner: _Owner | None = None
        self._num_calls = 0  # threads that wait for a call between two steps
        self._cancelled_runs: list[Run] = []  # their callers have left: the owner closes them
        self._new_calls: deque[_AsyncCall] = deque()
        self._async_calls: list[_AsyncCall] = []  # with a run or an error
        self._background: threading.Thread | None = None
        self._closed_by: BaseException | None = None

    def run(self, request: RunRequest) -> Generator[Result, None, None]:
        """Yield a result for every open question of the request's batches, in the order in which they finish.

        Leaving the loop early, by Ctrl-C or by closing this generator, cancels this caller's turns and frees its
        memory, after the step that another thread may be in; use `contextlib.closing` if the loop may be left early.
        Raises `Run.error` after the last result."""
        run = self._call(lambda: self._scheduler.start_run(request))
        try:
            while not run.is_over or run.results:
                if (result := self._wait_or_drive(run)) is not None:
                    yield result
            _raise_error(run)
        finally:
            self._cancel_run(run)

    async def arun(self, request: RunRequest) -> AsyncGenerator[Result, None]:
        """Like `run`, for a caller in an event loop; does not block the loop."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:  # the loop is closed, so no results will be fetched
                self._cancel_call(call)

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
                changed.clear()
                result, is_over = self._next_result(call)
                if result is not None:
                    yield result
                elif is_over:
                    break
                else:
                    await changed.wait()
            _raise_error(call.run or call)
        finally:
            self._cancel_call(call)

    @property
    def is_busy(self) -> bool:
        """Whether any run is not over."""
        return self._scheduler.has_runs or bool(self._new_calls)

    def close(self, error: BaseException) -> None:
        """Close all runs: each raises `error` where its results are fetched. Safe to call twice. Raises RunError, and
        changes nothing, within a step of this thread."""
        self.raise_if_within_step()

        def fail_all_runs() -> None:
            self._closed_by = self._closed_by or error
            self._scheduler.fail_all_runs(error)

        self._call(fail_all_runs, even_if_closed=True)

    def raise_if_within_step(self) -> None:
        """Raise RunError if this thread is within a step, as in an observer or a signal handler: waiting for the end of
        the step would be a deadlock."""
        owner = self._owner
        if owner is not None and owner.thread == threading.get_ident():
            raise RunError(_WITHIN_STEP)

    def _wait_or_drive(self, run: Run) -> Result | None:
        """Return the next result of a run; None after one step in this thread, and if the run is over."""
        owner = _Owner(run)
        with self._changed:
            while not run.results and not run.is_over and (self._owner is not None or self._must_wait):
                self.raise_if_within_step()
                self._changed.wait(_WAIT_SECONDS)
            if run.results:
                return run.results.popleft()
            if run.is_over:
                return None
            self._owner = owner
        self._step(owner)
        return None

    @property
    def _must_wait(self) -> bool:
        """Whether a call takes precedence over the next step. Otherwise the thread that executes steps would take the
        scheduler again before any other thread wakes up."""
        return bool(self._num_calls or self._new_calls)

    @property
    def info(self) -> RuntimeInfo:
        """What is known of the runtime now, for runs that start later. Never waits for a step."""
        return self._scheduler.info

    def change_info(self, change: Callable[[RuntimeInfo], RuntimeInfo]) -> RuntimeInfo:
        """Change what is known of the runtime between two steps, for runs that start later; returns it."""

        def set_info() -> RuntimeInfo:
            self._scheduler.info = change(self._scheduler.info)
            return self._scheduler.info

        return self._call(set_info)

    def _call(self, action: Callable[[], T], *, even_if_closed: bool = False) -> T:
        """Execute `action` between two steps. Raises the error that closed the scheduler, and RunError within a
        step."""
        self.raise_if_within_step()
        owner = _Owner()
        try:
            with self._changed:
                self._num_calls += 1
                try:
                    while self._owner is not None:
                        self._changed.wait(_WAIT_SECONDS)
                finally:
                    self._num_calls -= 1
                if not even_if_closed:
                    self._raise_if_closed()
                self._owner = owner
            return action()
        finally:
            self._release(owner)

    def _raise_if_closed(self) -> None:
        if self._closed_by is not None:
            raise copy(self._closed_by)

    def _step(self, owner: _Owner, poll_seconds: float = POLL_SECONDS) -> None:
        """Execute one step for all runs, in the thread that owns the scheduler."""
        try:
            self._scheduler.step(poll_seconds)
        except BaseException:
            # Ctrl-C or a bug interrupted the step: no other run may lose a question.
            self._scheduler.reset()
            raise
        finally:
            self._release(owner)

    def _release(self, owner: _Owner) -> None:
        """Close the runs whose callers have left meanwhile, then let other threads use the scheduler."""
        if self._owner is not owner:
            return
        try:
            while (run := self._next_cancelled(owner)) is not None:
                self._scheduler.close_run(run)
        finally:
            if self._owner is owner:  # Ctrl-C
                self._owner = None
            with self._changed:
                self._changed.notify_all()
                for call in self._async_calls:
                    if call.wake is not None:
                        call.wake()

    def _next_cancelled(self, owner: _Owner) -> Run | None:
        """Return a run to be closed. If there is none, release the scheduler under the same lock, so that none is
        missed."""
        with self._changed:
            if self._cancelled_runs:
                return self._cancelled_runs.pop()
            self._owner = None
            return None

    def _cancel_run(self, run: Run) -> None:
        """Cancel a run whose caller has left. Never waits: the garbage collector may call this, in any thread and at
        any point."""
        with self._changed:
            if self._owner is not None and self._owner.run is run:
                self._owner = None  # Ctrl-C came before the step
            if run.is_over:
                return
            run.is_cancelled = True
            self._cancelled_runs.append(run)
            if self._owner is not None:
                return  # the owner closes this run before it releases the scheduler
            self._owner = owner = _Owner()
        self._release(owner)

    def _cancel_call(self, call: _AsyncCall) -> None:
        """Cancel the run of a call; the background thread closes it, because an event loop must not wait for a step."""
        with self._changed:
            call.wake = None
            if call.run is not None:
                call.run.is_cancelled = True
            self._changed.notify_all()

    def _next_result(self, call: _AsyncCall) -> tuple[Result | None, bool]:
        """Return the next result of a call, if there is one, and whether no more will follow."""
        with self._changed:
            if call.run is None:
                return None, call.error is not None
            if not call.run.results:
                return None, call.run.is_over
            self._changed.notify_all()  # the run may continue
            return call.run.results.popleft(), False

    def _drive_in_background(self) -> None:
        """Start the calls of event loops, and execute steps until none of them waits."""
        while (owner := self._acquire_for_event_loops()) is not None:
            try:
                self._start_new_calls()
                self._step(owner, _LOOP_POLL_SECONDS)
            except BaseException as error:  # noqa: BLE001  a bug: the callers raise it
                self._release(owner)
                with suppress(Exception):  # the runs that are left are tried again
                    self._call(partial(self._scheduler.fail_all_runs, error), even_if_closed=True)

    def _acquire_for_event_loops(self) -> _Owner | None:
        """Wait until an event loop's run can advance and no call takes precedence, and own the scheduler. Returns None
        if no event loop waits."""
        with self._changed:
            while True:
                runs = [(call, call.run) for call in self._async_calls if call.run is not None and not call.run.is_over]
                self._async_calls = [call for call, _ in runs]
                if not self._new_calls and not self._async_calls:
                    self._background = None
                    return None
                can_advance = not all(run.is_blocked_by_caller for _, run in runs)
                if self._owner is None and (self._new_calls or (can_advance and not self._num_calls)):
                    self._owner = _Owner()
                    return self._owner
                self._changed.wait(_WAIT_SECONDS)

    def _start_new_calls(self) -> None:
        while self._new_calls:
            call = self._new_calls[0]
            run = None
            try:
                self._raise_if_closed()
                run = None if call.wake is None else self._scheduler.start_run(call.request)
            except Exception as error:  # noqa: BLE001  its caller raises it
                call.error = error
            with self._changed:
                self._new_calls.popleft()
                call.run = run
                self._async_calls.append(call)
                if run is not None:
                    run.is_cancelled = call.wake is None


def _raise_error(of: Run | _AsyncCall) -> None:
    """Raise the error that ended a run or a call, if there is one."""
    error, of.error = of.error, None
    try:
        if error is not None:
            raise error
    finally:
        error = None  # its traceback refers to this frame
