"""No code that comes with a model is run: every call that could load some says so."""

import ast

import pytest

from tests.architecture.source import PACKAGE, Source, sources

FOLDERS = (PACKAGE, "benchmarks", "examples", "jobs")
_LOADERS = ("from_pretrained", "from_config")


def _loads(source: Source) -> list[ast.Call]:
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in _LOADERS]


def _is_closed(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    value = given.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("folder", FOLDERS)
def test_transformers_is_never_asked_to_run_a_models_code(folder: str) -> None:
    open_calls = [
        f"{source.name}:{call.lineno}"
        for source in sources(folder)
        for call in _loads(source)
        # A class of this project has a method of the same name.
        if not _is_closed(call) and ast.unparse(call.func) != "DriverSettings.from_config"
    ]
    assert open_calls == []


def test_the_calls_are_found() -> None:
    assert sum(len(_loads(source)) for source in sources(PACKAGE)) >= 5
