"""What right programs and ordinary tests say to each other arrives as it was: types, changes, classes, exceptions."""

import pytest

from latentmas_ray.sandbox import Job, Limits, Outcome, find_obstacle, run_program

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")

SAME = "def same(x):\n    return x\ndef kind(x):\n    return type(x).__name__\n"
STACK = """
class Empty(Exception):
    pass
class Stack:
    limit = 3
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items:
            raise Empty('nothing there', len(self.items))
        return self.items.pop()
    @property
    def size(self):
        return len(self.items)
    @classmethod
    def of(cls, *items):
        return cls(items)
    @staticmethod
    def name():
        return 'stack'
    def __len__(self):
        return len(self.items)
    def __iter__(self):
        return iter(self.items)
    def __getitem__(self, index):
        return self.items[index]
    def __contains__(self, item):
        return item in self.items
    def __eq__(self, other):
        return isinstance(other, Stack) and self.items == other.items
    def __hash__(self):
        return 1
    def __add__(self, other):
        return Stack(self.items + other.items)
    def __mul__(self, times):
        return Stack(self.items * times)
    def __lt__(self, other):
        return len(self) < len(other)
    def __repr__(self):
        return f'Stack({self.items})'
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.items.clear()
class Small(Stack):
    pass
def make(n):
    return Stack(range(n))
"""


def run(program: str, tests: str, **fields: object) -> Outcome:
    return run_program(Job(program=program, tests=tests, limits=Limits(wall_seconds=30.0), **fields))  # type: ignore[arg-type]


