"""Segments in the object store: shared without a copy, owned by the driver, alive without their producer."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ray

from latentmas_ray.actors import RayRuntime
from latentmas_ray.actors.agent_actor import AgentActor
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.errors import TransferError
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.protocol import Event, RuntimeInfo, TurnDone, TurnFailed, TurnHandle, TurnLost
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import ObjectStore, SharedMemory
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import PATIENCE_SECONDS, actors_of, drive, questions_that_wait, use_transport, wait_until
from tests.ray.stand_ins import SPEC, On, StandIn, number_of, raise_error, turns_in

pytestmark = pytest.mark.usefixtures("cluster")

NUM_QUESTIONS = 16
NAMES = ("planner", "second", "third", "judger")
# A chain in which every agent reads the one before.
CHAIN = topology(agent("planner"), *(agent(name, before) for before, name in pairwise(NAMES[:-1])),
                 agent("judger", "third", thinks="text"))  # fmt: skip
PAIR = topology(agent("planner"), agent("judger", "planner", thinks="text"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module")
def actors(cluster: None, folder: Path) -> Iterator[tuple[RayRuntime, RuntimeInfo]]:
    """Four actors for all tests. Where the file `armed` is, the planner fails on all questions but the last."""
    misbehave = [On("planner", f"q{number}", raise_error, folder / "armed") for number in range(NUM_QUESTIONS - 1)]
    with actors_of(CHAIN, partial(StandIn, folder, misbehave)) as actors:
        yield actors


@pytest.fixture
def runtime(actors: tuple[RayRuntime, RuntimeInfo]) -> RayRuntime:
    """By way of the object store."""
    use_transport(actors[0], "object_store")
    return actors[0]


def _work(agent: str, *reads: str) -> TurnRequest:
    return TurnRequest(
        agent=agent,
        batch=0,
        question_ids=("q0",),
        prompts=(Prompt(messages=({"role": "user", "content": "a question of some bytes"},)),),
        thinks="latent" if agent == "planner" else "text",
        sampling=Sampling(),
        reads=tuple(AgentMemory(name) for name in reads),
    )


def _finish(runtime: RayRuntime, ticket: TurnHandle) -> TurnResult:
    """The result of a turn, which is the only one that is not over."""
    (event,) = _outcomes(runtime)
    assert isinstance(event, TurnDone)
    assert event.handle is ticket
    return event.result


def _outcomes(runtime: RayRuntime) -> list[Event]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        events = [event for event in runtime.poll(1.0) if isinstance(event, TurnDone | TurnFailed | TurnLost)]
        if events:
            return events
    raise AssertionError("no turn finished")


def test_a_reader_on_this_machine_works_on_the_stores_own_pages(runtime: RayRuntime) -> None:
    made = runtime.submit(_work("planner"), {})
    _finish(runtime, made)
    ((chunk,),) = made.segment.chunks
    header, kv = ray.get(chunk).payload
    _, again = ray.get(chunk).payload
    assert not kv.flags.writeable
    assert kv.ctypes.data == again.ctypes.data
    reader = ObjectStore().within_one_node()
    reader.open(runtime._manager.request.key)
    segment = reader.unpack((header, kv), expected=SPEC)
    assert segment.kv_LCHTD.data_ptr() == kv.ctypes.data
    assert np.all(segment.kv_LCHTD.numpy() == number_of("planner"))


def test_a_chain_moves_every_segment_once(actors: tuple[RayRuntime, RuntimeInfo]) -> None:
    """Of N agents, O(N) bytes; handing on all memory at every step would move O(N²)."""
    use_transport(actors[0], "object_store")
    results = drive(*actors, CHAIN, questions_that_wait(3, 0.0, size=100), batch_size=2, latent_steps=1)
    answers = [result for result in results.values() if isinstance(result, Answer)]
    assert len(answers) == 3
    transfers = [transfer for answer in answers for transfer in answer.transfers]
    written = sum(answer.memory_bytes for answer in answers)
    moved = sum(transfer.moved_bytes for transfer in transfers)
    handed_on = sum(transfer.num_bytes for transfer in transfers)  # what every reader has in its cache at the end
    assert written <= moved < 1.1 * written
    assert handed_on == pytest.approx(2 * written, rel=0.05)  # (1 + 2 + 3) / 3


def test_turns_that_fail_after_their_first_chunk_leave_nothing_behind(
    actors: tuple[RayRuntime, RuntimeInfo], folder: Path
) -> None:
    """Only the actor owns shared memory, and no handle to chunks after the failure leaves it."""
    use_transport(actors[0], "shared_memory")
    armed, num_before = folder / "armed", len(turns_in(folder))
    armed.touch()
    results = drive(*actors, PAIR, questions_that_wait(NUM_QUESTIONS, 0.0, size=200), latent_steps=1)
    armed.unlink()
    assert sum(isinstance(result, Answer) for result in results.values()) == 1
    planner = next(turn.pid for turn in turns_in(folder)[num_before:] if turn.agent == "planner")
    # Two chunks of each batch in flight, and a mapping's own descriptor each; 30 turns have failed.
    wait_until(lambda: _shared_buffers(planner) <= 2 * 2 * 4, "the release of what failed turns had published")


def test_a_segment_outlives_the_actor_that_made_it(runtime: RayRuntime, folder: Path) -> None:
    made = runtime.submit(_work("planner"), {})
    written = _finish(runtime, made).segment_bytes[0]
    assert written == len("a question of some bytes") * SPEC.bytes_per_token
    os.kill(turns_in(folder)[-1].pid, signal.SIGKILL)
    dead = runtime.submit(_work("planner"), {})
    (lost,) = _outcomes(runtime)  # and not the turn that made the segment
    assert isinstance(lost, TurnLost)
    assert lost.handle is dead
    assert "the actor of agent planner died" in lost.reason
    read = runtime.submit(_work("judger", "planner"), {"planner": made.segment})
    (transfer,) = _finish(runtime, read).reads
    assert (transfer.source, transfer.transport) == ("planner", "object_store")
    assert transfer.num_bytes == written
    assert turns_in(folder)[-1].read == {"planner": number_of("planner")}


@pytest.mark.parametrize("forgotten_first", [True, False])
def test_a_discarded_turn_frees_all_that_it_packed(tmp_path: Path, forgotten_first: bool) -> None:
    """Cancelled before it started, or after it had ended without a caller of `end_turn`."""
    actor, transport = AgentActor(partial(StandIn, tmp_path), num_threads=1), SharedMemory()
    actor.load()
    actor.use_transport(transport)
    if forgotten_first:
        actor.discard_turn(7)
    work = replace(_work("planner"), latent_steps=1)
    chunk, _ = actor.begin_turn(7, work, [])
    actor.measure_prefill(1)  # comes after the turn
    if not forgotten_first:
        assert transport.unpack(chunk.payload, expected=SPEC).num_bytes
        actor.discard_turn(7)
    with pytest.raises(TransferError, match="has released it"):
        transport.unpack(chunk.payload, expected=SPEC)
    with pytest.raises(KeyError):
        actor.end_turn(7)


def _shared_buffers(pid: int) -> int:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum("latentmas" in str(link.readlink()) for link in links)
