"""The layout of a run: chosen by a search, or by hand."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.actors.detached.record import RECORD_NAME
from latentmas_ray.config import RunConfig, devices_by_agents, make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import NodeResources, PlanRequest, hardware_named
from latentmas_ray.placement.prediction.hardware import hardware_named_or_in, hardware_to_json
from latentmas_ray.placement.prediction.layouts import contents_of
from latentmas_ray.placement.prediction.run_layout import SpeedMeter
from latentmas_ray.runs.results import Summary
from latentmas_ray.runs.run_events import LayoutMeasured
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result
from latentmas_ray.system import auto_layout
from latentmas_ray.system.auto_layout import RunPlanner, known_hardware, text_tokens_of
from latentmas_ray.system.engines import EngineChoice
from latentmas_ray.system.evaluation import Evaluation
from latentmas_ray.system.make_runtime import detached_actors
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import load_topology
from tests.cases.report import make_answer
from tests.cases.scheduler import make_questions

SEQUENTIAL = load_topology("sequential")
NAMES = tuple(agent.name for agent in SEQUENTIAL.agents)
VLLM = {"judger": EngineChoice("vllm", "asked for")}
OWN = {"judger": EngineChoice("transformers", "asked for")}


def nodes(count: int, *, gpus: int = 8, gpu_name: str = "") -> tuple[NodeResources, ...]:
    return tuple(
        NodeResources(name=f"id{number}", num_gpus=gpus, num_cpus=64, gpu_name=gpu_name) for number in range(count)
    )


def planner(found: tuple[NodeResources, ...], choices: dict[str, EngineChoice] = VLLM, **fields: Any) -> RunPlanner:
    config = make_config({"model": "qwen3-4b", "replicas": "auto", "task": "gsm8k", **fields})
    return RunPlanner(config, RunModels.of(config, SEQUENTIAL), SEQUENTIAL, choices, found, 4)


def asked(found: tuple[NodeResources, ...], planner: RunPlanner) -> PlanRequest:
    """What the manager of the actors asks for."""
    return PlanRequest(
        agents=NAMES,
        replicas=dict.fromkeys(NAMES, 1),
        nodes=found,
        tp=planner.tp,
        busy_agents=4,
        apart=frozenset({"judger"}),
    )


def test_auto_fills_the_nodes_that_are_there() -> None:
    here = nodes(1, gpu_name="H100")
    made = planner(here)
    plan = made.plan(asked(here, made))
    assert made.layout is not None
    assert len(plan.actors_on) == 8
    assert made.layout.line.startswith("layout ")
    assert "questions/s predicted with figures of h100, texts of 586 tokens, bound by " in made.layout.line
    fewer = made.plan(asked(nodes(1, gpus=4, gpu_name="H100"), made))
    assert len(fewer.actors_on) == 4


def test_what_auto_has_chosen_is_the_same_by_hand() -> None:
    here = nodes(1, gpus=6, gpu_name="H100")
    auto = planner(here)
    plan = auto.plan(asked(here, auto))
    assert auto.layout is not None
    assert "+" in str(auto.layout.fields["replicas"])
    again = planner(here, **auto.layout.fields)
    assert again.layout is None
    by_hand = again.plan(asked(here, again))
    assert contents_of(by_hand) == contents_of(plan)
    assert by_hand.slots == plan.slots


def test_one_engine_is_colocated_unless_a_transport_between_actors_is_asked_for() -> None:
    here = nodes(1, gpu_name="H100")
    auto = planner(here, OWN)
    assert auto.layout is not None
    assert auto.layout.is_colocated
    assert auto.layout.fields == {"placement": "colocate", "replicas": 8, "tp": 1}
    apart = planner(here, OWN, transport="object_store")
    assert apart.layout is not None
    assert not apart.layout.is_colocated


def test_a_model_that_needs_several_gpus_is_divided() -> None:
    auto = planner(nodes(1, gpu_name="H100"), OWN, model="qwen2.5-72b")
    assert auto.tp == 4
    assert auto.layout is not None
    assert auto.layout.fields["tp"] == 4


def test_a_model_of_actors_that_outlive_their_driver_is_not_divided() -> None:
    """Ranks do not join a new driver, which would take one rank for all of a replica."""
    assert planner(nodes(1, gpu_name="H100"), OWN, detach=60, output="runs/a").tp == 1
    with pytest.raises(ConfigError, match=r"^gpu_memory: "):
        planner(nodes(1, gpu_name="H100"), OWN, model="qwen2.5-72b", detach=60, output="runs/a")


def test_actors_of_another_layout_are_not_used_again(tmp_path: Path) -> None:
    """A search on other nodes may choose another layout, whose actors have the same names."""

    def facts(count: int, **fields: Any) -> str:
        config = make_config({"model": "qwen3-4b", "replicas": "auto", "detach": 60, "output": str(tmp_path), **fields})
        made = RunPlanner(config, RunModels.of(config, SEQUENTIAL), SEQUENTIAL, VLLM, nodes(count, gpu_name="H100"), 4)
        assert detached_actors(config, RunModels.of(config, SEQUENTIAL), made) is not None
        return str(json.loads((tmp_path / RECORD_NAME).read_text())["facts"])

    assert facts(1) == facts(1, resume=True)
    assert facts(1) != facts(2, resume=True)


def test_cores_are_filled_where_there_is_no_gpu() -> None:
    here = nodes(2, gpus=0)
    auto = planner(here, OWN, model="tiny")
    assert auto.layout is not None
    assert "figures of cpu for 64 cores" in auto.layout.line
    assert len(auto.plan(asked(here, auto)).actors_on) == 2


@pytest.mark.parametrize(
    ("gpu_name", "given", "about"),
    [
        ("H200", None, "figures of h200"),
        ("A100-40G", None, "figures of a100-40gb"),
        ("RTX-9000", None, "figures of a100-80gb assumed, as the GPUs are of RTX-9000 (give hardware for theirs)"),
        ("", None, "figures of a100-80gb assumed, as the GPUs are of an unknown kind (give hardware for theirs)"),
        ("", "l40s", "figures of l40s"),
    ],
)
def test_which_figures_are_used(gpu_name: str, given: str | None, about: str) -> None:
    assert known_hardware(given, nodes(1, gpu_name=gpu_name)).about == about


@pytest.mark.parametrize(
    ("ray_name", "here", "used"),
    [("H100", "l40s", "h100"), ("A100", "a100-40gb", "a100-40gb"), ("", "l40s", "l40s"), ("RTX-9000", "l40s", "l40s")],
)
def test_this_machine_s_gpu_counts_unless_ray_names_another_kind(
    ray_name: str, here: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_layout, "gpu_here", lambda: hardware_named(here))
    assert known_hardware(None, nodes(2, gpu_name=ray_name)).hardware.name == used


def test_of_several_kinds_the_slowest_counts() -> None:
    found = known_hardware(None, (*nodes(1, gpu_name="H200"), *nodes(1, gpu_name="A100-80G")))
    assert found.hardware.name == "a100-80gb"
    assert "slowest" in found.about


def test_hardware_from_a_file_is_what_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(hardware_to_json(hardware_named("l40s")))
    assert hardware_named_or_in(str(file)) == hardware_named("l40s")


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), ("{", "JSON"), ('{"name": "x"}', "bytes_per_second|memory_bytes")],
)
def test_a_file_that_is_no_hardware(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"^hardware: .*({told})"):
        hardware_named_or_in(str(file))


def test_a_speed_of_zero_is_no_hardware(tmp_path: Path) -> None:
    values = json.loads(hardware_to_json(hardware_named("l40s"))) | {"bytes_per_second": 0}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="bytes_per_second: it must be a number above 0"):
        hardware_named_or_in(str(file))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"replicas": "judger=auto"}, "auto chooses the replicas of all agents"),
        ({"replicas": "auto=2"}, "auto chooses the replicas of all agents"),
        ({"replicas": "auto", "placement": "spread"}, "^placement: .*it must be auto, pack or colocate"),
        ({"replicas": "auto", "hardware": "h300"}, "^hardware: .*its figures are not known"),
        ({"replicas": "planner+nobody=1"}, "there is no agent 'nobody'"),
        ({"replicas": "planner+planner=1"}, "each agent once in a set"),
        ({"replicas": "planner+critic=1,critic+planner=2"}, "each agent once in a set, and each set once"),
        ({"replicas": "planner+=1"}, "^replicas: "),
        ({"replicas": "planner+critic=1", "placement": "colocate"}, "placement colocate excludes"),
        ({"replicas": "planner+critic=1", "placement": "spread"}, "placement spread excludes"),
        ({"replicas": "planner+critic=1", "min_replicas": 1}, "leave min_replicas out"),
        ({"replicas": "auto", "min_replicas": 1}, "^min_replicas: .*leave it out"),
        ({"replicas": "planner+critic=1", "tp": 2}, "with tp 2 none can"),
    ],
)
def test_replicas_that_contradict(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        LatentMAS("tiny", **fields)


def test_replicas_of_agents_that_share_are_counted() -> None:
    config = make_config({"replicas": "planner+judger=1, judger=7"})
    assert config.most_replicas == 8
    assert devices_by_agents(config.replicas, ("planner", "critic", "judger")) == {
        ("planner", "judger"): 1,
        ("judger",): 7,
        ("critic",): 1,
    }
    assert devices_by_agents({"planner": 2}, ("planner",)) is None


def test_texts_have_the_length_that_is_published_for_their_task() -> None:
    assert text_tokens_of("gsm8k", "latent") == 586
    assert text_tokens_of("gsm8k", "text") == 721
    assert text_tokens_of("AIME24", "single") == 12077
    assert text_tokens_of("chain", "latent") is None


def test_what_a_layout_reaches_is_measured_after_the_warm_up() -> None:
    layout = planner(nodes(1, gpu_name="H100")).layout
    assert layout is not None
    meter = SpeedMeter(layout)
    assert meter.measure(1.0) is None
    meter.begin(10.0)
    for _ in range(6):
        meter.add({"planner": 0.5, "judger": 4.0})
    speed = meter.measure(12.0)
    assert speed is not None
    assert speed.questions_per_second == 3.0
    assert speed.devices == {"planner": 1.5, "judger": 12.0}
    assert speed.predicted_questions_per_second == layout.prediction.questions_per_second
    assert "judger 12.00 (" in speed.describe()


def test_what_is_reached_with_other_latent_steps_is_not_compared() -> None:
    """Runs with several numbers of latent steps share their actors, whose layout was predicted for one of them."""
    layout = planner(nodes(1, gpu_name="H100"), latent_steps=40).layout
    told = list[LayoutMeasured]()

    def answers(config: RunConfig, *_: object) -> Generator[Result, None, None]:
        yield from (make_answer(number, config) for number in range(60))

    summaries = Evaluation(
        make_config({"replicas": "auto", "batch_size": 2}),
        make_questions(60),
        pinned={},
        check=lambda config: None,
        start=lambda _: RuntimeInfo(bytes_per_token=1, memory_limit_bytes=1, description="", layout=layout),
        run=answers,
        observe=told.append,  # type: ignore[arg-type]
    ).run(None, [0, 40], lambda seed: None)
    assert isinstance(summaries, dict)
    speeds = {steps: one.layout_speed for steps, one in summaries.items() if isinstance(one, Summary)}
    assert speeds[0] is None
    assert speeds[40] is not None
    assert len(told) == 1
