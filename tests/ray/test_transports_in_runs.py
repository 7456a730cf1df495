"""Whole runs over each transport that moves memory between processes here."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from latentmas_ray.actors import RayRuntime
from latentmas_ray.config import CodecName, TransportName
from latentmas_ray.driver import Answer, RuntimeInfo
from latentmas_ray.transport import pick_transport
from tests.ray.actor_cases import drive, questions_that_wait
from tests.ray.stand_ins import StandIn, number_of, turns_in
from tests.unit.driver_cases import agent, topology

# The first agent has two readers, the last one reads two agents.
FORK = topology(agent("first"), agent("middle", "first"), agent("last", "first", "middle", thinks="text"))
Fleet = tuple[RayRuntime, RuntimeInfo, Path]

pytestmark = pytest.mark.usefixtures("cluster")


def start(folder: Path, name: TransportName, codec: CodecName = "none") -> RayRuntime:
    names = [agent.name for agent in FORK.agents]
    return RayRuntime(names, partial(StandIn, folder), partial(pick_transport, name, codec))


@pytest.fixture(params=["shared_memory", "gloo", "object_store"], scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("turns")
    runtime = start(folder, request.param)
    try:
        info = runtime.start()
        assert f"transport {request.param}" in info.description
        yield runtime, info, folder
    finally:
        runtime.close()


@pytest.mark.parametrize("latent_steps", [0, 3])
def test_every_reader_gets_what_was_written(fleet: Fleet, latent_steps: int) -> None:
    """Whole segments, and segments in two parcels of which the second comes later."""
    runtime, info, folder = fleet
    num_before = len(turns_in(folder))
    questions = questions_that_wait(6, 0.02, size=300)
    results = drive(runtime, info, FORK, questions, batch_size=2, latent_steps=latent_steps)
    answers = [result for result in results.values() if isinstance(result, Answer)]
    assert len(answers) == len(questions)
    expected = {"middle": ["first"], "last": ["first", "middle"]}
    for turn in turns_in(folder)[num_before:]:
        assert turn.read == {name: number_of(name) for name in expected.get(turn.agent, [])}
    for transfer in (transfer for answer in answers for transfer in answer.transfers):
        assert f"transport {transfer.transport}" in info.description
        assert transfer.link == "same_node"
        assert transfer.exposed_seconds >= 0
