"""How the actors of agents that write text load their model."""

from typing import Any

import pytest

from latentmas_ray.actors.text.device_share import device_share
from latentmas_ray.actors.text.setup import TextSetup
from latentmas_ray.actors.text.vllm_runner import load_vllm_runner
from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.system.engines import EngineChoice
from latentmas_ray.system.make_runtime import text_setups
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import Topology
from latentmas_ray.writing.load import load_text_runner
from tests.cases.scheduler import agent, topology

CHOICES = {
    "writer": EngineChoice("transformers", "asked for"),
    "critic": EngineChoice("vllm", "asked for"),
    "judger": EngineChoice("vllm", "asked for"),
}
LOADING: dict[str, Any] = {"device": "cpu", "realign": True, "cache_dir": None}
TEAM = topology(
    agent("writer", thinks="text"), agent("critic", "writer", thinks="text"), agent("judger", "critic", thinks="text")
)


def setups_of(config: RunConfig, team: Topology = TEAM) -> dict[str, TextSetup]:
    return text_setups(config, RunModels.of(config, team), team, CHOICES, LOADING)


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
    setups = setups_of(make_config(config))
    assert {name: one.engine for name, one in setups.items()} == {name: one.engine for name, one in CHOICES.items()}
    assert setups["critic"] is setups["judger"]  # one function that is sent once
    assert setups["writer"].make_runner.keywords["get_share"] is device_share  # type: ignore[attr-defined]
    for name, load, count in (("writer", load_text_runner, num_own), ("judger", load_vllm_runner, num_vllm)):
        make = setups[name].make_runner
        assert (make.func, make.args) == (load, ("tiny",))  # type: ignore[attr-defined]
        assert make.keywords["max_running"] == setups[name].max_running == count  # type: ignore[attr-defined]


def test_vllm_gets_the_runs_sampler_and_the_way_of_its_memory() -> None:
    config = make_config(
        {"model": "some/model", "sampler": "engine", "transfer": "recompute", "dtype": "bfloat16", "revision": "main"}
    )
    make: Any = setups_of(config)["judger"].make_runner
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
    make: Any = setups_of(make_config(fields))["writer"].make_runner
    assert make.keywords["executes_turns"] is executes_turns


def test_agents_load_their_own_models_and_read_those_of_others() -> None:
    team = topology(
        agent("writer", thinks="text", model="/models/one"),
        agent("thinker"),
        agent("critic", "thinker", "writer", thinks="text", engine="transformers", model="/models/one"),
        agent("judger", "critic", thinks="text"),
    )
    choices = {"writer": CHOICES["writer"], "critic": CHOICES["writer"], "judger": CHOICES["judger"]}
    config = make_config({})
    setups: Any = text_setups(config, RunModels.of(config, team), team, choices, LOADING)
    assert setups["writer"] is setups["critic"]  # one function that is sent once
    made = setups["critic"].make_runner
    assert (made.args, made.keywords["reads_from"]) == (("/models/one",), {"tiny": "tiny"})
    assert made.keywords["executes_turns"] is True  # what it reads is computed again
    assert setups["judger"].make_runner.args == ("tiny",)
