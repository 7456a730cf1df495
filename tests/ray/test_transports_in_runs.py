"""Whole runs over each transport that moves memory between processes here."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from latentmas_ray.actors import RayRuntime
from latentmas_ray.config import TransportName
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.transport import pick_transport
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import actors_of, drive, questions_that_wait, use_transport
from tests.ray.stand_ins import StandIn, number_of, turns_in

# The first agent has two readers, the last one reads two agents.
FORK = topology(agent("first"), agent("middle", "first"), agent("last", "first", "middle", thinks="text"))
StartedRuntime = tuple[RayRuntime, RuntimeInfo]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module")
def actors(folder: Path, cluster: None) -> Iterator[StartedRuntime]:
    with actors_of(
        FORK, partial(StandIn, folder), transport=partial(pick_transport, "shared_memory", "none")
    ) as actors:
        assert "transport shared_memory" in actors[1].description
        yield actors


@pytest.fixture(scope="module", params=["shared_memory", "gloo", "object_store"])
def transport(request: pytest.FixtureRequest, actors: StartedRuntime) -> TransportName:
    name: TransportName = request.param
    use_transport(actors[0], name)
    return name


@pytest.mark.parametrize("latent_steps", [0, 3])
def test_every_reader_gets_what_was_written(
    actors: StartedRuntime, folder: Path, transport: TransportName, latent_steps: int
) -> None:
    """Whole segments, and segments in two chunks of which the second comes later."""
    runtime, info = actors
    num_before = len(turns_in(folder))
    questions = questions_that_wait(6, 0.02, size=300)
    results = drive(runtime, info, FORK, questions, batch_size=2, latent_steps=latent_steps)
    answers = [result for result in results.values() if isinstance(result, Answer)]
    assert len(answers) == len(questions)
    expected = {"middle": ["first"], "last": ["first", "middle"]}
    for turn in turns_in(folder)[num_before:]:
        assert turn.read == {name: number_of(name) for name in expected.get(turn.agent, [])}
    for transfer in (transfer for answer in answers for transfer in answer.transfers):
        assert transfer.transport == transport
        assert transfer.link == "same_node"
        assert transfer.exposed_seconds >= 0
