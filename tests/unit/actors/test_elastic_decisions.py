"""What is added and retired when nodes come and go: pure decisions."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from latentmas_ray.actors.elastic.decide import Addition, Room, Situation, Standing, decide, find_shift
from latentmas_ray.actors.elastic.follow import places_on
from latentmas_ray.actors.elastic.nodes import NodeSupply
from latentmas_ray.placement import ReplicaId
from latentmas_ray.placement.resources import ActorResources

THINKER, JUDGER = ("thinker",), ("judger",)


def at(agents: tuple[str, ...], number: int, node: str, **more: bool) -> Standing:
    return Standing(replica_id=ReplicaId(agents, number), nodes=(node,), **more)


def decisions(
    standing: Sequence[Standing],
    rooms: Mapping[str, Room],
    asked: tuple[int, int] = (1, 1),
    most: tuple[int | None, int | None] | None = None,
    **more: Any,
) -> list[tuple[str, str]]:
    """What is added where and what retires, for a thinker and a judger."""
    situation = Situation(
        standing=standing,
        rooms=rooms,
        asked=dict(zip((THINKER, JUDGER), asked, strict=True)),
        most=dict(zip((THINKER, JUDGER), most or asked, strict=True)),
        writers=frozenset([JUDGER]),
        **more,
    )
    return [
        (
            "+".join(one.agents),
            one.node + (" squeezed" if one.squeezed else "") + (f" for {one.instead_of}" if one.instead_of else ""),
        )
        if isinstance(one, Addition)
        else (str(one.replica_id), "retires")
        for one in decide(situation)
    ]


PAIR = [at(THINKER, 0, "a"), at(JUDGER, 0, "a")]
CASES = [
    pytest.param(PAIR, {"a": Room(places=0), "b": Room(places=2)}, {}, [], id="a run keeps to what it asks for"),
    pytest.param(
        PAIR,
        {"a": Room(places=0), "b": Room(places=2)},
        {"most": (None, None)},
        [("judger", "b"), ("judger", "b")],
        id="before anything is measured text agents grow",
    ),
    pytest.param(
        PAIR,
        {"b": Room(places=3)},
        {"most": (None, None), "load": {THINKER: 3.0, JUDGER: 2.0}},
        [("thinker", "b"), ("judger", "b"), ("thinker", "b")],
        id="the agent with the most work for each replica grows",
    ),
    pytest.param(
        PAIR, {"b": Room(places=9)}, {"most": (1, 2)}, [("judger", "b")], id="no agent grows beyond what it may have"
    ),
    pytest.param([at(THINKER, 0, "a")], {"a": Room(places=1)}, {}, [("judger", "a")], id="a lost replica comes back"),
    pytest.param(
        PAIR,
        {"a": Room(places=5, is_draining=True), "b": Room(places=2)},
        {},
        [("thinker", "b"), ("judger", "b")],
        id="replacements start before the only replicas retire",
    ),
    pytest.param(
        [*PAIR, at(THINKER, 1, "b", is_ready=False), at(JUDGER, 1, "b")],
        {"a": Room(places=0, is_draining=True), "b": Room(places=0)},
        {},
        [("judger 0", "retires")],
        id="one retires when another is ready",
    ),
    pytest.param(
        PAIR,
        {"a": Room(places=0, is_draining=True), "b": Room(places=1, can_squeeze=True)},
        {},
        [("thinker", "b"), ("judger", "b squeezed")],
        id="the last replica of an agent finds a place without free cores",
    ),
    pytest.param(
        [*PAIR, at(THINKER, 1, "b"), at(JUDGER, 1, "b")],
        {"a": Room(places=0, is_draining=True), "b": Room(places=0, can_squeeze=True)},
        {"asked": (2, 2)},
        [("thinker 0", "retires"), ("judger 0", "retires")],
        id="others do its work where nothing is free",
    ),
    pytest.param(
        PAIR,
        {"a": Room(places=0), "b": Room(places=2)},
        {"planned": {"a": 1, "b": 1}},
        [("judger", "b for judger 0")],
        id="one moves to a node that a new plan would use",
    ),
    pytest.param(
        [*PAIR, at(JUDGER, 1, "b", is_ready=False)],
        {"a": Room(places=0), "b": Room(places=1)},
        {"planned": {"a": 1, "b": 1}},
        [],
        id="nothing moves while another starts",
    ),
]


@pytest.mark.parametrize(("standing", "rooms", "more", "expected"), CASES)
def test_what_is_added_and_what_retires(
    standing: list[Standing], rooms: dict[str, Room], more: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert decisions(standing, rooms, **more) == expected


@pytest.mark.parametrize(
    ("gpus", "cpus", "share", "threads", "tp", "places"),
    [
        (8.0, 64.0, ActorResources(num_gpus=1.0, num_cpus=1.0, num_threads=1), 1, 1, 8),
        (8.0, 64.0, ActorResources(num_gpus=1.0, num_cpus=1.0, num_threads=1), 1, 2, 4),
        (1.0, 64.0, ActorResources(num_gpus=0.3333, num_cpus=1.0, num_threads=1), 1, 1, 3),
        (0.0, 16.0, ActorResources(num_gpus=0.0, num_cpus=1.0, num_threads=4), 4, 1, 4),
        (0.0, 2.0, ActorResources(num_gpus=0.0, num_cpus=1.0, num_threads=4), 4, 1, 1),
        (0.0, 0.5, ActorResources(num_gpus=0.0, num_cpus=1.0, num_threads=4), 4, 1, 0),
    ],
)
def test_how_many_replicas_fit(
    gpus: float, cpus: float, share: ActorResources, threads: int, tp: int, places: int
) -> None:
    assert places_on(NodeSupply(name="a", free_gpus=gpus, free_cpus=cpus), share, tp, threads) == places


@pytest.mark.parametrize(
    ("busy", "load", "expected"),
    [
        ((0.2, 1.0), 2.0, "thinker 1 for judger"),
        ((0.2, 0.9), 2.0, None),
        ((0.2, 1.0), 1.0, None),
        ((0.5, 1.0), 2.0, None),
    ],
    ids=["idle", "no agent is busy all the time", "no turn waits", "it would lack the replica"],
)
def test_an_idle_agent_gives_a_replica_to_the_bottleneck(
    busy: tuple[float, float], load: float, expected: str | None
) -> None:
    situation = Situation(
        standing=[*PAIR, at(THINKER, 1, "a")],
        rooms={"a": Room(places=0)},
        asked={THINKER: 2, JUDGER: 1},
        most={THINKER: 2, JUDGER: 1},
        load={JUDGER: load},
    )
    shift = find_shift(situation, dict(zip((THINKER, JUDGER), busy, strict=True)))
    assert (shift and f"{shift.replica_id} for {shift.taker[0]}") == expected
