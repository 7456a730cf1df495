"""What the sandbox runs for a question of kind `code`: the answer's program, the tests, and what both are given."""

import ast
import builtins
from collections.abc import Iterator

from latentmas_ray.sandbox import Job
from latentmas_ray.tasks.grading.code_record import has_check
from latentmas_ray.tasks.question import Question

_BUILTINS = frozenset(vars(builtins))
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_GIVEN = (*_DEFINITIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def code_job(question: Question, program: str, *, needs_confinement: bool) -> Job:
    """Return the job that runs `program` and then the question's tests.

    What the question gives (imports, helpers and classes of the prompt) is the tests' own as well, so that a program
    cannot put something else in its place.
    """
    record = question.record
    tests, entry_point = str(record["test"]), record.get("entry_point")
    imports = record.get("test_imports")
    given = [str(line) for line in imports] if isinstance(imports, list) else []
    shared: tuple[str, ...] = ()
    if isinstance(entry_point, str):
        helpers = list(_helpers(str(record["prompt"]), entry_point))
        shared = tuple(node.name for node in helpers if isinstance(node, ast.ClassDef))
        given += [ast.unparse(node) for node in helpers]
        if has_check(tests):
            tests = f"{tests}\ncheck({entry_point})\n"
    return Job(
        program=program,
        tests=tests,
        given="\n".join(given),
        shared=shared,
        tested=(entry_point,) if isinstance(entry_point, str) else _tested_builtins(record.get("test_list")),
        needs_confinement=needs_confinement,
    )


def _helpers(prompt: str, entry_point: str) -> Iterator[ast.stmt]:
    """Yield what the prompt defines besides the requested function."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue  # it must come first, and the tests need none
        if isinstance(node, _GIVEN) and not (isinstance(node, _DEFINITIONS) and node.name == entry_point):
            yield node


def _tested_builtins(examples: object) -> tuple[str, ...]:
    """Return the requested function if it is called as one of Python's, such as `sum`: then the examples call nothing
    else."""
    if not isinstance(examples, list):
        return ()
    try:
        tree = ast.parse("\n".join(map(str, examples)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    functions = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = {function.id for function in functions if isinstance(function, ast.Name)}
    return tuple(names) if len(names) == 1 and names <= _BUILTINS else ()
