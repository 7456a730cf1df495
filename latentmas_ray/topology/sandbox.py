"""Jinja2's sandbox for prompts, with bounds on how much a template makes and how long it takes.

A template is a small program from a file that may be somebody else's. Jinja2's sandbox refuses Python's internals and
changes of what a template is given. What is left is making something huge out of something small, or never coming to an
end. So every value is measured when it is made, which bounds whatever one operation can do with it; an operation that
makes much out of little is checked before; and every turn of a loop, call and filter looks at the clock.
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

MAX_CHARS = 4_000_000  # of a rendered text, and of every value on the way to it
MAX_CHARS_MADE = 100_000_000  # of all values of one rendering together
MAX_SECONDS = 2.0  # of one rendering, CPU time of its thread: a busy machine refuses nothing
MAX_COUNT = 10_000  # of a range, a width, a number of decimals
MAX_BITS = 10_000  # of a whole number

_ELEMENT = 8  # what a value counts besides its characters: the bytes of a reference
_MAX_SLOW_CHARS = 100_000  # for what takes time with the square of the length

_GLOBALS = ("range", "dict", "cycler", "joiner")  # not lipsum: it is random
_NO_FILTERS = ("random", "format", "urlize")
_REFUSED = {
    "format": "str.format is not allowed here; write {{ … }} instead",
    "format_map": "str.format is not allowed here; write {{ … }} instead",
    "encode": "bytes are not allowed here",
    "to_bytes": "bytes are not allowed here",
}
# Filters and methods by name. Those with a width or a count among their arguments:
_COUNTS = frozenset(
    ["batch", "center", "expandtabs", "indent", "ljust", "rjust", "round", "safe_range", "slice", "zfill"]
)
# Those whose result, or time, may be that of every character with every character of an argument:
_MULTIPLY = {
    *("expandtabs", "indent", "join", "lstrip", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip"),
    *("strip", "translate", "trim", "wordwrap"),
}
_SLOW = {"pprint", "striptags"}
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})")


class _Budget:
    """What one rendering may still make, and until when. Raises SecurityError beyond that."""

    def __init__(self) -> None:
        self._chars_left = MAX_CHARS_MADE
        self._deadline = time.thread_time() + MAX_SECONDS

    def charge(self, value: Any) -> None:
        """For a value that was made."""
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise SecurityError(f"a number would have more than {MAX_BITS} bits")
        _check_size(size := size_of([value]))
        self._chars_left -= size
        if self._chars_left < 0:
            raise SecurityError(f"it makes values of more than {MAX_CHARS_MADE} characters")
        self.check_time()

    def check_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:g} s to render")


_BUDGET: ContextVar[_Budget] = ContextVar("_BUDGET")


@contextmanager
def within_budget() -> Iterator[None]:
    """A new budget for what is rendered in the body."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all prompts. Compile with `compile_measured` and render `within_budget`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, keep_trailing_newline: bool) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=keep_trailing_newline,
            finalize=_output,
            optimized=False,  # nothing is computed while a template is compiled
        )
        self.globals = {name: self.globals[name] for name in _GLOBALS} | {"namespace": _Namespace}
        for name in _NO_FILTERS:
            del self.filters[name]
        # Jinja2's own escapes < and & for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        for name, function in self.filters.items():
            self.filters[name] = _checked_filter(name, function)
        self.filters |= {"_made": _made, "_turns": _turns}

    def compile_measured(self, tree: nodes.Template) -> jinja2.Template:
        """A parsed template, with those values measured that Jinja2 makes without a call of this environment."""
        measured: nodes.Template = _Measure().visit(tree)
        return self.from_string(measured.set_environment(self))  # type: ignore[arg-type]  # returns the node itself

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_binop(operator, left, right)
        return _made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        name = getattr(__obj, "__name__", "")  # a macro has none
        if name in _REFUSED:
            raise SecurityError(_REFUSED[name])
        given = [*args, *(value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars"))]
        _check_call(name, getattr(__obj, "__self__", None), given)
        if isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(_turns(items) for items in args)
        return _made(super().call(__context, __obj, *args, **kwargs))

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a block: of a macro, or of a `{% set %}` or `{% filter %}` with a body."""
        texts = list(parts)
        _check_size(sum(map(len, texts)))
        return "".join(texts)


class _Measure(NodeTransformer):
    """Sends what Jinja2 makes or goes through by itself through a filter."""

    def _visit_made(self, node: nodes.Expr) -> nodes.Expr:
        visited: nodes.Expr = self.generic_visit(node)  # type: ignore[assignment]  # changed in place
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"  # of an assignment
        is_item = isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice)
        return visited if is_target or is_item else _filtered("_made", visited)

    def _visit_concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered("join", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def _visit_for(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered("_turns", node.iter)
        return node

    visit_List = visit_Dict = visit_Tuple = visit_Getitem = _visit_made
    visit_Concat = _visit_concat
    visit_For = _visit_for


class _Namespace(Namespace):
    """Jinja2's own prints everything inside, and may hold others of its kind."""

    def __repr__(self) -> str:
        return "<namespace>"


def size_of(values: Iterable[Any]) -> int:
    """Characters and elements of values, nested ones as often as they occur, for so often they are printed or compared;
    a little more than MAX_CHARS stands for whatever is larger."""
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
            todo += value  # type: ignore[arg-type]  # all views can be gone through
    return total


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _made(value: Any) -> Any:
    """Charge a value to the budget of the rendering. What can be gone through only once becomes a list."""
    made = list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value
    _BUDGET.get().charge(made)
    return made


def _turns(items: Iterable[Any]) -> Iterator[Any]:
    """What a loop goes through, looking at the clock in every turn."""
    budget = _BUDGET.get()
    for item in items:
        budget.check_time()
        yield item


@jinja2.pass_context  # so that Jinja2 cannot call it while it compiles
def _output(context: Context, value: Any) -> Any:
    return _made(value)


def _checked_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    num_hidden = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja2 gives it: context or environment

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        subject, *others = [*args[num_hidden:], *kwargs.values()]
        _check_call(name, subject, others)
        return _made(function(*args, **kwargs))

    return checked


def _check_size(size: int) -> None:
    if size > MAX_CHARS + _ELEMENT:
        raise SecurityError(f"a value would have more than {MAX_CHARS} characters")


def _check_call(name: str, subject: Any, others: Sequence[Any]) -> None:
    """Raises SecurityError for a method or a filter that would make too much of `subject`, or take too long."""
    is_counted = name in _COUNTS
    for number in others if is_counted else ():
        if isinstance(number, int) and abs(number) > MAX_COUNT:
            shown = str(number) if number.bit_length() < 64 else "a number"
            raise SecurityError(f"{shown} is too large; at most {MAX_COUNT} is allowed here")
    if name == "sum" and any(isinstance(other, list | tuple) for other in others):
        raise SecurityError("sum adds numbers only")  # lists would be copied again with every one that is added
    if name in _MULTIPLY:
        _check_size(size := size_of([subject]))
        factors = [1, *(size_of([other]) for other in others if not isinstance(other, int))]
        if is_counted:
            factors += [other for other in others if isinstance(other, int)]
        _check_product(size * max(factors))
    if name in _SLOW and size_of([subject]) > _MAX_SLOW_CHARS:
        raise SecurityError(f"{name} takes at most {_MAX_SLOW_CHARS} characters")


def _check_product(size: int) -> None:
    if size > MAX_CHARS_MADE:
        raise SecurityError(f"a value might have more than {MAX_CHARS} characters")


def _check_binop(operator: str, left: Any, right: Any) -> None:
    """Raises SecurityError for what would make too much of its operands."""
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
