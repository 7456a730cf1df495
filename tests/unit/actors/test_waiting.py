"""Lines about what a start waits for; no Ray."""

from typing import Any

import pytest
import ray
from ray.exceptions import RaySystemError

from latentmas_ray.actors.replicas import waiting
from latentmas_ray.actors.replicas.waiting import WaitLog, describe_missing_places


def test_a_wait_gets_a_line_after_ten_seconds_and_then_one_every_thirty(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    log = WaitLog(lambda: "places", 1800.0, clock=lambda: now[0])
    waited = []
    for second in range(100):
        now[0] = 100.0 + second
        log.update()
        if len(caplog.records) > len(waited):
            waited.append(second)
    assert waited == [10, 40, 70]
    assert caplog.records[1].getMessage() == "waiting for places (40.0 s so far; start_timeout is 30 min 00 s)"


def group(name: str, state: str, *bundles: dict[str, float]) -> dict[str, Any]:
    return {"name": name, "state": state, "placement_group_id": "ab", "bundles": dict(enumerate(bundles))}


CASES: list[tuple[dict[str, float], dict[str, float], dict[str, Any], str]] = [
    (
        {"GPU": 2.0, "CPU": 30.0},
        {"GPU": 8.0, "CPU": 64.0},
        {
            "own": group("", "PENDING", {"GPU": 1.0}),
            "other": group("train", "CREATED", *[{"GPU": 2.0, "CPU": 4.0}] * 3),
        },
        "free: 2 of 8 GPUs, 30 of 64 CPUs; held by placement group train (6 GPUs and 12 CPUs), "
        "tasks and actors without a placement group (22 CPUs)",
    ),
    (
        {"CPU": 0.5},
        {"CPU": 1.0},
        {"gone": group("gone", "REMOVED", {"CPU": 1.0}), "late": group("late", "PENDING", {"CPU": 1.0})},
        "free: 0 of 0 GPUs, 0.5 of 1 CPU; held by tasks and actors without a placement group (0.5 CPUs)",
    ),
    ({"CPU": 2.0}, {"CPU": 2.0, "GPU": 0.0}, {}, "free: 0 of 0 GPUs, 2 of 2 CPUs"),
    (
        {},
        {"GPU": 4.0},
        {"one": group("", "CREATED", {"GPU": 4.0})},
        "free: 0 of 4 GPUs; held by placement group ab (4 GPUs)",
    ),
    (
        {},
        {"GPU": 2.0},
        {"a": group("run", "CREATED", {"GPU": 1.0}), "b": group("run", "CREATED", {"GPU": 1.0})},
        "free: 0 of 2 GPUs; held by placement group run (2 GPUs)",
    ),
]


@pytest.mark.parametrize(("free", "total", "groups", "expected"), CASES)
def test_it_names_what_is_asked_what_is_free_and_who_holds_the_rest(
    monkeypatch: pytest.MonkeyPatch,
    free: dict[str, float],
    total: dict[str, float],
    groups: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(waiting, "placement_group_table", lambda: groups)
    line = describe_missing_places({"GPU": 1.0}, 3, "own")
    assert line == f"places on the cluster for 3 actors of 1 GPU each; {expected}"


def test_a_cluster_that_does_not_answer_leaves_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RaySystemError("gone")

    monkeypatch.setattr(ray, "available_resources", fail)
    assert describe_missing_places({"memory": 1.0}, 1, "own") == (
        "places on the cluster for 1 actor of any resources each"
    )
