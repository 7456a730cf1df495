"""Arguments of wrong types raise one-line errors with the expected form, before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import Agent, LatentMAS, Memory, SegmentError, Topology
from latentmas_ray.errors import ConfigError, InputError, MemoryInputError, ModelError, TopologyError

QUESTION = "Tom has 2 keys. Then Tom buys 3 more. How many keys has Tom now?"


@pytest.fixture(scope="module")
def mas() -> LatentMAS:
    return LatentMAS("tiny", runtime="local")


@pytest.mark.parametrize("topology", [5, {"name": "x"}, [Agent(name="a", prompt="x")], Path("sequential"), b"single"])
def test_what_is_no_topology(topology: Any) -> None:
    """A path above all: its last part alone was looked for, in the working directory."""
    with pytest.raises(TopologyError, match=r"^topology: got .*; it must be a name"):
        LatentMAS("tiny", topology=topology, runtime="local")


@pytest.mark.parametrize("model", [Path("/a/folder"), Topology.load("single"), 5])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(ModelError) as caught:
        LatentMAS(model, runtime="local")
    assert "\n" not in str(caught.value)
    if not isinstance(model, int):
        assert str(caught.value).startswith("model: got ")


@pytest.mark.parametrize("observer", [5, object(), type("Observer", (), {})])
def test_what_is_no_observer(observer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^observer: got .*; it must be an object with a method on_event"):
        LatentMAS("tiny", observer=observer, runtime="local")


@pytest.mark.parametrize("memory", ["x.safetensors", Path("x.safetensors"), [], {}, False])
def test_what_is_no_memory(mas: LatentMAS, memory: Any) -> None:
    for call in (mas.ask, lambda question, **more: mas.map([question], **more)):
        with pytest.raises(MemoryInputError, match=r"^memory: got .*; it must be a Memory; Memory\.load"):
            call(QUESTION, memory=memory)


@pytest.mark.parametrize("field", ["latent_steps", "batch_size", "max_new_tokens", "seed", "limit", "tp", "trace"])
def test_true_is_no_number(field: str) -> None:
    fields: Any = {field: True}
    with pytest.raises(ConfigError, match=f"^{field}: got 'True'; it must be a (whole )?number"):
        LatentMAS("tiny", runtime="local", **fields)


@pytest.mark.parametrize("steps", [1.5, "0,10", b"01", {0: 1}, {0, 1}, (number for number in (0, 1)), True])
def test_what_is_no_list_of_steps(mas: LatentMAS, steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"^latent_steps: got "):
        mas.evaluate("sample", limit=1, latent_steps=steps)


@pytest.mark.parametrize("memories", ["x", ["x"], [None]])
def test_what_is_no_list_of_memories(memories: Any) -> None:
    with pytest.raises(MemoryInputError, match=r"^memories: got .*; it must be a list of Memory objects"):
        Memory.merge(memories)
    with pytest.raises(SegmentError, match="no memory"):
        Memory.merge([])


def test_all_of_them_are_mistakes_of_the_users() -> None:
    for kind in (TopologyError, ModelError, ConfigError, MemoryInputError):
        assert issubclass(kind, InputError)
