"""A memory file whose digest is right may hold any JSON: it is read and shown, or told in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentmas_ray.cli.main import main
from latentmas_ray.errors import MemoryInputError
from latentmas_ray.memory import Memory
from tests.cases.memory import make_memory
from tests.unit.memory.test_files import forge

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["\ud800", "\x1b[2J", "planner", "5", 2**62, 10**400, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_at_any_place(tmp_path: Path, capfd: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    def change(meta: dict[str, Any], _: object) -> str:
        path = data.draw(st.sampled_from(places(meta)))
        new = data.draw(JSON)
        if not path:
            return json.dumps(new)
        changed = copy.deepcopy(meta)
        inner: Any = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = new
        return json.dumps(changed)

    path = tmp_path / "memory.safetensors"
    make_memory({"planner": (2, 1), "critic": (1, 0)}, texts={"judge": "Yes"}).save(path)
    forge(path, change)
    try:
        Memory.load(path)
    except MemoryInputError as error:
        told = str(error)
        assert "\n" not in told
        expected = 2
    else:
        expected = 0
    for flags in ([], ["--json"]):
        assert main(["memory", str(path), *flags]) == expected
        err = capfd.readouterr().err
        assert err.count("\n") == (1 if expected else 0), err
