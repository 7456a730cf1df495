"""Jinja2, sandboxed: a prompt may compute with a question's fields, and reach nothing else.

A template is a small program from a file that may be somebody else's. The sandbox refuses Python's internals; on top
of it, the ways in which an expression can make something huge out of something small are bounded.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED_CHARS = 4_000_000
MAX_NUMBER = 10_000  # of a range, a width, a count
MAX_BITS = 10_000  # of a number that an expression makes

_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})")
_REACHES_OUT = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_GLOBALS = ("range", "dict", "namespace", "cycler", "joiner")  # not lipsum: it is random
_WITH_A_WIDTH = ("batch", "center", "indent", "round", "slice")


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, *, keep_trailing_newline: bool) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=keep_trailing_newline,
        )
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        for name in ("random", "format"):
            del self.filters[name]
        for name in _WITH_A_WIDTH:
            self.filters[name] = _bounded(self.filters[name])
        # Jinja2's own escapes < and & for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if getattr(__obj, "__name__", "") in ("format", "format_map"):
            raise SecurityError("str.format is not allowed here; write {{ … }} instead")
        _check_numbers((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def find_problem(template: str) -> tuple[int, str] | None:
    """The line (from 1) and what is wrong there; None for a template that compiles and reads nothing it must not."""
    try:
        tree = _PROMPTS.parse(template)
        for node in tree.find_all(_REACHES_OUT):
            return node.lineno, "a prompt cannot read other files; write the text into it"
        if "gold" in find_undeclared_variables(tree):
            line = next(node.lineno for node in tree.find_all(nodes.Name) if node.name == "gold")
            return line, "gold is the reference answer, which no agent may see"
        _compile(template, keep_trailing_newline=False)
    except jinja2.TemplateSyntaxError as error:
        return error.lineno, f"Jinja2: {error.message}"
    except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
        # Python's own limits on generated code: nesting, length of numbers.
        return 1, f"Jinja2 cannot compile it: {error}"
    return None


@lru_cache(maxsize=4096)
def variables_of(template: str) -> frozenset[str]:
    """The names that a template takes from outside. Raises jinja2.TemplateSyntaxError."""
    return frozenset(find_undeclared_variables(_PROMPTS.parse(template)))


def render(template: str, variables: Mapping[str, Any], *, keep_trailing_newline: bool = False) -> str:
    """The text. A template is a program: this raises whatever it raises, not only jinja2.TemplateError."""
    chunks: list[str] = []
    num_chars = 0
    for chunk in _compile(template, keep_trailing_newline=keep_trailing_newline).generate(variables):
        num_chars += len(chunk)
        if num_chars > MAX_RENDERED_CHARS:
            raise SecurityError(f"it renders to more than {MAX_RENDERED_CHARS} characters")
        chunks.append(chunk)
    return "".join(chunks)


@lru_cache(maxsize=4096)
def _compile(template: str, *, keep_trailing_newline: bool) -> jinja2.Template:
    return (_SUFFIXES if keep_trailing_newline else _PROMPTS).from_string(template)


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_numbers((*args, *kwargs.values()))
        return function(value, *args, **kwargs)

    return checked


def _check_numbers(values: tuple[Any, ...]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"{_short(value)} is too large; at most {MAX_NUMBER} is allowed here")


def _check_operands(symbol: str, left: Any, right: Any) -> None:
    if symbol == "%":
        if isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError(f"the width in {left[:40]!r} is too large")
    elif symbol == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise SecurityError(f"{_short(left)} ** {_short(right)} is too large")
    elif isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise SecurityError("the number is too large")
    else:
        lengths = [len(side) if hasattr(side, "__len__") else side for side in (left, right)]
        if all(isinstance(length, int) for length in lengths):
            size = lengths[0] + lengths[1] if symbol == "+" else lengths[0] * lengths[1]
            if size > MAX_RENDERED_CHARS:
                raise SecurityError(f"the result of {symbol} would have more than {MAX_RENDERED_CHARS} elements")


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 64 else "a number"


_PROMPTS = _Sandbox(keep_trailing_newline=False)
_SUFFIXES = _Sandbox(keep_trailing_newline=True)
