"""Programs in answers: every usual form of fences, helpers in a block of their own, several blocks, none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks.grading.code_blocks import blocks, extract_code

DOUBLE = "def double(x):\n    return 2 * x\n"
BODY = "    total = 0\n    for x in xs:\n        total += x\n    return total\n"


def run(answer: str, name: str = "double") -> object:
    """Return what the extracted program's function makes of 4."""
    code = extract_code(answer, name)
    assert code is not None
    names: dict[str, object] = {}
    exec(code, names)
    return names[name](4)  # type: ignore[operator]


FENCES = [
    f"```python\n{DOUBLE}```",
    f"```Python\n{DOUBLE}```\nThat is it.",
    f"``` python\n{DOUBLE}```",
    f"```py3\n{DOUBLE}```",
    f"```python3.11\n{DOUBLE}```",
    f"```{{python}}\n{DOUBLE}```",
    f"```{{.python}}\n{DOUBLE}```",
    f'```python title="double.py"\n{DOUBLE}```',
    f"```\n{DOUBLE}```",
    f"`````python\n{DOUBLE}`````",
    f"~~~\n{DOUBLE}~~~",
    f"~~~~python\n{DOUBLE}~~~~",
    f"Here is the function: ```python\n{DOUBLE}```",
    f"Here is the function: ```\n{DOUBLE}```",
    "1. The function:\n\n            ```python\n"
    + "".join(f"            {line}\n" for line in DOUBLE.splitlines())
    + "            ```",
    "- ```python\n" + "".join(f"  {line}\n" for line in DOUBLE.splitlines()) + "  ```",
    "> ```python\n" + "".join(f"> {line}\n" for line in DOUBLE.splitlines()) + "> ```\n",
    "\t```python\n" + "".join(f"\t{line}\n" for line in DOUBLE.splitlines()) + "\t```",
    f"{DOUBLE}```\n\nIt doubles.",  # the opening fence is in the prompt
    f"python\n{DOUBLE}```\nIt doubles.",
    f"{DOUBLE}```",
    f"{DOUBLE.rstrip()}```",
    f"# the solution\n{DOUBLE}```\nUsage:\n```python\nprint(double(1))\n```",
    f"```python\n{DOUBLE}",  # never closed
    f"```python\n{DOUBLE}\nThis function doubles a number, as asked.\nThank you for asking.",
    f"```python\n{DOUBLE.rstrip()}```\nIt doubles.",
    f"```{DOUBLE}```",  # the code begins right behind the mark
    f"```python {DOUBLE}```",
    f"```python\n{DOUBLE}``` This doubles.",
    f"```python\nimport math\n```python\n{DOUBLE}```",  # the first is never closed
    f"[PYTHON]\n{DOUBLE}[/PYTHON]\nIt doubles.",
    f"[BEGIN]\n{DOUBLE}[DONE]\n[BEGIN]\n",
    f"<code>\n{DOUBLE}</code> It doubles.",
    f"\\begin{{verbatim}}\n{DOUBLE}\\end{{verbatim}}\nIt doubles.",
    f"<answer>\n```python\n{DOUBLE}```\n</answer>",
    f"```python\ndef double(x): return 0\n```\n<answer>```python\n{DOUBLE}```</answer>\n",
    f"<answer>\n{DOUBLE}</answer>",
    f"<think>```python\ndef double(x): return 0\n```</think>\n{DOUBLE}```",
    f"<|channel|>analysis<|message|>```python\ndef double(x): return 0\n```<|end|>"
    f"<|channel|>final<|message|>```python\n{DOUBLE}```",
    f"{DOUBLE}\nQuestion: Write a function that halves.\nAnswer:\ndef double(x):\n    return x / 2\n",
    f"Use ``` to begin and ```x``` within words.\n```python\n{DOUBLE}```",
]


@pytest.mark.parametrize("answer", FENCES)
def test_every_usual_fence_is_read(answer: str) -> None:
    assert run(answer) == 8


HELPERS = [
    "```python\ndef twice(x):\n    return 2 * x\n```\nand\n```python\ndef double(x):\n    return twice(x)\n```",
    "```python\ndef double(x):\n    return twice(x)\n```\nwith\n```python\ndef twice(x):\n    return 2 * x\n```",
    "```python\nimport operator\n```\n```python\ndef double(x):\n    return operator.mul(2, x)\n```",
    "```python\nFACTOR = 2\n```\n```python\ndef twice(x):\n    return FACTOR * x\n```\n"
    "```python\ndef double(x):\n    return twice(x)\n```",
    "```\nclass Twice:\n    factor = 2\n```\nSo:\n```python\ndef double(x):\n    return Twice.factor * x\n```\n"
    "```python\nprint(double(3))\n```",
    "```python\nfrom functools import cache\n\n@cache\ndef twice(x):\n    return 2 * x\nprint(twice(input()))\n```\n"
    "```python\ndef double(x):\n    return twice(x)\n```",
    "```python\ndef twice(x):\n    return 2 * x\ndef double(x):\n    return 0\n```\nNo, better:\n"
    "```python\ndef double(x):\n    return twice(x)\n```",
    f"```\n{DOUBLE}```\nUsage:\n```python\nprint(double(3))\n```",  # only the example is marked as Python
    f"```python\n{DOUBLE}```\n```bash\npython double.py\n```\n```\n8\n```",
    f"```json\n{{}}\n```\n```python\n{DOUBLE}```\n```text\ndouble\n```",
]


@pytest.mark.parametrize("answer", HELPERS)
def test_helpers_may_have_a_block_of_their_own(answer: str) -> None:
    assert run(answer) == 8


def test_only_what_is_needed_is_taken_from_other_blocks() -> None:
    answer = "```python\nimport os\nraise SystemExit\ndef other():\n    return 1\n```\n```python\n" + DOUBLE + "```"
    assert extract_code(answer, "double") == DOUBLE


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (BODY, BODY),
        (f"{BODY}```", BODY),
        (f"{BODY}```\nThis adds them.", BODY),
        (BODY + "\n\nclass Other:\n    def half(", BODY + "\n\nclass Other:"),  # cut off: tested below
        ("I cannot do that.", "I cannot do that."),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
    ],
)
def test_code_without_a_name(answer: str, code: str) -> None:
    found = extract_code(answer)
    assert found is not None
    assert code.startswith(found.rstrip()) or found == code
    assert found.strip()


def test_a_body_that_is_cut_off_behind_it_keeps_its_first_line() -> None:
    assert (extract_code(BODY + "\n\ndef half(x):\n    return (", "f") or "").startswith(BODY.rstrip())


def test_fences_within_a_docstring_do_not_end_the_block() -> None:
    code = 'def double(x):\n    """Doubles.\n\n    ```python\n    double(4)\n    ```\n    """\n    return 2 * x\n'
    assert run(f"```python\n{code}```\nDone.") == 8
    assert [block.language for block in blocks(f"```python\n{code}```")] == ["python"]


@given(st.text(max_size=200) | st.text(alphabet="`~ \npython=def():x'\"#>", max_size=200))
def test_nothing_raises(text: str) -> None:
    extract_code(text, "double")


@pytest.mark.parametrize(
    "unit", ["```python\n", "```\n", "x ```\n", "~~~\n", "'''\n```\n", "[PYTHON]", "```python\nx = '''\n"]
)
def test_hostile_texts_take_little_time(unit: str) -> None:
    begin = time.process_time()
    extract_code(unit * 5_000, "double")
    assert time.process_time() - begin < 10
