"""How the actors of agents that write text load their model."""

from typing import Any

import pytest

from latentmas_ray.actors.text.device_share import device_share
from latentmas_ray.actors.text.vllm_runner import load_vllm_runner
from latentmas_ray.config import make_config
from latentmas_ray.system.engines import EngineChoice
from latentmas_ray.system.make_runtime import text_setups
from latentmas_ray.writing.load import load_text_runner

CHOICES = {
    "writer": EngineChoice("transformers", "asked for"),
    "critic": EngineChoice("vllm", "asked for"),
    "judger": EngineChoice("vllm", "asked for"),
}
LOADING: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "thoughts": "realign",
    "revision": None,
    "cache_dir": None,
}


@pytest.mark.parametrize(
    ("config", "num_own", "num_vllm"),
    [
        ({}, 8, 64),
        ({"batch_size": 3}, 3, 64),
        ({"decode_batch": 5}, 5, 5),
        ({"decode_batch": 5, "batch_size": 9}, 5, 5),
        ({"batch_size": 4000}, 1024, 64),
    ],
)
def test_each_engine_writes_as_many_questions_as_it_should(config: dict[str, Any], num_own: int, num_vllm: int) -> None:
    setups = text_setups(make_config(config), "tiny", CHOICES, LOADING)
    assert {name: one.engine for name, one in setups.items()} == {name: one.engine for name, one in CHOICES.items()}
    assert setups["critic"] is setups["judger"]  # one function that is sent once
    assert setups["writer"].make_runner.keywords["get_share"] is device_share  # type: ignore[attr-defined]
    for name, load, count in (("writer", load_text_runner, num_own), ("judger", load_vllm_runner, num_vllm)):
        make = setups[name].make_runner
        assert (make.func, make.args) == (load, ("tiny",))  # type: ignore[attr-defined]
        assert make.keywords["max_running"] == setups[name].max_running == count  # type: ignore[attr-defined]


def test_vllm_gets_the_runs_sampler_and_the_way_of_its_memory() -> None:
    config = make_config({"sampler": "engine", "transfer": "recompute", "dtype": "bfloat16", "revision": "main"})
    make: Any = text_setups(config, "some/model", CHOICES, LOADING)["judger"].make_runner
    assert make.keywords == {
        "dtype": "bfloat16",
        "revision": "main",
        "max_running": 64,
        "sampler": "engine",
        "takes_inputs": True,
    }


@pytest.mark.parametrize(
    ("fields", "executes_turns"), [({}, False), ({"trace": 2}, True), ({"transfer": "recompute"}, True)]
)
def test_the_cache_of_texts_leaves_room_for_whole_turns(fields: dict[str, Any], executes_turns: bool) -> None:
    make: Any = text_setups(make_config(fields), "tiny", CHOICES, LOADING)["writer"].make_runner
    assert make.keywords["executes_turns"] is executes_turns
