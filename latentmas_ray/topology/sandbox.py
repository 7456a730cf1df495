"""Jinja2's sandbox with a meter: a template reaches nothing outside, and computes no more than it may.

A template is a small program from a file that may be somebody else's. Jinja2's own sandbox refuses Python's internals;
what is left is making something huge out of something small, or going round and round without a word. So every loop,
call and filter is counted, and every value that an expression makes is weighed.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from latentmas_ray.topology.meter import FILTER_SIZES, METHOD_SIZES, check_numbers, meter, result_size, size_of

_GLOBALS = ("range", "dict", "cycler", "joiner")  # not lipsum: it is random
_NO_FILTERS = ("random", "format", "urlize")
_NO_METHODS = {
    "format": "str.format is not allowed here; write {{ … }} instead",
    "format_map": "str.format is not allowed here; write {{ … }} instead",
    "encode": "bytes are not allowed here",
    "to_bytes": "bytes are not allowed here",
}
_WITH_A_WIDTH = ("batch", "center", "indent", "round", "slice")


def _within(method: str, visit: Callable[..., None]) -> Callable[..., None]:
    """The code of a node, as the argument of one of the environment's methods."""

    def visit_within(generator: CodeGenerator, node: nodes.Expr, frame: Frame) -> None:
        generator.write(f"environment.{method}(")
        visit(generator, node, frame)
        generator.write(")")

    return visit_within


def _visit_for(generator: CodeGenerator, node: nodes.For, frame: Frame) -> None:
    counted = nodes.EnvironmentAttribute("counted", lineno=node.lineno)
    node.iter = nodes.Call(counted, [node.iter], [], None, None, lineno=node.lineno)
    CodeGenerator.visit_For(generator, node, frame)


def _visit_concat(generator: CodeGenerator, node: nodes.Concat, frame: Frame) -> None:
    generator.write("environment.joined(context, (")
    for part in node.nodes:
        generator.visit(part, frame)
        generator.write(", ")
    generator.write("))")


def _visit_compare(generator: CodeGenerator, node: nodes.Compare, frame: Frame) -> None:
    visit_read = _within("read", CodeGenerator.visit)
    generator.write("(")
    visit_read(generator, node.expr, frame)
    for operand in node.ops:
        generator.write(f" {operators[operand.op]} ")
        visit_read(generator, operand.expr, frame)
    generator.write(")")


def _visit_getitem(generator: CodeGenerator, node: nodes.Getitem, frame: Frame) -> None:
    is_copy = isinstance(node.arg, nodes.Slice)
    (_WEIGHED_GETITEM if is_copy else CodeGenerator.visit_Getitem)(generator, node, frame)


def _visit_tuple(generator: CodeGenerator, node: nodes.Tuple, frame: Frame) -> None:
    is_target = node.ctx != "load"  # of an assignment
    (CodeGenerator.visit_Tuple if is_target else _WEIGHED_TUPLE)(generator, node, frame)


_WEIGHED_GETITEM = _within("weighed", CodeGenerator.visit_Getitem)
_WEIGHED_TUPLE = _within("weighed", CodeGenerator.visit_Tuple)


class _Generator(CodeGenerator):
    """Asks the environment where values are made, gone through or compared without it."""

    visit_For = _visit_for
    visit_Concat = _visit_concat
    visit_Compare = _visit_compare
    visit_Getitem = _visit_getitem
    visit_Tuple = _visit_tuple
    visit_List = _within("weighed", CodeGenerator.visit_List)
    visit_Dict = _within("weighed", CodeGenerator.visit_Dict)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates. Compile and render within `metered()`."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, *, keep_trailing_newline: bool) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=keep_trailing_newline,
            finalize=self.weighed,
        )
        self.globals = {name: self.globals[name] for name in _GLOBALS} | {"namespace": _Namespace}
        for name in _NO_FILTERS:
            del self.filters[name]
        # Jinja2's own escapes < and & for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        for name, function in self.filters.items():
            self.filters[name] = _metered(function, expect=FILTER_SIZES.get(name), has_width=name in _WITH_A_WIDTH)
        for name, function in self.tests.items():
            self.tests[name] = _metered(function)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter().make(result_size(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        name = getattr(__obj, "__name__", "")
        if name in _NO_METHODS:
            raise SecurityError(_NO_METHODS[name])
        args = _repeatable(args)
        given = [*args, *(value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars"))]
        check_numbers(given)
        text = getattr(__obj, "__self__", None)
        meter().call([*given, text] if isinstance(text, str) else given)
        if isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(__self.counted(iterable) for iterable in args)
        if isinstance(text, str) and name in METHOD_SIZES:
            meter().make(METHOD_SIZES[name](text, *given))
        return __self.weighed(super().call(__context, __obj, *args, **kwargs))

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a block: of a macro, a `{% set %}` or a `{% filter %}` with a body."""
        texts = list(parts)
        meter().make(sum(map(len, texts)))
        return "".join(texts)

    @staticmethod
    def joined(context: Context, parts: tuple[Any, ...]) -> str:
        """`a ~ b`."""
        meter().make(size_of(parts))
        return markup_join(parts) if context.eval_ctx.autoescape else str_join(parts)

    @staticmethod
    def weighed(value: Any) -> Any:
        """A value that was made."""
        meter().make(size_of([value]))
        return value

    @staticmethod
    def read(value: Any) -> Any:
        """A value that is looked through, as a comparison does."""
        meter().read([value])
        return value

    @staticmethod
    def counted(iterable: Any) -> Any:
        """What a loop goes through, each item a turn of it."""
        items = iterable if hasattr(iterable, "__len__") else list(iterable)
        meter().turn(len(items))
        return items


class _Namespace(Namespace):
    """Jinja2's own prints all that is inside, and may hold others of its kind."""

    def __repr__(self) -> str:
        return "<namespace>"


def _metered(function: Any, *, expect: Callable[..., int] | None = None, has_width: bool = False) -> Callable[..., Any]:
    """A filter or a test that is counted and weighed."""
    num_hidden = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja2 gives it: context or environment

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        args = _repeatable(args)
        given = args[num_hidden:]
        meter().call([*given, *kwargs.values()])
        if has_width:
            check_numbers([*given[1:], *kwargs.values()])
        if expect is not None:
            meter().make(expect(*given, **kwargs))
        return Sandbox.weighed(function(*args, **kwargs))

    return counted


def _repeatable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What gives its items once (a generator of `map`) as a list, which can be weighed before it is used."""
    return tuple(list(arg) if isinstance(arg, Iterator) and not isinstance(arg, LoopContext) else arg for arg in args)
