"""Segments in the object store: shared without a copy, owned by the driver, alive without their producer."""

import os
import signal
import time
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
from latentmas_ray.errors import ConfigError, TransferError
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.protocol import Event, TurnDone, TurnFailed, TurnHandle, TurnLost
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import ObjectStore, SharedMemory, pick_transport
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import PATIENCE_SECONDS, actors_of, drive, questions_that_wait, wait_until
from tests.ray.stand_ins import SPEC, On, StandIn, number_of, raise_error, turns_in

pytestmark = pytest.mark.usefixtures("cluster")


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


def test_a_segment_outlives_the_actor_that_made_it(tmp_path: Path) -> None:
    with actors_of(["planner", "judger"], partial(StandIn, tmp_path)) as (runtime, _):
        made = runtime.submit(_work("planner"), {})
        written = _finish(runtime, made).segment_bytes[0]
        assert written == len("a question of some bytes") * SPEC.bytes_per_token
        os.kill(turns_in(tmp_path)[0].pid, signal.SIGKILL)
        dead = runtime.submit(_work("planner"), {})
        (lost,) = _outcomes(runtime)  # and not the turn that made the segment
        assert isinstance(lost, TurnLost)
        assert lost.handle is dead
        assert "the actor of agent planner died" in lost.reason
        read = runtime.submit(_work("judger", "planner"), {"planner": made.segment})
        (transfer,) = _finish(runtime, read).reads
        assert (transfer.source, transfer.transport) == ("planner", "object_store")
        assert transfer.num_bytes == written
        assert turns_in(tmp_path)[-1].read == {"planner": number_of("planner")}


def test_a_reader_on_this_machine_works_on_the_stores_own_pages(tmp_path: Path) -> None:
    with actors_of(["planner"], partial(StandIn, tmp_path)) as (runtime, _):
        made = runtime.submit(_work("planner"), {})
        _finish(runtime, made)
        ((chunk,),) = made.segment.chunks
        header, kv = ray.get(chunk).payload
        _, again = ray.get(chunk).payload
        assert not kv.flags.writeable
        assert kv.ctypes.data == again.ctypes.data
        reader = ObjectStore()
        reader.open(runtime._manager._request.key)
        segment = reader.unpack((header, kv), expected=SPEC)
        assert segment.kv_LCHTD.data_ptr() == kv.ctypes.data
        assert np.all(segment.kv_LCHTD.numpy() == number_of("planner"))


def test_a_chain_moves_every_segment_once(tmp_path: Path) -> None:
    """Of N agents, O(N) bytes; handing on all memory at every step would move O(N²)."""
    names = [f"agent{index}" for index in range(5)]
    middle = (agent(name, before) for before, name in pairwise(names[:-1]))
    chain = topology(agent(names[0]), *middle, agent(names[-1], names[-2], thinks="text"))
    with actors_of(chain, partial(StandIn, tmp_path)) as (runtime, info):
        results = drive(runtime, info, chain, questions_that_wait(3, 0.0, size=100), batch_size=2, latent_steps=1)
    answers = [result for result in results.values() if isinstance(result, Answer)]
    assert len(answers) == 3
    transfers = [transfer for answer in answers for transfer in answer.transfers]
    written = sum(answer.memory_bytes for answer in answers)
    moved = sum(transfer.moved_bytes for transfer in transfers)
    handed_on = sum(transfer.num_bytes for transfer in transfers)  # what every reader has in its cache at the end
    assert written <= moved < 1.1 * written
    assert handed_on == pytest.approx(2.5 * written, rel=0.05)  # (1 + 2 + 3 + 4) / 4


def test_a_transport_that_cannot_be_used_here_is_a_mistake(tmp_path: Path) -> None:
    runtime = RayRuntime(["planner"], partial(StandIn, tmp_path), partial(pick_transport, "nccl", "none"))
    try:
        with pytest.raises(ConfigError, match="transport: got 'nccl'; nccl moves memory of cuda only"):
            runtime.start()
    finally:
        runtime.close()


def test_turns_that_fail_after_their_first_chunk_leave_nothing_behind(tmp_path: Path) -> None:
    """Only the actor owns shared memory, and no handle to chunks after the failure leaves it."""
    chain = topology(agent("planner"), agent("judger", "planner", thinks="text"))
    questions = questions_that_wait(16, 0.0, size=200)
    misbehave = [On("planner", question.id, raise_error) for question in questions[:-1]]
    runtime = RayRuntime(
        ["planner", "judger"], partial(StandIn, tmp_path, misbehave), partial(pick_transport, "shared_memory", "none")
    )
    try:
        results = drive(runtime, runtime.start(), chain, questions, latent_steps=1)
        assert sum(isinstance(result, Answer) for result in results.values()) == 1
        planner = next(turn.pid for turn in turns_in(tmp_path) if turn.agent == "planner")
        # Two chunks of each batch in flight, and a mapping's own descriptor each; 30 turns have failed.
        wait_until(lambda: _shared_buffers(planner) <= 2 * 2 * 4, "the release of what failed turns had published")
    finally:
        runtime.close()


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
