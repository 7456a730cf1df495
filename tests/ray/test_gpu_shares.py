"""The GPU that each actor gets. The GPUs are fake: Ray only counts them and assigns one to each actor."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from latentmas_ray.runs.results import Answer
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import actors_of, drive, groups, questions_that_wait
from tests.ray.stand_ins import StandIn, turns_in

PAIR = topology(agent("planner"), agent("judger", "planner", thinks="text"))


@pytest.fixture(autouse=True)
def _two_gpus(start_ray: Callable[..., None]) -> None:
    start_ray(num_gpus=2)


def test_actors_are_pinned_to_gpus(tmp_path: Path) -> None:
    """The stand-in calls CUDA_VISIBLE_DEVICES its device, and the runtime names all devices in its description."""
    with actors_of(PAIR, partial(StandIn, tmp_path)) as (_, info):
        place, *devices, share, placement, _ = info.description.split(", ")
    assert place == "2 actors on 1 node"
    assert set(devices) == {"0", "1"}
    assert share == "1 GPU each"
    assert placement == "placement pack"


@pytest.mark.slow  # `test_actors_are_pinned_to_gpus` asks for whole ones
def test_more_actors_than_gpus_share_them(tmp_path: Path) -> None:
    """Two of them are replicas of one agent, and both have work."""
    with actors_of(PAIR, partial(StandIn, tmp_path), replicas={"judger": 3}) as started:
        _, info = started
        assert "4 actors on 1 node, 0, 1, 0.5 GPU each" in info.description
        (group,) = groups()
        assert [bundle["GPU"] for bundle in group["bundles"].values()] == [0.5] * 4
        answers = drive(*started, PAIR, questions_that_wait(6, 0.0))
    assert [answer for answer in answers.values() if not isinstance(answer, Answer)] == []
    pids = {name: {turn.pid for turn in turns_in(tmp_path) if turn.agent == name} for name in ("planner", "judger")}
    assert {name: len(pids[name]) for name in pids} == {"planner": 1, "judger": 3}


def test_actors_that_compute_on_the_cpu_leave_the_gpus_alone(tmp_path: Path) -> None:
    with actors_of(["planner"], partial(StandIn, tmp_path), uses_gpus=False) as (_, info):
        assert "torch thread" in info.description
        assert "GPU" not in info.description
