"""Agents with a timer in place of a model: who works at the same time, and how much memory is held meanwhile."""

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import ray

from latentmas_ray.actors import RayRuntime
from latentmas_ray.config import TransportName
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.memory import Segment
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import QuestionAnswered, RunEvent, RunProgress
from latentmas_ray.scheduler.protocol import RuntimeInfo, TurnHandle
from latentmas_ray.transport import ObjectStore, PerLink, SharedMemory, Transport, pick_transport
from tests.cases.runtime import runtime_of
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import drive, questions_that_wait, store_bytes_used, use_transport, wait_until
from tests.ray.stand_ins import SPEC, StandIn, Turn, number_of, turns_in

EXPERTS = ("math", "code", "science")
PARALLEL = topology(*map(agent, EXPERTS), agent("summariser", *EXPERTS, thinks="text"))
# A chain of the same agents, and a fork: one has two readers, and the last one reads two. So one set of actors serves
# all tests.
CHAIN = topology(agent("math"), agent("code", "math"), agent("summariser", "code", thinks="text"))
FORK = topology(agent("math"), agent("code", "math"), agent("summariser", "math", "code", thinks="text"))


class RememberingRuntime(RayRuntime):
    """A runtime that knows which of its handles are still referenced."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.live_handles: WeakSet[TurnHandle] = WeakSet()

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        chunks = [chunk for segment in segments.values() for chunk in segment.chunks[0]]
        assert all(isinstance(chunk, ray.ObjectRef) for chunk in chunks)
        handle = super().submit(work, segments)
        self.live_handles.add(handle)
        return handle


StartedRuntime = tuple[RememberingRuntime, RuntimeInfo]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module")
def all_actors(cluster: None, folder: Path) -> Iterator[StartedRuntime]:
    transport = partial(pick_transport, "shared_memory", "none")
    agents = [*EXPERTS, "summariser"]
    runtime = runtime_of(agents, partial(StandIn, folder), transport=transport, kind=RememberingRuntime)
    try:
        info = runtime.start()
        assert "transport shared_memory" in info.description
        yield runtime, info
    finally:
        runtime.close()


@pytest.fixture
def actors(all_actors: StartedRuntime) -> StartedRuntime:
    """By way of the object store."""
    use_transport(all_actors[0], "object_store")
    return all_actors


@pytest.fixture
def turns(folder: Path) -> Callable[[], dict[tuple[str, int], Turn]]:
    """The turns of this test by agent and batch."""
    num_before = len(turns_in(folder))
    return lambda: {(turn.agent, turn.batch): turn for turn in turns_in(folder)[num_before:]}


Turns = Callable[[], dict[tuple[str, int], Turn]]


def _overlap(one: Turn, other: Turn) -> bool:
    return one.begin < other.end and other.begin < one.end


def _wall_clock_to_sum(turns: list[Turn]) -> float:
    wall_clock = max(turn.end for turn in turns) - min(turn.begin for turn in turns)
    return wall_clock / sum(turn.end - turn.begin for turn in turns)


def test_parallel_branches_run_at_the_same_time(actors: StartedRuntime, turns: Turns) -> None:
    answers = drive(*actors, PARALLEL, questions_that_wait(1, 1.0))
    assert [answer for answer in answers.values() if not isinstance(answer, Answer)] == []
    experts = [turns()[name, 0] for name in EXPERTS]
    assert len({turn.pid for turn in turns().values()}) == 4
    assert _wall_clock_to_sum(experts) < 0.6
    assert turns()["summariser", 0].begin >= max(turn.end for turn in experts)


def test_no_expert_reads_anything_and_the_summariser_reads_each_one(actors: StartedRuntime, turns: Turns) -> None:
    drive(*actors, PARALLEL, questions_that_wait(2, 0.0))
    for batch in range(2):
        assert [turns()[name, batch].read for name in EXPERTS] == [{}, {}, {}]
        assert turns()["summariser", batch].read == {name: number_of(name) for name in EXPERTS}


def test_an_agent_works_on_the_next_batch_while_its_reader_works_on_this_one(
    actors: StartedRuntime, turns: Turns
) -> None:
    num_batches = 5
    drive(*actors, CHAIN, questions_that_wait(num_batches, 0.5))
    turn_of = turns()
    assert len(turn_of) == 3 * num_batches
    for name, reader in (("math", "code"), ("code", "summariser")):
        pairs = [(turn_of[name, batch + 1], turn_of[reader, batch]) for batch in range(num_batches - 1)]
        assert sum(_overlap(*pair) for pair in pairs) >= num_batches - 2
        assert all(turn_of[name, batch].end <= turn_of[reader, batch].begin for batch in range(num_batches))
    assert _wall_clock_to_sum(list(turn_of.values())) < 0.75


class Meter:
    """Watches the object store and this process's objects during a run."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.peak_told_bytes = 0
        self.segments_seen = 0
        self._segments_before = _count_segments()  # other tests in this process may have left some

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, RunProgress):
            self.peak_bytes = max(self.peak_bytes, store_bytes_used())
            self.peak_told_bytes = max(self.peak_told_bytes, event.memory_in_flight_bytes)
        if isinstance(event, QuestionAnswered):
            self.segments_seen += max(0, _count_segments() - self._segments_before)


