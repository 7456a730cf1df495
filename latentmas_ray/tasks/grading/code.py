"""Kind `code`: extracts the program from an answer, completes it with what the question gives, and runs the tests."""

import ast
import re
import textwrap
from collections.abc import Iterator
from threading import Event

from latentmas_ray.sandbox import run_program
from latentmas_ray.tasks.grading.answer_text import strip_thinking, without_thinking
from latentmas_ray.tasks.grading.code_job import code_job
from latentmas_ray.tasks.question import Grade, Question

_FENCE = re.compile(r"^[ \t]{0,8}(?P<mark>```+|~~~+)[ \t]*(?P<language>[\w+.-]*)[^\n`]*$", re.MULTILINE)
_CODE_START = re.compile(r"^(?:def|class|import|from|async def|@)\b|^@", re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py"})
_NO_LANGUAGE = ""
_MAX_PARSED_CHARS = 100_000
_MAX_INNER_FENCES = 20  # in one docstring
_MAX_CUT_LINES = 60  # of prose after code without a fence


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


def extract_code(answer: str, *names: str) -> str | None:
    """Return the code of an answer: its last fenced Python block, preferably one that defines one of `names`; without a
    block, what looks like code. None for an empty answer."""
    text = without_thinking(answer)
    blocks = list(_blocks(text))
    python = [code for language, code in blocks if language in _PYTHON]
    plain = [code for language, code in blocks if language == _NO_LANGUAGE]
    if fenced := python or plain or [code for _, code in blocks]:
        defining = [code for code in fenced if any(_defines(textwrap.dedent(code), name) for name in names)]
        return (defining or fenced)[-1]
    return _unfenced(text) if strip_thinking(answer) else None


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
    if _defines(code, entry_point):
        # The head may be a whole function already (with a docstring only); then the code defines it again.
        whole = f"{head}\n{'' if _parses(head) else '    pass'}\n{code}"
        return whole if _parses(whole) else "\n".join([*future, code])
    return next((whole for body in _bodies(code) if _parses(whole := f"{head}\n{body}")), f"{head}\n{code}")


def _unindented(code: str, entry_point: str | None) -> str:
    """Return the code without its common indentation, unless it is the body of a function."""
    if not code.strip("\r\n")[:1].isspace():
        return code
    bare = textwrap.dedent(code)
    return bare if entry_point is None or _defines(bare, entry_point) else code


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
    tree = _parsed("\n".join(map(str, examples)) if isinstance(examples, list) else str(question.record["test"]))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call)) if tree else ()
    return tuple(sorted({function.id for function in calls if isinstance(function, ast.Name)}))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield (language, code) of each fenced block; an unclosed block extends to the end."""
    opened: re.Match[str] | None = None
    num_inner = 0
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened, num_inner = fence, 0
        elif fence["mark"].startswith(opened["mark"]) and not fence["language"]:
            content = _content(opened, fence.start())
            if num_inner < _MAX_INNER_FENCES and _ends_in_text(content):
                num_inner += 1  # a docstring may contain fences
            else:
                yield opened["language"].lower(), content
                opened = None
    if opened is not None:
        yield opened["language"].lower(), _content(opened, len(text))


def _content(opened: re.Match[str], end: int) -> str:
    """Return the text between a fence and `end`, without the indentation of the fence (blocks in lists have one)."""
    indent = len(opened[0]) - len(opened[0].lstrip())
    content = opened.string[opened.end() + 1 : end]
    return re.sub(rf"^[ \t]{{1,{indent}}}", "", content, flags=re.MULTILINE) if indent else content


def _ends_in_text(code: str) -> bool:
    """Whether the code ends inside a triple-quoted string."""
    return any(code.count(quotes) % 2 for quotes in ('"""', "'''")) and not _parses(textwrap.dedent(code))


def _unfenced(text: str) -> str:
    """Return the text from its first line of code, without prose after it; the whole text if that is not code."""
    start = _CODE_START.search(text)
    if start is None or _parses(text):
        return text
    lines = text[start.start() :].split("\n")
    for end in range(len(lines), max(0, len(lines) - _MAX_CUT_LINES), -1):
        if _parses(code := "\n".join(lines[:end])):
            return code
    return text


def _defines(code: str, name: str) -> bool:
    """Whether the code defines or assigns `name` at module level."""
    tree = _parsed(code)
    if tree is None:
        return re.search(rf"^(?:async )?(?:def|class) {re.escape(name)}\b", code, re.MULTILINE) is not None
    return name in _names_of(tree)


def _names_of(tree: ast.Module) -> Iterator[str]:
    """Yield the names that are defined or assigned at module level, including inside `if`, `try` and `with`."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            waiting += ast.iter_child_nodes(node)


def _parses(code: str) -> bool:
    return _parsed(code) is not None


def _parsed(code: str) -> ast.Module | None:
    if len(code) > _MAX_PARSED_CHARS:
        return None
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
