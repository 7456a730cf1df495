"""A pass cannot be forged: the program is in another process than its tests, and only data comes from it."""

import pytest

from latentmas_ray.sandbox import Job, Limits, Outcome, find_obstacle, run_program

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")

DOUBLE = "assert double(4) == 8\nassert double(-3) == -6, 'expected minus six'"


def run(program: str, tests: str = DOUBLE, **fields: object) -> Outcome:
    return run_program(Job(program=program, tests=tests, limits=Limits(wall_seconds=30.0), **fields))  # type: ignore[arg-type]


# Each returns or does something that the old way of running tests, in the program's process, took for a pass.
EQUAL = "class Equal:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n    __ne__ = None\n"
FORGERIES = {
    "frames": "import os, sys\nframe = sys._getframe()\nwhile frame:\n    for value in list(frame.f_locals.values()):\n"
    "        if isinstance(value, bytes):\n            for fd in range(3, 12):\n                try:\n"
    "                    os.write(fd, value + b'\\n')\n                except OSError:\n                    pass\n"
    "    frame = frame.f_back\nos._exit(0)",
    "frames, when called": "def double(x):\n    import os, sys\n    frame = sys._getframe()\n    while frame:\n"
    "        for value in list(frame.f_locals.values()):\n            if isinstance(value, (bytes, str)):\n"
    "                for fd in range(3, 12):\n                    try:\n"
    "                        os.write(fd, (value if isinstance(value, bytes) else value.encode()) + b'\\n')\n"
    "                    except OSError:\n                        pass\n        frame = frame.f_back\n    os._exit(0)",
    "files": "import os\nfor fd in range(64):\n    for text in (b'ready\\n', b'{\"passed\": true, \"reason\": null}\\n' * 3):\n"
    "        try:\n            os.write(fd, text)\n        except OSError:\n            pass\nos._exit(0)",
    "files, when called": "def double(x):\n    import os\n    for fd in range(3, 64):\n        try:\n"
    "            os.write(fd, b'{\"passed\": true}\\n')\n        except OSError:\n            pass\n    os._exit(0)",
    "garbage collector": "import gc, os\nfor one in gc.get_objects():\n    if type(one).__name__ == 'Channel':\n"
    "        one.send({'passed': True})\n        one.send(['passed'])\nos._exit(0)",
    "garbage collector, functions": "import gc, types\nfor one in gc.get_objects():\n"
    "    if isinstance(one, types.FunctionType) and one.__name__ in ('run_tests', '_verdict', '_reason', 'refuse'):\n"
    "        one.__code__ = (lambda *a, **k: None).__code__\ndef double(x):\n    return 0",
    "ctypes": "import ctypes\nctypes.CDLL(None)._exit(0)",
    "ctypes, exit when called": "def double(x):\n    import ctypes\n    ctypes.CDLL(None).exit_group(0)\n"
    "    ctypes.CDLL(None)._exit(0)",
    "ctypes, True is equal": "import ctypes, sys\ndef double(x):\n"
    "    ctypes.memmove(id(0) + 24, (ctypes.c_uint32 * 1)(8), 4)\n    return 0",
    "exit 0": "import os\nos._exit(0)",
    "exit with the code of the tests": "import os\ndef double(x):\n    os._exit(3)",
    "sys.exit": "def double(x):\n    import sys\n    sys.exit(0)",
    "SystemExit at the start": "raise SystemExit(0)",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "fork": "import os\nif os.fork():\n    os._exit(0)\nos._exit(0)",
    "fork, when called": "def double(x):\n    import os\n    if os.fork():\n        return 0\n    return 8",
    "builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.compile = builtins.exec = lambda *a: 0\n"
    "builtins.eval = builtins.isinstance = lambda *a: True\ndef double(x):\n    return 0",
    "equal to all": EQUAL + "def double(x):\n    return Equal()",
    "equal to all, an int": "class Equal(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
    "def double(x):\n    return Equal(0)",
    "equal to all, a text": "class Equal(str):\n    def __eq__(self, other):\n        return True\n    __hash__ = str.__hash__\n"
    "def double(x):\n    return Equal('')",
    "equal to all, a list": "class Equal(list):\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return Equal()",
    "equal to all, a dict": "class Equal(dict):\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return Equal()",
    "equal to all, a tuple": "import collections\nclass Equal(collections.namedtuple('Equal', 'a')):\n"
    "    def __eq__(self, other):\n        return True\ndef double(x):\n    return Equal(1)",
    "equal to all, of mock": "from unittest.mock import ANY\ndef double(x):\n    return ANY",
    "equal to all, a class": "class Meta(type):\n    def __eq__(self, other):\n        return True\n    __hash__ = type.__hash__\n"
    "class Equal(metaclass=Meta):\n    pass\ndef double(x):\n    return Equal",
    "equal to all, an exception": "class Equal(Exception):\n    def __eq__(self, other):\n        return True\n"
    "def double(x):\n    return Equal()",
    "the function is equal": "class Equal:\n    def __eq__(self, other):\n        return True\n"
    "    def __call__(self, x):\n        return self\ndouble = Equal()",
    "an enumeration": "import enum\nclass Equal(enum.IntEnum):\n    A = 1\n    def __eq__(self, other):\n        return True\n"
    "def double(x):\n    return Equal.A",
    "not a number": "def double(x):\n    return float('nan')",
    "kill the tests": "def double(x):\n    import os, signal\n    for number in (signal.SIGINT, signal.SIGTERM, 9):\n"
    "        for pid in [-1, *range(1, 40)]:\n            if pid != os.getpid():\n                try:\n"
    "                    os.kill(pid, number)\n                except OSError:\n                    pass\n    return 0",
    "ptrace the tests": "def double(x):\n    import ctypes\n    for pid in range(1, 40):\n"
    "        ctypes.CDLL(None).ptrace(16, pid, 0, 0)\n    return 0",
    "standard output": "def double(x):\n    print('{\"passed\": true}', flush=True)\n    return 0",
    "modules on disk": "import os, sys\nfor place in ('.', os.path.expanduser('~'), os.environ['TMPDIR']):\n"
    "    for name in ('numpy', 'math', 'json', 'sitecustomize', 'usercustomize', 'tests', 'program', 'pytest'):\n"
    "        with open(os.path.join(place, name + '.py'), 'w') as file:\n"
    "            file.write('import builtins, os\\nbuiltins.AssertionError = None\\nos._exit(0)\\n')\n"
    "def double(x):\n    return 0",
    "threads": "import threading, os\ndef flood():\n    for _ in range(100_000):\n        try:\n"
    "            os.write(4, b'[\"returned\",0,[],\"\"]\\n')\n        except OSError:\n            return\n"
    "threading.Thread(target=flood, daemon=True).start()\ndef double(x):\n    return 0",
    "answers in advance": "import os\nfor fd in range(3, 9):\n    try:\n"
    "        os.write(fd, b'[\"loaded\"]\\n[\"names\",[[\"double\",[\"h\",0,\"function\",\"double\"]]]]\\n[\"passed\",true]\\n' * 9)\n"
    "    except OSError:\n        pass\nos._exit(0)",
    "messages of no kind": "import os\nfor fd in (3, 4):\n    try:\n"
    "        os.write(fd, b'{\"a\":1}\\n[]\\n[[]]\\nnull\\n7\\n\\xff\\n[\"callback\",0,[],[],[]]\\n[\"callback\",\"x\"]\\n')\n"
    "    except OSError:\n        pass\ndef double(x):\n    return 0",
    "a value of no form": "import os\ndef double(x):\n"
    "    os.write(4, b'[\"returned\",[\"k\",\"exec\"],[],\"\"]\\n')\n    return 0",
    "a change to nothing": "import os\ndef double(x):\n    os.write(4, b'[\"returned\",8,[[7,[\"l\",1]]],\"\"]\\n')\n    return 0",
    "an exception that ends the tests": "class TestsEnded(BaseException):\n    pass\ndef double(x):\n    raise TestsEnded",
    "an exception without a name": "class Meta(type):\n    __name__ = property(lambda self: 1 / 0)\n"
    "class Odd(Exception, metaclass=Meta):\n    def __str__(self):\n        raise self\ndef double(x):\n    raise Odd",
    "KeyboardInterrupt": "def double(x):\n    raise KeyboardInterrupt",
    "GeneratorExit": "def double(x):\n    raise GeneratorExit",
    "a module instead of itself": "import sys, types\nclass Fake(types.ModuleType):\n    def __getattr__(self, name):\n"
    "        return lambda *a: 8\nsys.modules['program'] = Fake('program')\ndef double(x):\n    return 0",
    "other modules of the harness": "import sys\nfor name, module in list(sys.modules.items()):\n"
    "    if 'sandbox' in name:\n        vars(module).update(reason_of=lambda e: None)\ndef double(x):\n    return 0",
    "tracing": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef double(x):\n    return 0",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_does_not_pass(name: str) -> None:
    outcome = run(FORGERIES[name])
    assert not outcome.passed
    assert outcome.reason


SUM = "def reference(x):\n    return sum(x)\n"
# (program, tests): what the tests do with a result decides; none of these results is right.
BY_USE = {
    "a difference": ("class Near:\n    def __sub__(self, o):\n        return 0.0\n    __rsub__ = __sub__\ndef f(x):\n    return Near()",
        "assert abs(f(2) - 4.0) < 1e-9"),
    "a difference of an object of a named class": ("class Vector:\n    def __init__(self, x=0):\n        pass\n"
        "    def __sub__(self, o):\n        return self\n    def __abs__(self):\n        return 0.0\n    def __float__(self):\n"
        "        return 0.0\n    def __bool__(self):\n        return False\ndef f(x):\n    return Vector()",
        "v = Vector(1)\nassert abs(f(2) - 4.0) < 1e-9"),
    "no difference": ("class Vector:\n    def __init__(self, x=0):\n        pass\n    def __sub__(self, o):\n        return self\n"
        "    def __bool__(self):\n        return False\ndef f(x):\n    return Vector()", "v = Vector(1)\nassert not (f(2) - 4)"),
    "in": ("class All:\n    def __contains__(self, x):\n        return True\ndef f():\n    return All()", "assert 5 in f()"),
    "in an endless iterator": ("import itertools\ndef f():\n    return itertools.count()", "assert 5 in f()"),
    "begins with": ("class Text:\n    def startswith(self, x):\n        return True\ndef f():\n    return Text()",
        "assert f().startswith('abc')"),
    "a subset": ("class Some:\n    def issuperset(self, x):\n        return True\ndef f():\n    return Some()",
        "assert f().issuperset({1, 2})"),
    "a difference of sets": ("class Some:\n    def symmetric_difference(self, x):\n        return set()\ndef f():\n    return Some()",
        "assert f().symmetric_difference({1, 2}) == set()"),
    "less than": ("class Small:\n    def __lt__(self, x):\n        return True\n    def __gt__(self, x):\n        return True\n"
        "def f():\n    return Small()", "assert 2 < f() < 4"),
    "close": ("class Close:\n    def __float__(self):\n        return 3.0\ndef f():\n    return Close()",
        "import math\nassert math.isclose(f(), 3.0)"),
    "rounded": ("class Close:\n    def __round__(self, n):\n        return 3.14\ndef f():\n    return Close()", "assert round(f(), 2) == 3.14"),
    "in a list": (EQUAL + "def f():\n    return Equal()", "assert f() in [1, 2, 3]"),
    "a list of them": (EQUAL + "def f():\n    return [Equal()]", "assert f() == [3]"),
    "a dict of them": (EQUAL + "def f():\n    return {'a': Equal()}", "assert f() == {'a': 3}"),
    "sorted": (EQUAL + "def f():\n    return [Equal()]", "assert sorted(f()) == [3]"),
    "compared as text": ("class Text:\n    def __str__(self):\n        return Anything()\nclass Anything(str):\n"
        "    def __eq__(self, o):\n        return True\ndef f():\n    return Text()", "assert str(f()) == 'abc'"),
    "the arguments are emptied": ("def f(x):\n    x.clear()\n    return 0", SUM + "x = [1, 2]\nassert f(x) == reference(x)"),
    "the arguments are emptied, in a loop": ("def f(x):\n    x.clear()\n    return 0",
        SUM + "def check(c):\n    for x in ([[1, 2]], [[3]]):\n        assert c(*x) == reference(*x)\ncheck(f)"),
    "the arguments are emptied, all at once": ("def f(x):\n    x.clear()\n    return 0",
        SUM + "xs = [[1, 2], [3]]\nassert [f(x) for x in xs] == [reference(x) for x in xs]"),
    "all() is replaced": ("def all(x):\n    return True\ndef f(x):\n    return 0", "assert all(f(x) == x + 1 for x in range(3))"),
    "set is replaced": ("class set:\n    def __init__(self, x):\n        pass\n    def __eq__(self, o):\n        return True\n"
        "def f():\n    return []", "assert set(f()) == set([1, 2])"),
    "a helper of the tests is replaced": ("def same(a, b):\n    return True\ndef f():\n    return 0",
        "def same(a, b):\n    return a == b\nassert same(f(), 1)"),
    "what is given is replaced": ("def same(a, b):\n    return True\ndef f():\n    return 0", "assert same(f(), 1)"),
    "an exception that is another": ("class ValueError(Exception):\n    pass\ndef f():\n    raise ValueError('x')",
        "try:\n    f()\nexcept ValueError:\n    pass"),
    "all exceptions of the tests are caught": ("def f():\n    import os\n    os._exit(0)", "try:\n    f()\nexcept BaseException:\n    pass"),
    "a failed assertion in a function of the tests": ("def f(g):\n    try:\n        g(1)\n    except BaseException:\n        pass",
        "def g(x):\n    assert x == 2\nf(g)"),
    "an array": ("import numpy as np\nclass Equal(np.ndarray):\n    def __eq__(self, o):\n        return np.True_\n"
        "def f():\n    return np.zeros(2).view(Equal)", "assert (f() == [1, 2]).all()"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_USE)
def test_a_result_does_not_decide_how_it_is_compared(name: str) -> None:
    program, tests = BY_USE[name]
    given = "def same(a, b):\n    return a == b\n" if "given" in name else ""
    outcome = run(program, tests, given=given)
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
