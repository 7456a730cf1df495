"""A run on actors gives what the same run in one process gives, token for token."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import ray

from latentmas_ray.actors import LocalRuntime, RayRuntime
from latentmas_ray.config import Method
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.turn import Sampling, TurnRequest
from latentmas_ray.memory import join
from latentmas_ray.memory.wire import decode_chunk, from_raw
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo, TurnHandle
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import Topology, apply_method, load_topology
from latentmas_ray.transport import Loopback
from tests.cases.runtime import runtime_of
from tests.cases.wire import to_bytes
from tests.ray.actor_cases import drive, timeless

NAMES = ("first", "second", "third", "last")
QUESTIONS = load_questions("sample", 4)
load_tiny = partial(load_runner, "tiny", dtype="float32", device="cpu", realign=True)
Started = tuple[Runtime, RuntimeInfo]


def _topology(name: str, method: Method) -> Topology:
    """A built-in topology whose agents have other names, so that one set of four actors serves all of them."""
    topology = apply_method(load_topology(name), method)
    agents = topology.agents
    renamed = dict(zip((agent.name for agent in agents), NAMES[-len(agents) :], strict=True))
    return topology.replace(
        agents=[
            agent.replace(name=renamed[agent.name], reads=[renamed[read] for read in agent.reads]) for agent in agents
        ]
    )


@pytest.fixture(scope="module")
def on_ray(cluster: None) -> Iterator[Started]:
    runtime = runtime_of(NAMES, load_tiny)
    try:
        yield runtime, runtime.start()
    finally:
        runtime.close()


@pytest.fixture(scope="module")
def local() -> Started:
    runtime = LocalRuntime(load_tiny, Loopback())
    return runtime, runtime.start()


def _rows(started: Started, topology: Topology, batch_size: int, **settings: Any) -> dict[str, dict[str, Any]]:
    results = drive(*started, topology, QUESTIONS, batch_size=batch_size, **settings)
    assert [result for result in results.values() if not isinstance(result, Answer)] == []
    return {name: timeless(result.to_row()) for name, result in results.items() if isinstance(result, Answer)}


@pytest.mark.parametrize(
    ("name", "method", "temperature", "batch_size"),
    [
        ("sequential", "latent", 0.0, 1),
        ("sequential", "latent", 0.8, 3),
        ("sequential", "latent", 0.0, 8),
        ("sequential", "text", 0.0, 3),
        ("sequential", "text", 0.8, 8),
        ("hierarchical", "latent", 0.8, 1),
        ("hierarchical", "latent", 0.0, 3),
        ("hierarchical", "latent", 0.8, 8),
        ("hierarchical", "text", 0.8, 3),
        ("single", "single", 0.0, 8),
        ("single", "single", 0.8, 1),
    ],
)
def test_answers_and_their_accounting_are_those_of_one_process(
    on_ray: Started, local: Started, name: str, method: Method, temperature: float, batch_size: int
) -> None:
    topology = _topology(name, method)
    sampling = Sampling(temperature=temperature, top_p=0.95, max_new_tokens=6)
    rows = _rows(on_ray, topology, batch_size, latent_steps=4, sampling=sampling)
    assert rows == _rows(local, topology, batch_size, latent_steps=4, sampling=sampling)
    assert rows.keys() == {question.id for question in QUESTIONS}
    assert any(row["answer_token_ids"] for row in rows.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hierarchical", {"keep_by": "reader"}),
        ("sequential", {"keep_by": "prompt", "keep_layers": "own"}),
        ("sequential", {"keep_by": "reader", "transfer": "recompute"}),
    ],
)
def test_a_share_of_the_memory_is_that_of_one_process(
    on_ray: Started, local: Started, name: str, settings: dict[str, Any]
) -> None:
    """On Ray the first chunk leaves before the thoughts: it is the same choice."""
    topology, few = _topology(name, "latent"), Sampling(max_new_tokens=4)
    rows, expected = (
        _rows(started, topology, 3, latent_steps=3, sampling=few, keep=0.25, **settings) for started in (on_ray, local)
    )
    assert rows == expected
    assert all(row["agent_evicted_bytes"] for row in rows.values())


class Keeping:
    """A runtime that passes everything on and keeps what was submitted."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.submitted: dict[str, tuple[TurnRequest, TurnHandle]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        ticket = self._runtime.submit(work, segments)
        self.submitted[work.agent] = (work, ticket)
        return ticket


def test_no_expert_sees_anothers_memory(on_ray: Started) -> None:
    """What an expert hands over is, byte for byte, what it hands over where no other expert has ever worked."""
    runtime, info = on_ray
    keeping = Keeping(runtime)
    topology = _topology("hierarchical", "latent")
    *experts, summariser = (agent.name for agent in topology.agents)
    drive(keeping, info, topology, QUESTIONS, batch_size=4, latent_steps=4, sampling=Sampling(max_new_tokens=2))
    assert set(keeping.submitted[summariser][0].segment_order()) == set(experts)
    together = {name: _bytes_of(runtime, keeping.submitted[name][1]) for name in experts}
    for expert in experts:
        work, _ = keeping.submitted[expert]
        assert work.reads == ()
        assert _bytes_of(runtime, runtime.submit(work, {})) == together[expert]
    assert len(set(together.values())) == len(experts)


def _bytes_of(runtime: RayRuntime, ticket: TurnHandle) -> bytes:
    """The segment of a turn, as bytes."""
    payloads = [ray.get(chunk).payload for chunk in ticket.segment.chunks[0]]
    authenticator = runtime._authenticator
    chunks = [decode_chunk(header, from_raw(body), authenticator=authenticator) for header, body in payloads]
    return to_bytes(join(chunks))
