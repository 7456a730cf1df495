"""Jinja2's sandbox for prompts, with bounds on the size of values and on the time to render.

A template is a small program that may come from another person's file. Jinja2's sandbox blocks Python internals and
changes to the template's variables. It does not stop a template that builds huge values or never ends, so this module
measures every value when it is made, checks operations that can multiply sizes before they run, and checks the clock
in every loop iteration, call and filter.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, MappingView, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_CHARS = 4_000_000  # of the rendered text, and of every intermediate value
MAX_TOTAL_CHARS = 100_000_000  # of all values of one rendering together
MAX_SECONDS = 2.0  # per rendering, CPU time of its thread, so that a busy machine does not fail templates
MAX_COUNT = 10_000  # of a range, a width, a number of decimals
MAX_BITS = 10_000  # of a whole number

_ELEMENT = 8  # added for each value besides its characters: the bytes of a reference
_MAX_SLOW_CHARS = 100_000  # for filters that take quadratic time

_GLOBALS = ("range", "dict", "cycler", "joiner")  # not lipsum: it is random
_NO_FILTERS = ("random", "format", "urlize")
_REFUSED = {
    "format": "str.format is not allowed here; write {{ … }} instead",
    "format_map": "str.format is not allowed here; write {{ … }} instead",
    "encode": "bytes are not allowed here",
    "to_bytes": "bytes are not allowed here",
}
# Filters and methods with a width or a count among their arguments:
_COUNTS = frozenset(
    ["batch", "center", "expandtabs", "indent", "ljust", "rjust", "round", "safe_range", "slice", "zfill"]
)
# Those whose result or time may grow with (length of the subject) x (length of an argument):
_MULTIPLY = {
    *("expandtabs", "indent", "join", "lstrip", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip"),
    *("strip", "translate", "trim", "wordwrap"),
}
_SLOW = {"pprint", "striptags"}
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})")


class _Budget:
    """The characters and the time left for one rendering. Raises SecurityError when either is used up."""

    def __init__(self) -> None:
        self._chars_left = MAX_TOTAL_CHARS
        self._deadline = time.thread_time() + MAX_SECONDS

    def charge(self, value: Any) -> None:
        """Charge a new value."""
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise SecurityError(f"a number would have more than {MAX_BITS} bits")
        _check_size(size := size_of([value]))
        self._chars_left -= size
        if self._chars_left < 0:
            raise SecurityError(f"it makes values of more than {MAX_TOTAL_CHARS} characters")
        self.check_time()

    def check_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:g} s to render")


_BUDGET: ContextVar[_Budget] = ContextVar("_BUDGET")


@contextmanager
def within_budget() -> Iterator[None]:
    """Render the body within a new budget."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """The Jinja2 environment of prompts. Compile with `compile_measured` and render `within_budget`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, keep_trailing_newline: bool) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=keep_trailing_newline,
            finalize=_output,
            optimized=False,  # evaluate nothing at compile time
        )
        self.globals = {name: self.globals[name] for name in _GLOBALS} | {"namespace": _Namespace}
        for name in _NO_FILTERS:
            del self.filters[name]
        # Jinja2's tojson escapes < and & for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        for name, function in self.filters.items():
            self.filters[name] = _checked_filter(name, function)
        self.filters |= {"_charged": _charged, "_timed": _timed}

    def compile_measured(self, tree: nodes.Template) -> jinja2.Template:
        """Compile a parsed template so that values which Jinja2 makes without calling this environment are charged."""
        measured: nodes.Template = _Measure().visit(tree)
        return self.from_string(measured.set_environment(self))  # type: ignore[arg-type]  # returns the node itself

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_binop(operator, left, right)
        return _charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        name = getattr(__obj, "__name__", "")  # a macro has none
        if name in _REFUSED:
            raise SecurityError(_REFUSED[name])
        given = [*args, *(value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars"))]
        _check_call(name, getattr(__obj, "__self__", None), given)
        if isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(_timed(items) for items in args)
        return _charged(super().call(__context, __obj, *args, **kwargs))

    def concat(self, parts: Iterable[str]) -> str:
        """Join the text of a macro, or of a `{% set %}` or `{% filter %}` block."""
        texts = list(parts)
        _check_size(sum(map(len, texts)))
        return "".join(texts)


class _Measure(NodeTransformer):
    """Adds a filter to values that Jinja2 makes, and to iterables it loops over, without calling the environment."""

    def _visit_value(self, node: nodes.Expr) -> nodes.Expr:
        visited: nodes.Expr = self.generic_visit(node)  # type: ignore[assignment]  # changed in place
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"  # of an assignment
        is_item = isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice)
        return visited if is_target or is_item else _filtered("_charged", visited)

    def _visit_concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered("join", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def _visit_for(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered("_timed", node.iter)
        return node

    visit_List = visit_Dict = visit_Tuple = visit_Getitem = _visit_value
    visit_Concat = _visit_concat
    visit_For = _visit_for


class _Namespace(Namespace):
    """A namespace whose repr is short: Jinja2's prints its content, which may be nested namespaces."""

    def __repr__(self) -> str:
        return "<namespace>"


def size_of(values: Iterable[Any]) -> int:
    """Return the size of values in characters, plus _ELEMENT for each value. A value that occurs several times counts
    each time, as printing or comparing it does. Counting stops a little above MAX_CHARS."""
    total, todo = 0, list(values)
    while todo and total <= MAX_CHARS + _ELEMENT:
        value = todo.pop()
        total += _ELEMENT
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, int):
            total += value.bit_length()
        elif isinstance(value, dict):
            todo += value.keys()
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset | MappingView):
            todo += value  # type: ignore[arg-type]  # all views are iterable
    return total


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _charged(value: Any) -> Any:
    """Charge a value to the budget of the rendering and return it; an iterator becomes a list."""
    value = list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value
    _BUDGET.get().charge(value)
    return value


def _timed(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a loop, checking the time before each."""
    budget = _BUDGET.get()
    for item in items:
        budget.check_time()
        yield item


@jinja2.pass_context  # so that Jinja2 does not call it at compile time
def _output(context: Context, value: Any) -> Any:
    return _charged(value)


def _checked_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    num_hidden = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja2 passes it the context or the environment

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        subject, *others = [*args[num_hidden:], *kwargs.values()]
        _check_call(name, subject, others)
        return _charged(function(*args, **kwargs))

    return checked


def _check_size(size: int) -> None:
    if size > MAX_CHARS + _ELEMENT:
        raise SecurityError(f"a value would have more than {MAX_CHARS} characters")


def _check_call(name: str, subject: Any, others: Sequence[Any]) -> None:
    """Raise SecurityError if a method or filter would make a too large value from `subject`, or take too long."""
    is_counted = name in _COUNTS
    for number in others if is_counted else ():
        if isinstance(number, int) and abs(number) > MAX_COUNT:
            shown = str(number) if number.bit_length() < 64 else "a number"
            raise SecurityError(f"{shown} is too large; at most {MAX_COUNT} is allowed here")
    if name == "sum" and any(isinstance(other, list | tuple) for other in others):
        raise SecurityError("sum adds numbers only")  # each list would be copied once per addition
    if name in _MULTIPLY:
        _check_size(size := size_of([subject]))
        factors = [1, *(size_of([other]) for other in others if not isinstance(other, int))]
        if is_counted:
            factors += [other for other in others if isinstance(other, int)]
        _check_product(size * max(factors))
    if name in _SLOW and size_of([subject]) > _MAX_SLOW_CHARS:
        raise SecurityError(f"{name} takes at most {_MAX_SLOW_CHARS} characters")


def _check_product(size: int) -> None:
    if size > MAX_TOTAL_CHARS:
        raise SecurityError(f"a value might have more than {MAX_CHARS} characters")


def _check_binop(operator: str, left: Any, right: Any) -> None:
    """Raise SecurityError if an operation would make a too large value."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * abs(right) > MAX_BITS:
            raise SecurityError(f"a number would have more than {MAX_BITS} bits")
    elif operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and not isinstance(sequence, int):
            _check_size((size_of([sequence]) - _ELEMENT) * times)
    elif operator == "%" and isinstance(left, str):
        if _WIDE_FORMAT.search(left):
            raise SecurityError(f"the width in {left[:40]!r} is too large")
        widest = MAX_COUNT if re.search(r"\d", left) else 0
        _check_product(left.count("%") * (widest + size_of([right])))
