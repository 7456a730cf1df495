"""Kind `code`: completes the program of an answer with what the question gives, and runs the tests."""

import ast
import textwrap
from collections.abc import Iterator
from threading import Event

from latentmas_ray.sandbox import run_program
from latentmas_ray.tasks.grading.code_blocks import defines, extract_code, parsed, parses
from latentmas_ray.tasks.grading.code_job import code_job
from latentmas_ray.tasks.question import Grade, Question


def code_question(record: dict[str, object]) -> str:
    """Return the question for the agents: the prompt as a function to complete, or with examples of its tests."""
    prompt = str(record["prompt"]).strip("\n")
    if record.get("entry_point"):
        return f"Complete this Python function:\n\n```python\n{prompt}\n```"
    examples = record.get("test_list")
    if not isinstance(examples, list) or not examples:
        return prompt
    lines = "\n".join(str(example).strip() for example in examples)
    return f"{prompt.strip()}\n\nThe code must pass tests such as these:\n\n```python\n{lines}\n```"


def grade_code(
    question: Question, answer: str, *, cancelled: Event | None = None, unsafe_programs: bool = False
) -> Grade:
    """Run the answer's code and then the question's tests. Raises SandboxError if this machine cannot confine it and
    `unsafe_programs` does not allow that."""
    entry_point = _entry_point(question)
    code = extract_code(answer, *(_tested_names(question) if entry_point is None else (entry_point,)))
    if code is None:
        return Grade(prediction=None, correct=False, reason="the answer is empty")
    job = code_job(question, complete_program(question, code), needs_confinement=not unsafe_programs)
    outcome = run_program(job, cancelled=cancelled)
    return Grade(prediction=code.strip("\n"), correct=outcome.passed, reason=outcome.reason)


def defined_by(question: Question, text: str) -> bool:
    """Return whether a text has a program that defines a function which the question's tests call. Runs nothing."""
    entry_point = _entry_point(question)
    names = _tested_names(question) if entry_point is None else (entry_point,)
    code = extract_code(text, *names)
    return code is not None and any(defines(code, name) for name in names)


def complete_program(question: Question, code: str) -> str:
    """Return the program to run: what the question gives (imports, other functions, the head of the function) and the
    code.

    Code that is only the body of the function is put after the head, and lost indentation is restored.
    """
    imports = question.record.get("test_imports")
    given = [str(line) for line in imports] if isinstance(imports, list) else []
    entry_point = _entry_point(question)
    code = _unindented(code, entry_point)
    lines = code.split("\n")  # not splitlines(): a string may contain form feeds and the like
    future = [line for line in lines if line.startswith("from __future__ import ")]  # these must come first
    code = "\n".join(line for line in lines if line not in future)
    if entry_point is None:
        return "\n".join([*future, *given, code])
    head = "\n".join([*future, *given, str(question.record["prompt"]).rstrip()])
    if defines(code, entry_point):
        # The head may be a whole function already (with a docstring only); then the code defines it again.
        whole = f"{head}\n{'' if parses(head) else '    pass'}\n{code}"
        return whole if parses(whole) else "\n".join([*future, code])
    return next((whole for body in _bodies(code) if parses(whole := f"{head}\n{body}")), f"{head}\n{code}")


def _unindented(code: str, entry_point: str | None) -> str:
    """Return the code without its common indentation, unless it is the body of a function."""
    if not code.strip("\r\n")[:1].isspace():
        return code
    bare = textwrap.dedent(code)
    return bare if entry_point is None or defines(bare, entry_point) else code


def _bodies(code: str) -> Iterator[str]:
    """Yield candidates for a function body whose indentation was lost, completely or in the first line."""
    first, _, rest = code.strip("\n").partition("\n")
    if first[:1].isspace():
        yield code
    yield textwrap.indent(textwrap.dedent(code), "    ")
    yield f"    {first.strip()}\n{rest}"


def _entry_point(question: Question) -> str | None:
    name = question.record.get("entry_point")
    return name if isinstance(name, str) and name.isidentifier() else None


def _tested_names(question: Question) -> tuple[str, ...]:
    """Return the functions that the tests call. One is the requested function, if no field names it."""
    examples = question.record.get("test_list")
    tree = parsed("\n".join(map(str, examples)) if isinstance(examples, list) else str(question.record["test"]))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call)) if tree else ()
    return tuple(sorted({function.id for function in calls if isinstance(function, ast.Name)}))
