"""The project's own source, parsed: what the architecture tests look at."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "latentmas_ray"


@dataclass(frozen=True)
class Import:
    """One imported module, as a full dotted name, and the line where it stands."""

    module: str
    line: int


@dataclass(frozen=True)
class Source:
    """One Python file; `name` is its path from the root of the project."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def unit(self) -> str:
        """The package or top-level module inside `latentmas_ray` that the file belongs to; "" is its face."""
        first = self.name.removeprefix(f"{PACKAGE}/").split("/")[0].removesuffix(".py")
        return "" if first == "__init__" else first

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING, or by a constant name."""
        return tuple(self._find_imports())

    def _find_imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                # `from package import x` may import the module package.x, so the longer name is what counts.
                module = "." * node.level + (node.module or "")
                yield from (Import(f"{module}.{alias.name}", node.lineno) for alias in node.names)
            elif (name := _imported_by_call(node)) is not None:
                yield name


def _imported_by_call(node: ast.AST) -> Import | None:
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    value = node.args[0].value
    return (
        Import(value, node.lineno) if function in {"import_module", "__import__"} and isinstance(value, str) else None
    )


@cache
def sources(folder: str) -> tuple[Source, ...]:
    """Every Python file under a folder of the project, in the order of their names."""
    return tuple(
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
