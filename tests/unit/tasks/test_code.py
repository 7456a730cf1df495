"""Kind code: programs are extracted from answers as models write them, completed, run, and graded."""

import textwrap
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentmas_ray.sandbox import find_obstacle
from latentmas_ray.tasks import Question, check_graders, grade, question_from
from latentmas_ray.tasks.grading.code import complete_program
from latentmas_ray.tasks.grading.code_blocks import extract_code

needs_sandbox = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")

HEAD = '''from typing import List


def double(x: int) -> int:
    return 2 * x


def total(numbers: List[int]) -> int:
    """ The sum of the doubled numbers.
    >>> total([1, 2])
    6
    """
'''
COMPLETE = question_from(
    {
        "id": "own/1",
        "task": "humanevalplus",
        "prompt": HEAD,
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 6\n    assert candidate([]) == 0\n",
        "entry_point": "total",
    },
    index=0,
)
WRITE = question_from(
    {
        "id": "own/2",
        "task": "mbppplus",
        "prompt": "Write a function that gives the area of a circle of radius r, rounded to two places.",
        "test": "for r, expected in ((1, 3.14), (2, 12.57)):\n    assert area(r) == expected\n",
        "test_list": ["assert area(1) == 3.14"],
        "test_imports": ["import math"],
    },
    index=0,
)
BODY = "    result = 0\n    for number in numbers:\n        result += double(number)\n    return result\n"
WHOLE = "def total(numbers):\n    return sum(2 * number for number in numbers)\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Here:\n\n```py\nx = 1\n```\nThat is all.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nrun it:\n```bash\npython x.py\n```", "x = 1\n"),
        ("```python\nx = 1\n```\noutput:\n```\n1\n```", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),  # cut off
        ("<think>```python\nx = 0\n```</think>```python\nx = 1\n```", "x = 1\n"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("import math\nx = math.pi", "import math\nx = math.pi"),
        ("The function is\n\ndef f():\n    return 1\n\nIt returns one.", "def f():\n    return 1\n"),
        ("    return 1\n", "    return 1\n"),
        ("", None),
        ("<think>x = 1", None),
    ],
)
def test_code_is_found(answer: str, code: str | None) -> None:
    assert extract_code(answer) == code


def test_the_block_that_defines_the_function_is_preferred_to_a_later_example() -> None:
    assert extract_code(f"```python\n{WHOLE}```\nFor example:\n```python\nprint(total([1]))\n```", "total") == WHOLE


@needs_sandbox
@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        f"```python\n{BODY}```",
        BODY.lstrip(),  # the first line has lost its indentation
        "result = 0\nfor number in numbers:\n    result += double(number)\nreturn result",  # all have
        f"```python\n{WHOLE}```",
        f"```python\n{HEAD}{BODY}```",
        f"```python\ndef total(numbers: List[int]) -> int:\n{BODY}```",  # without the head's import and function
        f"I define it.\n\n{WHOLE}\nThat is right for empty lists too.",
        f"<think>```python\ndef total(n): return 0\n```</think>\n```python\n{WHOLE}```",
        f"```python\nfrom __future__ import annotations\n{WHOLE}```",
        "```python\n" + textwrap.indent(WHOLE, "\t") + "```",
        "```python\ntotal: object = lambda numbers: 2 * sum(numbers)\n```",
        "```python\ntry:\n    import numpy\nexcept ImportError:\n"
        + textwrap.indent(WHOLE, "    ")
        + "else:\n"
        + textwrap.indent(WHOLE, "    ")
        + "```",
        "```python\n"
        "def total(numbers):\n    breaks = 'a\x0cb\u2028'\n    return 2 * sum(numbers) + len(breaks[4:])\n```",
        f'```python\ndef total(numbers):\n    """Sum.\n\n    ```\n    total([1])\n    ```\n    """\n{BODY}```\n',
    ],
)
def test_a_function_is_completed_in_every_usual_form(answer: str) -> None:
    result = grade(COMPLETE, answer)
    assert (result.correct, result.reason) == (True, "")
    assert result.prediction


def test_many_unclosed_fences_take_little_time() -> None:
    begin = time.process_time()
    extract_code("```python\nx = '''\n" + "```\n" * 20_000, "f")
    assert time.process_time() - begin < 5


@needs_sandbox
def test_code_with_a_common_indentation_is_a_program_too() -> None:
    code = textwrap.indent("def area(r):\n    return round(math.pi * r * r, 2)\n", "    ")
    assert grade(WRITE, f"```python\n{code}```").correct is True


@needs_sandbox
def test_an_example_is_not_mistaken_for_a_function_that_only_the_tests_name() -> None:
    answer = (
        "```python\ndef area(r):\n    return round(math.pi * r * r, 2)\n```\nUsage:\n```python\nprint(area(1))\n```"
    )
    outcome = grade(WRITE, answer)
    assert outcome.correct is True, outcome.reason


@needs_sandbox
def test_imports_of_the_tests_come_first() -> None:
    assert grade(WRITE, "```python\ndef area(r):\n    return round(math.pi * r * r, 2)\n```").correct is True
    assert complete_program(WRITE, "x = 1").startswith("import math\n")


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("I cannot.", "SyntaxError"),
        ("```python\ndef total(numbers):\n    return 0\n```", "AssertionError"),
        ("```python\ndef totals(numbers):\n    return 6\n```", "AssertionError"),
        ("```python\nimport os\nos._exit(0)\n```", "it ended before its tests did"),
        ("```python\nimport sys\ndef total(numbers):\n    sys.exit(0)\n```", "SystemExit"),
    ],
)
def test_wrong_code_fails_with_a_reason(answer: str, reason: str) -> None:
    result = grade(COMPLETE, answer)
    assert result.correct is False
    assert reason in result.reason


@needs_sandbox
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([("result = 0", "result = {}"), ("return result", "return result + {}"), ("double(number)", "{}")]),
    st.integers(1, 50),
)
def test_mutants_fail(change: tuple[str, str], number: int) -> None:
    mutant = BODY.replace(change[0], change[1].format(number))
    assert grade(COMPLETE, mutant).correct is (mutant == BODY)


def test_whether_code_can_be_graded_is_checked_before_a_run() -> None:
    plain = Question(id="1", question="?", kind="text", gold=None, record={})
    check_graders([plain])
    if find_obstacle() is None:
        check_graders([plain, COMPLETE])
