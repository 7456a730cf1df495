"""What the record of a question of kind code must hold: tests that test something, and what they test."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from latentmas_ray.errors import TaskError

_CHECK = re.compile(r"^def[ \t]+check[ \t]*\(", re.MULTILINE)
# How lines usually begin that do something when the tests run; where there is none, the tests are parsed to know.
_ACTION = re.compile(r"^(?:(?:assert|for|while|with|try)\b|[A-Za-z_][\w.]*\()", re.MULTILINE)
_NO_ACTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)


def check_code_record(record: Mapping[str, Any], where: str, *, needs_prompt: bool) -> None:
    """Raises TaskError, its field `where` and the key, where `prompt` or `test` is missing, `entry_point` is no name,
    or no answer could fail the tests."""
    entry_point = record.get("entry_point")
    # A function that is named continues the prompt, so that must be there.
    for key in ("prompt", "test") if needs_prompt or entry_point is not None else ("test",):
        if key not in record:
            raise TaskError(
                f"{where}{key}", "nothing", f"every question of kind code needs {key}; keys are {some_keys(record)}"
            )
        if not isinstance(record[key], str) or not record[key].strip():
            raise TaskError(f"{where}{key}", record[key], "it must be a non-empty string")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        raise TaskError(f"{where}entry_point", entry_point, "it must be the name of the function that is tested")
    tests = record["test"]
    if (has_check(tests) and entry_point is not None) or _ACTION.search(tests):
        return
    if has_check(tests):
        expected = "the test is a function check(candidate), so this must name the function that is tested"
        raise TaskError(f"{where}entry_point", "nothing", expected)
    try:
        is_idle = not any(map(_acts, ast.parse(tests).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"{where}test", tests, f"it must be Python ({error})") from None
    if is_idle:
        expected = "it defines things and runs none of them, so that every answer would pass; call what it defines"
        raise TaskError(f"{where}test", tests, expected)


def has_check(tests: str) -> bool:
    """Whether the tests are a function `check` of the function that is tested, which somebody must call."""
    return _CHECK.search(tests) is not None


def _acts(statement: ast.stmt) -> bool:
    """Whether anything comes of it beside a name. The tests are no main program, so what only that would do is none."""
    if isinstance(statement, ast.If):
        names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
        return "__name__" not in names
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
        return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    return not isinstance(statement, _NO_ACTION)


def some_keys(keys: Mapping[str, Any]) -> str:
    """A few of the keys, for a message."""
    names = [str(key)[:40] for key in keys]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
