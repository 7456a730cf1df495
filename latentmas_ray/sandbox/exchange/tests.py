"""Runs tests against a program in another process.

The tests are ordinary Python: names that they use and do not define are the program's. Each call has copies of its
arguments; what the program changed in them is made in the tests' own when the statement with the call has ended. So
`sort(x)` and then `assert x == …` sees it, and in `assert f(x) == reference(x)` the reference gets what f got.
"""

import ast
import builtins
import importlib
import symtable
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from latentmas_ray.sandbox.exchange.answer import reason_of
from latentmas_ray.sandbox.exchange.ask import CANNOT_CROSS, Exchange
from latentmas_ray.sandbox.exchange.channel import MessageChannel

MODULE = "tests"
_SETTLE, _WAITING = "__settle__", "__waiting__"
_MODULES = {"np": "numpy"}  # names under which programs import modules, as tests do that leave it to them
_BUILTINS = frozenset(vars(builtins))
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set)
_SILENT = (
    *(ast.Import, ast.ImportFrom, ast.Pass, ast.Return, ast.Raise, ast.Break, ast.Continue, ast.Global, ast.Nonlocal),
)


def run_tests(
    tests: str, channel: MessageChannel, *, given: str, shared: Iterable[str], tested: Iterable[str]
) -> tuple[str | None, bool]:
    """Run the tests to their end. Return why they did not pass (None if they did), and whether the program had ended.

    `given` runs before them in the same module; it, not the program, says what its names mean. `shared` are its classes
    whose objects cross as data. `tested` are the program's even where Python has the same name.
    """
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    space = module.__dict__
    exchange = Exchange(channel)
    reason = _reason(lambda: _run(tests, exchange, space, given=given, shared=shared, tested=tested))
    return (reason if exchange.failure is None else exchange.failure), exchange.has_vanished


def _reason(run: Callable[[], None]) -> str | None:
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - tests may raise SystemExit too
        return reason_of(error)
    return None


def _run(
    tests: str,
    exchange: Exchange,
    space: dict[str, Any],
    *,
    given: str,
    shared: Iterable[str],
    tested: Iterable[str],
) -> None:
    exec(compile(given, "<given>", "exec"), space)
    exchange.shared = {name: space[name] for name in shared if isinstance(space.get(name), type)}
    tree = ast.parse(tests, "<tests>")
    _settle_after_statements(tree.body)
    names = [name for name in _free_names(tests) if name not in space and name not in _BUILTINS]
    names = list(dict.fromkeys([*names, *tested]))
    data = _take(names, exchange, space)

    def settle() -> None:
        exchange.settle(_depth())
        if data and exchange.num_asked != settle_at[0]:  # the program's variables may have changed
            space.update((name, value) for name, value in exchange.ask_names(data).items() if value is not CANNOT_CROSS)
            settle_at[0] = exchange.num_asked

    settle_at = [exchange.num_asked]
    space[_SETTLE], space[_WAITING] = settle, bool(data) or exchange.waiting
    exec(compile(tree, "<tests>", "exec"), space)


def _take(names: list[str], exchange: Exchange, space: dict[str, Any]) -> list[str]:
    """Define the program's names for the tests. Return those of variables, whose values may change."""
    if not names:
        return []
    values = exchange.ask_names(names)
    for name, value in values.items():
        module = _MODULES.get(name, name)
        if value is not CANNOT_CROSS:
            space[name] = value
        elif module in (*sys.stdlib_module_names, *_MODULES.values()):
            space[name] = importlib.import_module(module)
    return [name for name, value in values.items() if isinstance(value, _DATA)]


_DATA = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset, type(None))


def _free_names(source: str) -> list[str]:
    """Return the names that a module reads and does not define."""
    top = symtable.symtable(source, "<tests>", "exec")
    own = {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}
    used = (one.get_name() for table in _tables(top) for one in table.get_symbols() if _is_outer(one, table, top))
    return sorted({name for name in used if name not in own})


def _is_outer(symbol: symtable.Symbol, table: symtable.SymbolTable, top: symtable.SymbolTable) -> bool:
    return symbol.is_referenced() and (symbol.is_global() or (table is top and not symbol.is_assigned()))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _settle_after_statements(body: list[ast.stmt]) -> None:
    """Add a call of `settle` after each statement that may call something, in all bodies."""
    for index in range(len(body) - 1, -1, -1):
        statement = body[index]
        inner = [getattr(statement, name, None) for name in ("body", "orelse", "finalbody")]
        inner += [part.body for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ()))]
        for one in inner:
            if isinstance(one, list) and one:
                _settle_after_statements(one)
                if isinstance(statement, ast.If | ast.While | ast.For | ast.With | ast.Match):
                    one.insert(0, _call_after(statement))  # its head may have called something
        if not isinstance(statement, _SILENT) and not _is_literal(statement):
            body.insert(index + 1, _call_after(statement))


def _is_literal(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Assign | ast.Expr) and isinstance(value, _LITERALS)


def _call_after(statement: ast.stmt) -> ast.stmt:
    call = ast.Expr(ast.Call(func=ast.Name(id=_SETTLE, ctx=ast.Load()), args=[], keywords=[]))
    # Only if something waits: the tests may have loops with millions of statements.
    only = ast.If(test=ast.Name(id=_WAITING, ctx=ast.Load()), body=[call], orelse=[])
    return ast.fix_missing_locations(ast.copy_location(only, statement))


def _depth() -> int:
    """Return the depth of the frame that called `settle`."""
    depth, frame = 0, sys._getframe(2)
    while (outer := frame.f_back) is not None:
        depth, frame = depth + 1, outer
    return depth