def _count_segments() -> int:
    return sum(isinstance(thing, Segment) for thing in gc.get_objects())


def test_memory_in_flight_is_bounded_and_ends_at_nothing(actors: StartedRuntime) -> None:
    """The driver has references only, and drops each one when its last reader is done."""
    prompt_tokens = 256
    segment_bytes = prompt_tokens * SPEC.bytes_per_token
    limit_bytes = 5 * segment_bytes  # two batches of two segments, and what the driver allows for the chat template
    questions = questions_that_wait(12, 0.2, size=prompt_tokens)
    meter = Meter()
    gc.collect()  # segments that earlier tests of this process have read
    # What the actors are made of lies there, too, and is smaller than any segment.
    wait_until(lambda: store_bytes_used() < segment_bytes, "an empty object store")
    drive(*actors, CHAIN, questions, observer=meter, memory_limit_bytes=limit_bytes, latent_steps=0)
    assert not actors[0].live_handles
    wait_until(lambda: store_bytes_used() < segment_bytes, "the release of all segments")
    # The store's figures lag: a segment that was just freed may still count.
    assert segment_bytes < meter.peak_bytes <= limit_bytes + segment_bytes
    assert segment_bytes < meter.peak_told_bytes <= limit_bytes
    assert meter.segments_seen == 0


@pytest.mark.parametrize(
    ("transport", "name"),
    [
        *((name, name) for name in ("shared_memory", "gloo", "object_store")),
        (PerLink({"same_node": SharedMemory(), "cross_node": ObjectStore()}), "shared_memory"),
    ],
)
@pytest.mark.parametrize("latent_steps", [0, 3])
def test_every_reader_gets_what_was_written(
    all_actors: StartedRuntime,
    turns: Turns,
    transport: TransportName | Transport,
    name: TransportName,
    latent_steps: int,
) -> None:
    """By every transport between processes here: whole segments, and segments in two chunks of which the second comes
    later."""
    use_transport(all_actors[0], transport)
    questions = questions_that_wait(6, 0.02, size=300)
    results = drive(*all_actors, FORK, questions, batch_size=2, latent_steps=latent_steps)
    answers = [result for result in results.values() if isinstance(result, Answer)]
    assert len(answers) == len(questions)
    expected = {"code": ["math"], "summariser": ["math", "code"]}
    for turn in turns().values():
        assert turn.read == {name: number_of(name) for name in expected.get(turn.agent, [])}
    for transfer in (transfer for answer in answers for transfer in answer.transfers):
        assert transfer.transport == name
        assert transfer.link == "same_node"
        assert transfer.exposed_seconds >= 0
