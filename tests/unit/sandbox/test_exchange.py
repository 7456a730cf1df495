"""What right programs and ordinary tests say to each other arrives as it was: types, changes, classes, exceptions."""

import pytest

from latentmas_ray.sandbox import Job, Limits, Outcome, find_obstacle, run_program
from tests.unit.sandbox.programs import programs

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")

RIGHT = programs("right_programs.txt")


def run(program: str, tests: str, **fields: object) -> Outcome:
    return run_program(Job(program=program, tests=tests, limits=Limits(wall_seconds=30.0), **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name: str) -> None:
    assert run(*RIGHT[name]) == Outcome(passed=True)


@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        ("def f(x):\n    return x", "class Own:\n    pass\nf(Own())", "the tests give the program a value of type Own"),
        ("import sys\ndef f():\n    return sys", "assert f()", "a module"),
        ("def f():\n    return object()", "assert f() == 3", "to equal a value of type int"),
        ("def f():\n    x = []\n    for _ in range(9999):\n        x = [x]\n    return x", "f()", "nested too deeply"),
        ("def f():\n    return [0] * 11_000_000", "f()", "more than 10 million parts"),
        ("class A:\n    pass", "class B(A):\n    pass", "derive a class"),
        ("def f():\n    return 1", "assert f() == 2, 'not two'", "AssertionError: not two"),
        ("def f():\n    return 1", "g()", "NameError"),
        ("def f(:", "f()", "SyntaxError"),
        ("def f():\n    return 1", "f(", "SyntaxError"),
        ("def f(x):\n    return x", "f(1, 2)", "TypeError"),
    ],
)
def test_what_cannot_cross_is_refused_with_a_reason(program: str, tests: str, reason: str) -> None:
    outcome = run(program, tests)
    assert not outcome.passed
    assert reason in outcome.reason


def test_objects_of_a_given_class_are_data_on_both_sides() -> None:
    given = """
from dataclasses import dataclass
from enum import Enum
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
@dataclass
class Point:
    x: int
class Side(Enum):
    LEFT = 1
"""
    program = (
        given
        + """
def reverse(node):
    before = None
    while node:
        node.next, before, node = before, node, node.next
    return before
def move(p):
    p.x += 1
    return Point(p.x)
def side(s):
    return s, Side.LEFT, s is Side.LEFT
"""
    )
    tests = """
head = reverse(Node(1, Node(2, Node(3))))
assert isinstance(head, Node) and [head.value, head.next.value, head.next.next.value] == [3, 2, 1]
p = Point(1)
assert move(p) == Point(2)
assert p == Point(2)
assert side(Side.LEFT) == (Side.LEFT, Side.LEFT, True)
"""
    assert run(program, tests, given=given, shared=("Node", "Point", "Side")) == Outcome(passed=True)
    forged = program + "Point.__eq__ = lambda self, other: True\n"
    assert not run(forged, "assert move(Point(1)) == Point(9)", given=given, shared=("Node", "Point", "Side")).passed


def test_a_function_with_the_name_of_one_of_pythons_is_the_programs_where_it_is_tested() -> None:
    program = "def sum(a, b):\n    return a * b\n"
    assert run(program, "assert sum(2, 3) == 6", tested=("sum",)).passed
    assert not run(program, "assert sum(2, 3) == 6").passed
