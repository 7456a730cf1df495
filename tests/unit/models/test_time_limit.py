"""Somebody else's code gets so much time and no more, in any thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from latentmas_ray.models.chat import call_with_time_limit


def spin() -> None:
    while True:
        pass


def spin_on() -> None:
    """Takes no error for an end."""
    while True:
        with suppress(Exception):
            spin()


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "time limit"]


def test_what_a_function_returns_and_raises() -> None:
    assert call_with_time_limit(lambda: 7, 1) == 7
    with pytest.raises(KeyError, match="x"):
        call_with_time_limit(lambda: {}["x"], 1)
    with pytest.raises(TimeoutError, match="its own"):
        call_with_time_limit(lambda: (_ for _ in ()).throw(TimeoutError("its own")), 1)


@pytest.mark.parametrize("function", [spin, spin_on])
def test_a_function_without_an_end_is_interrupted(
    function: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"):
        call_with_time_limit(function, 0.05)
    for thread in helpers():
        thread.join(60)
    assert helpers() == []
    assert capfd.readouterr().err == ""


def test_in_a_thread_of_the_callers_too() -> None:
    with ThreadPoolExecutor(2) as pool:
        bad, good = pool.submit(call_with_time_limit, spin, 0.05), pool.submit(call_with_time_limit, lambda: 7, 5)
        assert good.result() == 7
        with pytest.raises(TimeoutError):
            bad.result()


def test_waiting_is_not_computing() -> None:
    assert call_with_time_limit(lambda: time.sleep(0.3) or 7, 0.1) == 7
