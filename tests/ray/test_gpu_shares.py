"""Which GPU each actor is given. The GPUs are pretended: Ray only keeps books, and tells each actor its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.ray.actor_cases import actors_of
from tests.ray.stand_ins import StandIn

AGENTS = ("planner", "critic", "refiner", "judger")


@pytest.mark.parametrize(
    ("num_gpus", "devices", "share"), [(4, {"0", "1", "2", "3"}, "1 GPU each"), (1, {"0"}, "0.25 GPU each")]
)
def test_actors_are_pinned_to_gpus(
    start_ray: Callable[..., None], tmp_path: Path, num_gpus: int, devices: set[str], share: str
) -> None:
    """The stand-in calls CUDA_VISIBLE_DEVICES its device, and the runtime names all devices in its description."""
    start_ray(num_gpus=num_gpus)
    with actors_of(AGENTS, partial(StandIn, tmp_path)) as (_, info):
        place, *middle, told_share, placement, _ = info.description.split(", ")
    assert place == "4 actors on 1 node"
    assert set(middle) == devices
    assert told_share == share
    assert placement == "placement pack"


def test_actors_that_compute_on_the_cpu_leave_the_gpus_alone(start_ray: Callable[..., None], tmp_path: Path) -> None:
    start_ray(num_gpus=1)
    with actors_of(AGENTS, partial(StandIn, tmp_path), uses_gpus=False) as (_, info):
        assert "torch thread" in info.description
        assert "GPU" not in info.description
