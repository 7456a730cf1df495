"""A bound on the time that somebody else's code takes, in any thread."""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread, get_ident
from typing import TypeVar

_T = TypeVar("_T")
_POLL_SECONDS = 0.01
_NUM_INTERRUPTS = 100


class _Interrupted(SystemExit):
    """Ends a thread without a message; no `except Exception` of the function that it runs holds it up."""


def call_with_time_limit(function: Callable[[], _T], cpu_seconds: float) -> _T:
    """Call `function` in a thread of its own: returns what it returns, and raises what it raises.

    Raises TimeoutError when that thread has computed for `cpu_seconds`: CPU time, so that a busy machine interrupts
    nothing. The function is then interrupted at its next step in Python; one that is inside a long call of C ends after
    that call, and nobody waits for it. The same happens when the caller is interrupted.
    """
    future: Future[_T] = Future()
    clocks: list[int] = []

    def run() -> None:
        try:
            clocks.append(time.pthread_getcpuclockid(get_ident()))
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            future.set_exception(error)

    thread = Thread(target=run, name="time limit", daemon=True)
    thread.start()
    try:
        left = cpu_seconds
        while left > 0 and not wait([future], timeout=max(left, _POLL_SECONDS)).done:
            left = cpu_seconds - _seconds_of(clocks)
    finally:
        if not future.done():
            _interrupt(thread)
    if left <= 0:
        raise TimeoutError(f"it takes more than {cpu_seconds:g} s")
    return future.result()


def _seconds_of(clocks: list[int]) -> float:
    """CPU seconds of a thread that has told its clock; 0 before it has, and after its end."""
    with suppress(OSError):
        return time.clock_gettime(clocks[0]) if clocks else 0.0
    return 0.0


def _interrupt(thread: Thread) -> None:
    """Raise in another thread, by Python's C API. Again and again for a second: a first one may be swallowed, where a
    destructor runs for instance."""
    for _ in range(_NUM_INTERRUPTS):
        if not thread.is_alive() or thread.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Interrupted))
        thread.join(_POLL_SECONDS)
