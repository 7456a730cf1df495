"""Values arrive as they were, and whatever else arrives is refused as such."""

import collections
import datetime
import decimal
import fractions
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmas_ray.sandbox.exchange import forms
from latentmas_ray.sandbox.exchange.changes import assign, read_changes, snapshot, write_changes
from latentmas_ray.sandbox.exchange.wire import BY_TAG, Codec, ExchangeError, ValueReader, ValueWriter, dumps, loads


class Data(Codec):
    """Lets data through and nothing else."""

    def export(self, value: Any, writer: ValueWriter) -> Any:
        structure = forms.write_unusual(value, writer)
        return super().export(value, writer) if structure is None else structure


SIMPLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**1300, -(2**4000), 2**4001])
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
)
KEYS = SIMPLE | st.tuples(SIMPLE) | st.frozensets(SIMPLE, max_size=3)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | st.lists(inner).map(collections.deque)
    ),
    max_leaves=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(BY_TAG)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(st.sampled_from([*sorted(BY_TAG), "@", "h", "x"]), inner, inner).map(list)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=8,
)


def sent(value: Any) -> Any:
    return ValueReader(Data()).read(loads(dumps(ValueWriter(Data()).write(value))))


def same(a: Any, b: Any) -> bool:
    """Equal in value, in type and in order, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


@settings(max_examples=50)
@given(VALUES)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    assert same(sent(value), value)


@settings(max_examples=50)
@given(JSON)
def test_what_is_no_value_is_refused(structure: Any) -> None:
    try:
        ValueReader(Data()).read(structure)
    except (ExchangeError, RecursionError):
        return


@settings(max_examples=50)
@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4), VALUES)
def test_changes_are_made_again(values: list[Any], others: list[Any], value: Any) -> None:
    mine = [values, {"a": value}]
    writer = ValueWriter(Data())
    message = writer.write(mine)
    reader = ValueReader(Data())
    theirs = reader.read(loads(dumps(message)))
    before = snapshot(reader.objects)
    theirs[0][:] = others
    theirs[1]["b"] = theirs[0]
    changes = loads(dumps(write_changes(reader.objects, before, ValueWriter(Data(), reader.objects))))
    for target, new in read_changes(changes, writer.objects, ValueReader(Data(), writer.objects)):
        assign(target, new)
    assert same(mine[0], others)
    assert mine[1]["b"] is values
    assert list(mine[1]) == ["a", "b"]


@pytest.mark.parametrize(
    "structure",
    [
        {"a": 1},
        ["l", {"a": 1}],
        [],
        [[]],
        ["@", 0],
        ["@", -1],
        ["l", ["@", 7]],
        ["t", ["@", 0]],
        ["k", "exec"],
        ["k", "__import__"],
        ["k", ["l"]],
        ["d", 1],
        ["s", ["l"]],
        ["i", "not hex"],
        ["b", "0"],
        ["n", "a b", ["x"], 1],
        ["n", "N", ["class"], 1],
        ["n", "N", ["x"], 1, 2],
        ["a", "O", [1], "00" * 8],
        ["a", "V8", [1], "00" * 8],
        ["a", "<i8", [3], "00" * 8],
        ["v", "tzinfo", "x", 0],
        ["D", "exec"],
        ["q", "many", 1],
        ["h", 0, "function", "f"],
        ["K", "os", "_exit"],
        ["F", 0, "f"],
        ["o", "Node"],
        ["e", ["k", "int"], [], [], ""],
    ],
)
def test_these_are_no_values(structure: Any) -> None:
    with pytest.raises(ExchangeError):
        ValueReader(Data()).read(structure)


def test_subclasses_cross_as_what_they_are_derived_from() -> None:
    class Always(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        def __str__(self) -> str:
            return "another"

    class Items(list[int]):
        pass

    assert type(sent(Always(3))) is int
    assert sent(Always(3)) != 4
    assert sent(Text("this")) == "this"
    assert type(sent(Items([1]))) is list
    assert sent([decimal.Decimal("1.0"), fractions.Fraction(1, 3), datetime.time(1, 2)])[2] == datetime.time(1, 2)


def test_what_has_no_form_is_said() -> None:
    for value in (object(), print, open, lambda: 0):
        with pytest.raises(ExchangeError, match="a value of type"):
            ValueWriter(Data()).write(value)
