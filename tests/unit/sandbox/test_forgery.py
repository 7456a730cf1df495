"""A pass cannot be forged: the program is in another process than its tests, and only data comes from it."""

import pytest

from latentmas_ray.sandbox import Job, Limits, Outcome, find_obstacle, run_program
from tests.unit.sandbox.programs import GIVEN, programs

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")


FORGERIES = programs("forgeries.txt")


def run(program: str, tests: str, **fields: object) -> Outcome:
    return run_program(Job(program=program, tests=tests, limits=Limits(wall_seconds=30.0), **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_does_not_pass(name: str) -> None:
    outcome = run(*FORGERIES[name], given=GIVEN)
    assert not outcome.passed
    assert outcome.reason


def test_the_program_does_not_see_its_tests() -> None:
    mark = "latentmas" + "-only-the-tests-know-this"
    program = """
import ctypes, gc, sys
def texts():
    seen, waiting = set(), [*gc.get_objects(), sys._getframe()]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (str, bytes)):
            yield one if isinstance(one, str) else one.decode(errors='replace')
        waiting += gc.get_referents(one)
def find(start):
    frame = sys._getframe()
    while frame:
        for text in map(repr, frame.f_locals.values()):
            if start + '-only' in text and 'find' not in text:
                return text
        frame = frame.f_back
    return [text for text in texts() if start + '-only-the' in text]
"""
    assert run(program, f"assert find('latentmas') == []\nassert {mark!r}").passed


def test_memory_does_not_hold_the_tests_either() -> None:
    program = """
import ctypes
def heap(start):
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    end, found = libc.sbrk(0), 0
    text = ctypes.string_at(end - (1 << 20), 1 << 20) if end else b''
    return text.count(start.encode() + b'-only-the-tests')
"""
    assert run(program, "assert heap('latentmas') == 0\nassert 'latentmas-only-the-tests-know'").passed