RIGHT = {
    "values keep their types": (SAME, """
import collections, datetime, decimal, fractions, math, uuid, pathlib
values = [None, True, False, 0, -1, 2**53 + 1, 10**1300, -(2**4001), 0.1, -0.0, 1e308, 5e-324, float('inf'), 'ä\\udc80\\0',
    '', b'\\0\\xff', bytearray(b'x'), 1 - 2j, [], (), {}, set(), frozenset(), [1, (2, {3}), {'a': [None]}], {(1, 2): {1: 2}},
    collections.deque([1, 2], 5), collections.Counter('aab'), collections.OrderedDict(a=1), range(1, 9, 2), slice(1, None),
    collections.defaultdict(list, {1: [2]}), decimal.Decimal('1.10'), fractions.Fraction(1, 3), datetime.date(2020, 1, 2),
    datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.timezone.utc), datetime.timedelta(1, 2, 3), uuid.UUID(int=5),
    pathlib.PurePosixPath('a/b'), int, ValueError, ..., {1: 'one', 'one': 1, None: 2, 1.5: 3}, frozenset({(1, 'a')})]
for value in values:
    got = same(value)
    assert type(got) is type(value), (value, got)
    assert got == value and repr(got) == repr(value), (value, got)
    assert kind(value) == type(value).__name__
assert math.isnan(same(float('nan')))
assert math.copysign(1, same(-0.0)) == -1
assert list(same({3: 1, 1: 2})) == [3, 1]
assert list(same({'b': 1}.keys())) == ['b'] and same({1: 2}.items()) == {1: 2}.items()
"""),
    "numpy": ("import numpy as np\n" + SAME, """
import numpy as np
for value in (np.arange(6).reshape(2, 3), np.array(['a', 'bc']), np.array([1 + 2j]), np.array([], dtype='f4'), np.array(3.5)):
    got = same(value)
    assert isinstance(got, np.ndarray) and got.dtype == value.dtype and got.shape == value.shape and (got == value).all()
for value in (np.float64(1.5), np.int8(3), np.bool_(True), np.float32(0.1), np.datetime64('2020-01-01')):
    assert type(same(value)) is type(value) and same(value) == value
assert same(np.array([1, None, 'a'], dtype=object)).tolist() == [1, None, 'a']
assert np.allclose(same([1.0, 2.0]), [1.0, 2.0])
"""),
    "shared parts and cycles": ("def f(x):\n    return x[0] is x[1], x[2] is x\ndef g():\n    a = []\n    a.append(a)\n    return a", """
inner = [1]
x = [inner, inner]
x.append(x)
assert f(x) == (True, True)
loop = g()
assert loop[0] is loop
"""),
    "changes of arguments": ("def sort(x):\n    x.sort()\ndef put(d, k):\n    d[k] = [k]\ndef grow(x):\n    x[0].append(x)\n"
        "def drop(x):\n    x.pop()\n    return x\ndef swap(x):\n    x[0], x[1] = x[1], x[0]\n    x.append({1})\n"
        "def touch(s, q, b):\n    s.add(9)\n    q.appendleft(9)\n    b[0] = 65", """
import collections
x = [3, 1, 2]
assert sort(x) is None
assert x == [1, 2, 3]
d = {}
put(d, 'a')
put(d, 'b')
assert d == {'a': ['a'], 'b': ['b']} and list(d) == ['a', 'b']
y = [[]]
row = y[0]
grow(y)
assert y[0] is row and row[0] is y
z = [1, 2]
assert drop(z) == [1]
assert z == [1]
m = [[1], [2]]
first, second = m
swap(m)
assert m == [[2], [1], {1}] and m[0] is second and m[1] is first
s, q, b = {1}, collections.deque([1]), bytearray(b'abc')
touch(s, q, b)
assert (s, list(q), b) == ({1, 9}, [9, 1], bytearray(b'Abc'))
def inside(x):
    sort(x)
    return x[0]
assert inside([2, 1]) == 1
for x in ([2, 1], [4, 3]):
    if sort(x) is None:
        assert x == sorted(x)
w = [3, 2, 1]
assert (drop(w), drop(w)) == ([3, 2], [3])
assert w == [3]
"""),
    "what does not change stays the same object": (SAME, "x = [1, {'a': 2}]\nassert same(x) is x\nassert same(x)[1] is x[1]"),
    "a class of the program": (STACK, """
s = Stack()
assert s.push(1).push(2) is not None
assert len(s) == 2 and s.size == 2 and s.items == [1, 2] and list(s) == [1, 2] and s[0] == 1 and 2 in s and 5 not in s
assert s.pop() == 2 and s.pop() == 1
try:
    s.pop()
except Empty as error:
    assert error.args == ('nothing there', 0) and isinstance(error, Exception) and str(error)
else:
    raise AssertionError('no error')
assert not s
assert isinstance(s, Stack) and not isinstance(3, Stack) and isinstance(Small(), Stack) and issubclass(Small, Stack)
assert Stack.of(1, 2) == Stack([1, 2]) and Stack.of(1) != Stack.of(2)
assert Stack.name() == 'stack' and Stack.limit == 3
assert (Stack.of(1) + Stack.of(2)).items == [1, 2] and (Stack.of(1) * 2).items == [1, 1]
assert Stack.of(1) < Stack.of(1, 2) and repr(Stack.of(1)) == 'Stack([1])' and f'{Stack.of(1)}' == 'Stack([1])'
assert len({Stack.of(1), Stack.of(1)}) == 1
s.items = [7]
assert s.pop() == 7
with Stack.of(1) as inner:
    assert inner.size == 1
assert inner.size == 0
assert make(3).items == [0, 1, 2] and make(3) == Stack([0, 1, 2])
assert Stack.of(Stack.of(1)).pop() == Stack.of(1)
"""),
    "an object of a class that the tests do not name": (STACK, "s = make(3)\nassert s.size == 3 and s.items == [0, 1, 2]\n"
        "s.push(5)\nassert s.items[-1] == 5\nassert make(2) == make(2)\nassert s is not None and s != None"),
    "exceptions": ("class Odd(ValueError):\n    def __init__(self, n):\n        super().__init__(f'odd: {n}')\n        self.n = n\n"
        "def f(kind):\n    if kind == 'odd':\n        raise Odd(3)\n    raise {'key': KeyError, 'os': FileNotFoundError}[kind]('gone')", """
for kind, expected in (('odd', ValueError), ('key', KeyError), ('os', OSError)):
    try:
        f(kind)
    except expected as error:
        assert 'odd: 3' in str(error) or 'gone' in str(error)
    else:
        raise AssertionError(kind)
try:
    f('odd')
except Odd as error:
    assert error.n == 3
import unittest
case = unittest.TestCase()
with case.assertRaises(KeyError):
    f('key')
"""),
    "generators": ("def squares():\n    n = 0\n    while True:\n        yield n * n\n        n += 1\ndef few():\n    yield from (1, 2)", """
import itertools
assert list(itertools.islice(squares(), 4)) == [0, 1, 4, 9]
assert list(few()) == [1, 2] and sum(few()) == 3 and [x for x in few()] == [1, 2]
it = few()
assert next(it) == 1 and next(it) == 2 and next(it, None) is None
assert 2 in list(few())
"""),
    "functions as results": ("import functools\ndef adder(n):\n    return lambda x: x + n\ndef partial():\n"
        "    return functools.partial(pow, 2)\ndef counter():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n"
        "        return n\n    return up", "assert adder(3)(4) == 7\nassert partial()(5) == 32\nup = counter()\n"
        "assert (up(), up()) == (1, 2)\nassert list(map(adder(1), [1, 2])) == [2, 3]\nassert callable(adder(1))"),
    "functions as arguments": ("def apply(f, *xs, **ks):\n    return [f(x, **ks) for x in xs]\ndef retry(f):\n    for _ in range(3):\n"
        "        try:\n            return f()\n        except ValueError as error:\n            last = str(error)\n    return last", """
import operator, math
assert apply(lambda x: x + 1, 1, 2) == [2, 3]
assert apply(len, 'ab') == [2] and apply(math.sqrt, 4) == [2.0] and apply(str.upper, 'a') == ['A'] and apply(int, '7') == [7]
calls = []
def record(x, y=0):
    calls.append((x, y))
    return [x]
assert apply(record, 1, 2, y=3) == [[1], [2]] and calls == [(1, 3), (2, 3)]
def fail():
    calls.append('fail')
    raise ValueError('again')
assert retry(fail) == 'again' and calls.count('fail') == 3
def deep(x):
    return apply(lambda y: y * 2, x)[0]
assert apply(deep, 4) == [8]
assert sorted([3, 1, 2], key=lambda x: -x) == apply(lambda x: x, 3, 2, 1)
"""),
    "what is printed": ("def hello(name):\n    print('hello', name)\n", "import io, contextlib\nout = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n    hello('you')\nassert out.getvalue() == 'hello you\\n'"),
    "keywords and defaults": ("def f(a, b=2, *c, d=4, **e):\n    return [a, b, list(c), d, e]", "assert f(1) == [1, 2, [], 4, {}]\n"
        "assert f(1, 3, 5, d=6, z=7) == [1, 3, [5], 6, {'z': 7}]\nassert f(**{'a': 1}) == f(*[1])"),
    "coroutines": ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1", "import asyncio\n"
        "assert asyncio.run(f(1)) == 2\nasync def both():\n    return await f(1) + await f(2)\nassert asyncio.run(both()) == 5"),
    "variables of the program": ("count = 0\nLIMIT = [1, 2]\ndef up():\n    global count\n    count += 1", "assert count == 0\nup()\n"
        "assert count == 1\nup()\nup()\nassert count == 3 and LIMIT == [1, 2]"),
    "data classes, named tuples and enumerations": ("from dataclasses import dataclass\nfrom enum import Enum\n"
        "from typing import NamedTuple\n@dataclass(order=True)\nclass Point:\n    x: int\n    y: int = 0\nclass Pair(NamedTuple):\n"
        "    a: int\n    b: int\nclass Colour(Enum):\n    RED = 1\n    BLUE = 2\ndef mirror(p):\n    return Point(p.y, p.x)\n"
        "def pair():\n    return Pair(1, 2)\ndef red():\n    return Colour.RED", """
assert mirror(Point(1, 2)) == Point(2, 1) and Point(1) < Point(2) and mirror(Point(1, 2)).x == 2
assert str(Point(1, 2)) == 'Point(x=1, y=2)'
assert pair() == (1, 2) and pair().a == 1 and isinstance(pair(), tuple)
assert red() == Colour.RED and red() is not None and red() != Colour.BLUE and red().value == 1 and red().name == 'RED'
assert Colour(2) == Colour.BLUE and Colour['RED'] == Colour.RED and len(list(Colour)) == 2
"""),
    "test cases of unittest": ("def double(x):\n    return 2 * x", "import unittest\nclass Case(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(double(2), 4)\nresult = unittest.TextTestRunner().run("
        "unittest.defaultTestLoader.loadTestsFromTestCase(Case))\nassert result.wasSuccessful() and result.testsRun == 1"),
    "files between them": ("def save(path):\n    with open(path, 'w') as file:\n        file.write('x')", "import os\nsave('a.txt')\n"
        "assert open('a.txt').read() == 'x' and os.listdir('.') == ['a.txt']"),
    "modules that only the program imports": ("import math\nimport numpy as np\ndef f():\n    return math.pi",
        "assert math.isclose(f(), 3.141592653589793) and np.allclose(f(), math.pi)"),
    "large values": ("def f(x):\n    return x[::-1]", "x = list(range(300_000))\nassert f(x) == x[::-1]\nassert f('a' * 10**7) == 'a' * 10**7"),
    "many calls": ("def f(x):\n    return x + 1", "assert sum(f(x) for x in range(3000)) == 3000 * 3001 // 2"),
}  # fmt: skip


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
