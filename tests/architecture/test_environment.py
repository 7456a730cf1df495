"""The environment is read in env.py and nowhere else, so that every variable is typed, checked and listed."""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import PACKAGE, Source, sources

DOORS = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def environment_uses(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        used = isinstance(node, ast.Attribute) and node.attr in DOORS
        imported = (
            isinstance(node, ast.ImportFrom)
            and node.module in {"os", "posix"}
            and any(alias.name in DOORS | {"*"} for alias in node.names)
        )
        if used or imported:
            yield f"{source.name}:{node.lineno}"


def test_only_env_touches_the_environment() -> None:
    files = (*sources(PACKAGE), *sources("jobs"))
    assert [use for file in files if file.name != f"{PACKAGE}/env.py" for use in environment_uses(file)] == []


@pytest.mark.parametrize(
    "text",
    ["import os\nos.environ['A']", "import os as o\no.getenv('A')", "from os import environ", "from os import *"],
)
def test_the_check_itself(text: str) -> None:
    assert list(environment_uses(Source("made_up.py", text)))
