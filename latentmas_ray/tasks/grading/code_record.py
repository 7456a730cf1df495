"""Checks the record of a question of kind code: it must have tests that can fail, and say what they test."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from latentmas_ray.errors import TaskError

_CHECK = re.compile(r"^def[ \t]+check[ \t]*\(", re.MULTILINE)
# How a line usually begins that does something when the tests run. Without such a line, the tests are parsed.
_ACTION = re.compile(r"^(?:(?:assert|for|while|with|try)\b|[A-Za-z_][\w.]*\()", re.MULTILINE)
_NO_ACTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)


def check_code_record(record: Mapping[str, Any], where: str, *, needs_prompt: bool) -> None:
    """Raise TaskError, its field `where` and the key, if `prompt` or `test` is missing, `entry_point` is not a name, or
    no answer could fail the tests."""
    entry_point = record.get("entry_point")
    # A named function continues the prompt, so the prompt must be there.
    for key in ("prompt", "test") if needs_prompt or entry_point is not None else ("test",):
        if key not in record:
            raise TaskError(
                f"{where}{key}", "nothing", f"every question of kind code needs {key}; keys are {some_keys(record)}"
            )
        if not isinstance(record[key], str) or not record[key].strip():
            raise TaskError(f"{where}{key}", record[key], "it must be a non-empty string")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        raise TaskError(f"{where}entry_point", entry_point, "it must be the name of the tested function")
    tests = record["test"]
    if (has_check(tests) and entry_point is not None) or _ACTION.search(tests):
        return
    if has_check(tests):
        expected = "the test is a function check(candidate), so this must name the tested function"
        raise TaskError(f"{where}entry_point", "nothing", expected)
    try:
        is_idle = not any(map(_acts, ast.parse(tests).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"{where}test", tests, f"it must be Python ({error})") from None
    if is_idle:
        expected = "it only defines functions and calls none, so every answer would pass; call what it defines"
        raise TaskError(f"{where}test", tests, expected)


def has_check(tests: str) -> bool:
    """Whether the tests define `check(candidate)`, which must be called with the tested function."""
    return _CHECK.search(tests) is not None


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement does more than define a name. `if __name__ == …` does not run, since tests are a module."""
    if isinstance(statement, ast.If):
        names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
        return "__name__" not in names
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
        return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    return not isinstance(statement, _NO_ACTION)


def some_keys(keys: Mapping[str, Any]) -> str:
    """Return the first few keys, for a message."""
    names = [str(key)[:40] for key in keys]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
